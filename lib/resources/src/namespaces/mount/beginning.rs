//! Where a container's files begin: at the root directory of its first process, where that is a mount (pivot_root(2), or
//! chroot(2) to a file system of its own); after a chroot(2) to a mere directory, at the root of the mount namespace, and the
//! first process has changed its root like any other.

use crate::Result;
use crate::namespaces::is_own;
use kernel::namespaces::Kind;
use kernel::open::Root;
use kernel::proc::{Proc, mountinfo};
use kernel::{Namespace, Pid};
use std::path::PathBuf;

/// Whether they begin at the root directory of process `first`, seen by its mounts.
fn at_process(first: Pid, seen: &[mountinfo::Mount]) -> Result<bool> {
    Ok(is_own(first, Kind::Mount)? && seen.iter().any(|mount| mount.mountpoint == b"/"))
}

/// The mounts of the container whose first process this is.
pub(crate) fn mounts(first: Pid) -> Result<Vec<mountinfo::Mount>> {
    let seen = mountinfo::read(first)?;
    Ok(match at_process(first, &seen)? {
        true => seen,
        false => mountinfo::of_namespace(first)?,
    })
}

/// The directory.
pub(crate) fn root(first: Pid) -> Result<Root> {
    Ok(match at_process(first, &mountinfo::read(first)?)? {
        true => Root::of_process(first)?,
        false => Root::of(first)?,
    })
}

/// Its path, as the kernel tells it to us.
pub(crate) fn path(first: Pid) -> Result<PathBuf> {
    Ok(match at_process(first, &mountinfo::read(first)?)? {
        true => Proc::process(first).link("root")?,
        false => "/".into(),
    })
}

/// How a thread of ours comes to see them as they are seen from there.
pub(crate) fn namespace(first: Pid) -> Result<Namespace> {
    Ok(match at_process(first, &mountinfo::read(first)?)? {
        true => Namespace::Root,
        false => Namespace::Mount,
    })
}
