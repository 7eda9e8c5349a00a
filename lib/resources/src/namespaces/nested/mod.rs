//! Namespaces inside the container, which some of its tasks are in and its root process is not: who is in which, who owns
//! them, and what is in them. What is particular to each kind is taken and given back by the room of that kind.
//!
//! At the target each has a *holder*, a process that makes it and keeps it until all tasks have joined it (setns(2)); a pid
//! namespace is made by the birth of its process 1, while the tree grows.

mod give;
mod take;

pub use give::{Inners, join_threads, make, settle};
pub use take::{blockers, dump};

use image::namespaces::nested::Content;
use kernel::namespaces::Kind;

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
