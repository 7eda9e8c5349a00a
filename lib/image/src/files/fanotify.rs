//! File system watches of the wider kind (fanotify(7)).

use super::inotify::On;
use serde::{Deserialize, Serialize};

/// A notification group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fanotify {
    /// What it was made with (fanotify_init(2)).
    pub flags: u32,
    /// The flags of descriptors that come with events.
    pub event_flags: u32,
    /// Made by somebody without the rights that most of it needs, so that events of others do not say whose they are.
    pub unprivileged: bool,
    /// What it watches.
    pub marks: Vec<Mark>,
    /// Bytes of events that nobody had read (`FIONREAD`). They do not travel; the program is told instead that events were lost
    /// (`FAN_Q_OVERFLOW`), unless its queue is unlimited or its events have descriptors of processes.
    pub unread: u32,
}

/// One mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// What it is on.
    pub on: On,
    /// How far it reaches from there.
    pub scope: Scope,
    /// `FAN_MARK_IGNORED_SURV_MODIFY`, `FAN_MARK_EVICTABLE`, `FAN_MARK_IGNORE`.
    pub flags: u32,
    /// Events that are told.
    pub mask: u64,
    /// Events that are not.
    pub ignored: u64,
}

/// How far a mark reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// A file or directory.
    Inode,
    /// Its mount (`FAN_MARK_MOUNT`).
    Mount,
    /// Its file system (`FAN_MARK_FILESYSTEM`).
    Filesystem,
}
