//! File system watches (inotify(7)).

use crate::ids::FileId;
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// An inotify instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inotify {
    /// Its watches, by rising descriptor.
    pub watches: Vec<Watch>,
    /// Bytes of events that nobody had read (`FIONREAD`). The kernel shows them to readers only, so they do not travel;
    /// the program is told instead that events were lost (`IN_Q_OVERFLOW`).
    pub unread: u32,
}

/// One watched file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Watch descriptor.
    pub descriptor: i32,
    /// `IN_*` bits.
    pub mask: u32,
    /// What is watched.
    pub on: On,
}

/// What a watch is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum On {
    /// What lies at this path, from the root of its mount namespace.
    Path {
        /// The path.
        path: Name,
    },
    /// What has no name any more and is open as this.
    File {
        /// An open file description of it.
        file: FileId,
    },
}
