//! File system watches (inotify(7)).

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// An inotify instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inotify {
    /// Its watches, by rising descriptor.
    pub watches: Vec<Watch>,
}

/// One watched file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Watch descriptor.
    pub descriptor: i32,
    /// `IN_*` bits.
    pub mask: u32,
    /// From the root of its mount namespace.
    pub path: Name,
}
