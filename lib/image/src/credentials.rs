//! Who a task is, and what it may do (credentials(7), capabilities(7), seccomp(2)). The kernel keeps these for each thread.

use crate::bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The credentials of a thread; those of the leader are the process's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// User ids, as the container's user namespace has them.
    pub uid: Ids,
    /// Group ids, likewise.
    pub gid: Ids,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// `SECBIT_*` (`PR_GET_SECUREBITS`).
    pub securebits: u32,
    /// `PR_GET_NO_NEW_PRIVS`: cannot be undone.
    pub no_new_privs: bool,
    /// What seccomp permits.
    pub seccomp: Seccomp,
    /// `PR_GET_DUMPABLE`; the whole process has one.
    pub dumpable: u32,
}

/// Real, effective, saved set and file system id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the kernel's own names")]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    pub filesystem: u32,
}

/// Capability sets, capability 0 in bit 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the kernel's own names")]
pub struct Capabilities {
    pub inheritable: u64,
    pub permitted: u64,
    pub effective: u64,
    pub bounding: u64,
    pub ambient: u64,
}

/// The seccomp mode of a thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Seccomp {
    /// Everything is permitted.
    Disabled,
    /// Only read, write, exit and sigreturn.
    Strict,
    /// Filters, the oldest first.
    Filter {
        /// The stack of filters.
        filters: Vec<Filter>,
    },
}

/// A classic BPF program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// `SECCOMP_FILTER_FLAG_*` that outlive its loading (`PTRACE_SECCOMP_GET_METADATA`).
    pub flags: u64,
    /// `struct sock_filter`, 8 bytes each, at most 4096.
    pub program: Bytes,
}
