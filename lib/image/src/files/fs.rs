//! Working directory, root directory and umask (`struct fs_struct`).

use super::directory::Directory;
use serde::{Deserialize, Serialize};

/// Where a process is in the file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fs {
    /// Working directory.
    pub cwd: Directory,
    /// Root directory, from the root of its mount namespace: `/` where the process is in no chroot(2).
    pub root: Directory,
    /// File mode creation mask.
    pub umask: u32,
}
