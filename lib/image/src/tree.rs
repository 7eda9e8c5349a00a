//! `tree.json`: who is whose child, and what they share. The shape of the task tree, before anything is poured into it.

use crate::files::tty::Terminal;
use crate::ids::{ActionsId, FsId, Pid, SpaceId, TableId};
use crate::namespaces::nested::Nested;
use serde::{Deserialize, Serialize};

/// All processes of the container, parents before children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// The process everything else hangs from: process 1 of an own pid namespace, or the one named by `pid:N`.
    pub root: Pid,
    /// Parents before children; zombies included.
    pub processes: Vec<Process>,
    /// The highest pid given out, so that the next one is new (`/proc/sys/kernel/ns_last_pid`); own pid namespace only.
    pub last_pid: Option<Pid>,
    /// A page-aligned address at which every address space of the container has room for the stub that makes remote
    /// calls while the container is rebuilt.
    pub stub: u64,
    /// Terminals, with what is in them.
    pub terminals: Vec<Terminal>,
    /// Namespaces inside the container; absent where all of its tasks are in the same.
    #[serde(default, skip_serializing_if = "Nested::is_empty")]
    pub nested: Nested,
}

/// One process in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Process id (thread group id).
    pub pid: Pid,
    /// Parent; 0 where the parent is outside the container.
    pub ppid: Pid,
    /// Process group (`getpgid`); 0 where it is outside the container.
    pub pgid: Pid,
    /// Session (`getsid`); 0 where it is outside the container.
    pub sid: Pid,
    /// The signal the parent gets at its end; -1 where none is known.
    pub exit_signal: i32,
    /// It has a controlling terminal, which is that of its session (`tty_nr` in proc_pid_stat(5)).
    pub terminal: bool,
    /// Alive, with its record in `process/PID.json`, or dead and not yet waited for.
    pub state: State,
}

/// A first thread that is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// What `exit(2)` was told, as in `/proc/PID/stat` field 52 (`wait(2)` encoding).
    pub status: i32,
    /// Its name (`comm`).
    pub name: crate::path::Name,
}

/// Whether a process still runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum State {
    /// Alive: thread ids, the leader first.
    Alive {
        /// All thread ids; the first is the pid, unless that thread has ended.
        threads: Vec<Pid>,
        /// Its address space.
        space: SpaceId,
        /// Its descriptor table.
        table: TableId,
        /// Its working directory, root and umask, of which each process has its own record.
        fs: FsId,
        /// Its signal actions, likewise.
        actions: ActionsId,
        /// How its first thread ended, where that has and others live on: then `threads` are these.
        ended: Option<Ended>,
        /// Stopped by a signal (SIGSTOP, SIGTSTP …) when it was taken: stopped again afterwards.
        stopped: bool,
        /// `PR_SET_CHILD_SUBREAPER` is set.
        subreaper: bool,
    },
    /// A zombie.
    Dead {
        /// Wait status as in `/proc/PID/stat` field 52 (`wait(2)` encoding).
        status: i32,
        /// Its name (`comm`).
        name: crate::path::Name,
    },
}
