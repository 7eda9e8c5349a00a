//! Signals of a process: what it does about them, and those on their way to it.

use crate::bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Actions and the queue of the process; masks and queues of single threads are theirs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signals {
    /// Actions that are not the default, at most one a signal.
    pub actions: Vec<Action>,
    /// Signals queued for the process as a whole, oldest first.
    pub pending: Vec<Pending>,
}

/// `struct sigaction` as the kernel has it (`rt_sigaction(2)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// 1 to 64.
    pub signal: i32,
    /// `SIG_DFL` 0, `SIG_IGN` 1, or the address of the handler.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to (`SA_RESTORER`).
    pub restorer: u64,
    /// Signals blocked while the handler runs, signal 1 in bit 0.
    pub mask: u64,
}

/// One queued signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// `siginfo_t`, 128 bytes, with pids and uids as the receiver sees them.
    pub siginfo: Bytes,
}
