//! System V IPC and POSIX message queues (ipc_namespaces(7)): the namespace's own limits.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An own IPC namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ipc {
    /// Its sysctls, by path under `/proc/sys`: `kernel/shmmax`, `fs/mqueue/msg_max`.
    pub sysctls: BTreeMap<String, String>,
}
