//! Namespaces held open (`/proc/PID/ns/KIND`, namespaces(7)).

use crate::ids::NsId;
use serde::{Deserialize, Serialize};

/// One that tasks of the container are in, or a network that no process is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its file in `/proc/PID/ns`: `net`.
    pub file: String,
    /// Which of those inside the container it is; absent: the container's.
    pub of: Option<NsId>,
}
