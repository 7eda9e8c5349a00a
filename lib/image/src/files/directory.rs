//! Directories.

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// From the root of its mount namespace.
    pub path: Name,
    /// It was removed, and is kept only by who has it open.
    pub deleted: bool,
    /// It was that of a process that is gone, in a proc file system (`/proc/PID/fdinfo`), where nothing is found any more.
    #[serde(default)]
    pub of_dead: bool,
    /// Permission bits; used where it is deleted.
    pub mode: u32,
}
