//! `process/PID.json`: everything one live process has for itself. Each part is the record of one room.

use crate::ids::Pid;
use crate::{credentials, files, limits, memory, signals, threads, timers};
use serde::{Deserialize, Serialize};

/// One live process, room by room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Process id.
    pub pid: Pid,
    /// Its threads, the leader first.
    pub threads: Vec<threads::Thread>,
    /// Its address space; absent where it shares one that another process carries (`CLONE_VM`).
    pub memory: Option<memory::Space>,
    /// Its descriptor table; absent where another process carries it (`CLONE_FILES`).
    pub table: Option<files::table::Table>,
    /// Working directory, root and umask.
    pub fs: files::fs::Fs,
    /// Signal actions, and signals pending for the whole process.
    pub signals: signals::Signals,
    /// Interval and POSIX timers.
    pub timers: timers::Timers,
    /// User and group ids, capabilities, securebits, no_new_privs.
    pub credentials: credentials::Credentials,
    /// Resource limits, oom score, and the process-wide prctls.
    pub limits: limits::Limits,
}
