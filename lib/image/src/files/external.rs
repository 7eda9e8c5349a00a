//! Standard input, output and error that lead outside the container: whoever restores it says where they lead then.

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// A file of which the other side was outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// What it was: `pipe:[4711]`, `/var/log/web.log`.
    pub was: Name,
    /// Which of the standard descriptors.
    pub stream: Stream,
}

/// 0, 1 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard input.
    Input,
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}
