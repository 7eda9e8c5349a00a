//! Working directory, root directory and umask (`struct fs_struct`).

use super::directory::Directory;
use crate::ids::MountId;
use serde::{Deserialize, Serialize};

/// Mounts over which others lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Covered {
    /// The working directory's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<MountId>,
    /// The root directory's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<MountId>,
}

impl Covered {
    fn is_none(&self) -> bool {
        *self == Covered::default()
    }
}

/// Where a process is in the file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fs {
    /// Working directory.
    pub cwd: Directory,
    /// Root directory, from the root of its mount namespace: `/` where the process is in no chroot(2).
    pub root: Directory,
    /// The mounts that these are on, as far as others lie over them: paths begin at their root directories.
    #[serde(default, skip_serializing_if = "Covered::is_none")]
    pub covered: Covered,
    /// File mode creation mask.
    pub umask: u32,
}
