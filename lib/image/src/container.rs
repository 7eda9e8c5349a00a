//! `container.json`: what surrounds the processes. The first record after the header, for the vessel is made from it.

use crate::cgroups::Cgroups;
use crate::engine::Configuration;
use crate::ids::Pid;
use crate::namespaces::Namespaces;
use crate::rootfs::Rootfs;
use crate::sockets::tcp::Connections;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One container, without its processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// What made and owned it.
    pub engine: Engine,
    /// What that engine needs to make it again; none for a native one.
    pub configuration: Option<Configuration>,
    /// The name it had there.
    pub name: String,
    /// The root of its process tree, as its own pid namespace knows it: 1, or any pid where that namespace is the host's,
    /// or where process 1 was an init of ours (`namespaces.pid`).
    pub root: Pid,
    /// Each of the eight: its own, or the host's.
    pub namespaces: Namespaces,
    /// Where its root file system comes from.
    pub rootfs: Rootfs,
    /// The control groups of its root process.
    pub cgroups: Cgroups,
    /// Addresses it was reached by, loopback and link-local ones left out: those of its own network, or the host's.
    /// Sockets bound to one of them are bound to the new address where it gets another.
    pub addresses: Vec<IpAddr>,
    /// What was done about its established TCP connections with the outside.
    pub connections: Connections,
}

/// What makes containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// These tools, or nobody: a process tree in whatever namespaces it was started.
    Native,
    /// Podman.
    Podman,
    /// Docker.
    Docker,
    /// runc alone.
    Runc,
    /// crun alone.
    Crun,
}

impl Engine {
    /// All of them.
    pub const ALL: [Engine; 5] = [
        Engine::Native,
        Engine::Podman,
        Engine::Docker,
        Engine::Runc,
        Engine::Crun,
    ];

    /// As users write it: `podman`.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Native => "native",
            Engine::Podman => "podman",
            Engine::Docker => "docker",
            Engine::Runc => "runc",
            Engine::Crun => "crun",
        }
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
