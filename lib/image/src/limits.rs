//! Resource limits of a process, and its other settings for the process as a whole.

use serde::{Deserialize, Serialize};

/// Limits and process-wide prctls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// `/proc/PID/limits`, one a resource.
    pub resources: Vec<Limit>,
    /// `/proc/PID/oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: i32,
    /// Which memory a core dump holds (`/proc/PID/coredump_filter`); absent where the kernel makes no core dumps.
    pub coredump_filter: Option<u32>,
    /// Execution domain and its flags (`personality(2)`).
    pub personality: u32,
    /// Orphaned descendants become its children (`PR_GET_CHILD_SUBREAPER`).
    pub child_subreaper: bool,
    /// No transparent huge pages: 0, 1, or 3 where areas that ask for them have them (`PR_GET_THP_DISABLE`).
    pub thp_disable: u32,
    /// Memory is never both writable and executable (`PR_GET_MDWE`).
    pub mdwe: u32,
    /// Equal pages of its memory may be merged (`PR_GET_MEMORY_MERGE`).
    pub memory_merge: bool,
    /// Kinds of barrier that others may make it take, as the bits of the commands that register for them
    /// (`MEMBARRIER_CMD_GET_REGISTRATIONS`, membarrier(2)).
    pub membarrier: u32,
    /// The nice value of its session's autogroup (`/proc/PID/autogroup`); absent where there are none, or where the session
    /// is from outside.
    pub autogroup: Option<i32>,
    /// The user that logged in (`/proc/PID/loginuid`); absent for none.
    pub login: Option<u32>,
}

/// `struct rlimit` of one resource (`getrlimit(2)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Which.
    pub resource: Resource,
    /// In the resource's own unit; absent for no limit.
    pub soft: Option<u64>,
    /// Likewise.
    pub hard: Option<u64>,
}

/// `RLIMIT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the kernel's own names")]
pub enum Resource {
    Cpu,
    Fsize,
    Data,
    Stack,
    Core,
    Rss,
    Nproc,
    Nofile,
    Memlock,
    As,
    Locks,
    Sigpending,
    Msgqueue,
    Nice,
    Rtprio,
    Rttime,
}
