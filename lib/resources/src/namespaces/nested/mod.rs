//! Namespaces inside the container, which some of its tasks are in and its root process is not: who is in which, who owns
//! them, and what is in them. What is particular to each kind is taken and given back by the room of that kind.
//!
//! At the target each has a *holder*, a process that makes it and keeps it until all tasks have joined it (setns(2)); a pid
//! namespace is made by the birth of its process 1, while the tree grows.

pub(crate) mod bound;
mod give;
mod members;
mod take;

pub use give::{Inners, make, settle, settle_mounts, trees};
pub use members::{create_threads, join_users};
pub use take::{Sights, blockers, dump};

use image::namespaces::nested::Content;
use kernel::namespaces::Kind;
use std::os::fd::AsRawFd;

/// The kind of a namespace by its record.
fn kind(content: &Content) -> Kind {
    match content {
        Content::Mount { .. } => Kind::Mount,
        Content::Network { .. } => Kind::Network,
        Content::Pid { .. } => Kind::Pid,
        Content::User { .. } => Kind::User,
        Content::Ipc { .. } => Kind::Ipc,
        Content::Uts { .. } => Kind::Uts,
        Content::Time { .. } => Kind::Time,
        Content::Cgroup { .. } => Kind::Cgroup,
    }
}

/// Whose processes a mount of proc shows: the inode of the pid namespace, by way of its process 1. `pid` sees the mount.
pub(super) fn processes(pid: kernel::Pid, mountpoint: &std::path::Path) -> Option<u64> {
    let below = mountpoint.strip_prefix("/").ok()?;
    let root = kernel::open::Root::of(pid).ok()?;
    let place = std::path::Path::new("/proc/self/fd").join(root.fd().as_raw_fd().to_string());
    let link = std::fs::read_link(place.join(below).join("1/ns/pid")).ok()?;
    let text = link.to_string_lossy();
    text.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}
