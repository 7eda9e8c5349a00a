//! The root of the visible control groups (cgroup_namespaces(7)).

use serde::{Deserialize, Serialize};

/// An own cgroup namespace: its roots are the groups its root process is in when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roots {}
