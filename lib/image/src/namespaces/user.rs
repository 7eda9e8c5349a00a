//! User and group ids (user_namespaces(7)).

use serde::{Deserialize, Serialize};

/// An own user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// `/proc/PID/uid_map`.
    pub uids: Vec<Range>,
    /// `/proc/PID/gid_map`.
    pub gids: Vec<Range>,
}

/// One line of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}
