//! Processes held by descriptor (pidfd_open(2)).

use crate::ids::Pid;
use serde::{Deserialize, Serialize};

/// A process descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pidfd {
    /// The process inside the container (a thread, where the flags have `PIDFD_THREAD`); absent where it is dead and
    /// was waited for.
    pub pid: Option<Pid>,
    /// What is left of a dead one.
    pub ended: Option<Ended>,
}

/// A process that is dead and was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Its inode at the source: the same for all descriptors of the same process.
    pub inode: u64,
    /// Its wait status; absent where the kernel does not keep it (before 6.15).
    pub status: Option<i32>,
}
