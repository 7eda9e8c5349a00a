//! Files the kernel makes up: procfs, sysfs, cgroup file systems. Opened again by name, never compared.

use crate::ids::Pid;
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// Such a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Procfile {
    /// From the root of its mount namespace.
    pub path: Name,
    /// The process that it was about, and that is dead; absent: what it is about is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<Pid>,
}
