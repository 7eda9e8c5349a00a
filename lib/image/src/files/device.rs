//! Device nodes without state of their own: `/dev/null` and its kin (mem(4), null(4), random(4)).

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// A character device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// From the root of its mount namespace.
    pub path: Name,
    /// Major number of `st_rdev`.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Opened by whoever made the container, through a mount the container does not have (standard input on `/dev/null`).
    pub outside: bool,
    /// Permission bits of a node that has no name any more; absent: it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u32>,
}
