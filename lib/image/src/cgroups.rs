//! Control groups (cgroups(7)): where the container's root process was.

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// The membership of the root process, from `/proc/PID/cgroup`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cgroups {
    /// One for each hierarchy.
    pub memberships: Vec<Membership>,
}

/// One line of `/proc/PID/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// `freezer`, `cpu,cpuacct`, `name=systemd`; empty for the unified hierarchy (v2).
    pub controllers: String,
    /// The group, from the root of the hierarchy.
    pub path: Name,
}
