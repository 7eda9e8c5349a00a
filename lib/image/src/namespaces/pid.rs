//! Process ids (pid_namespaces(7)).

use serde::{Deserialize, Serialize};

/// An own pid namespace. The last pid given out is in the tree's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pids {
    /// Who process 1 is.
    pub init: Init,
}

/// Who process 1 of the namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// The container's own root process.
    Root,
    /// An init that `restore` left there, because the root process has another pid. Made anew, never in the image.
    Ours,
}
