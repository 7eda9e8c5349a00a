//! Namespaces (namespaces(7)): each of a container's eight is the host's, or its own with what is particular to it.

use serde::{Deserialize, Serialize};

pub mod cgroup;
pub mod ipc;
pub mod mount;
pub mod nested;
pub mod network;
pub mod pid;
pub mod time;
pub mod user;
pub mod uts;

/// One namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Namespace<T> {
    /// The one `checkpoint` itself was in.
    Host,
    /// Its own.
    Own(T),
}

impl<T> Namespace<T> {
    /// What is particular to it, where it is an own one.
    pub fn own(&self) -> Option<&T> {
        match self {
            Namespace::Host => None,
            Namespace::Own(own) => Some(own),
        }
    }
}

/// All of a container's namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespaces {
    /// Mounts.
    pub mount: Namespace<mount::Mounts>,
    /// Links, addresses, routes.
    pub network: Namespace<network::Network>,
    /// Process ids.
    pub pid: Namespace<pid::Pids>,
    /// User and group ids, capabilities.
    pub user: Namespace<user::Own>,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace<ipc::Ipc>,
    /// Host and domain name.
    pub uts: Namespace<uts::Uts>,
    /// Monotonic and boot-time clocks.
    pub time: Namespace<time::Offsets>,
    /// The root of the visible control groups.
    pub cgroup: Namespace<cgroup::Roots>,
}
