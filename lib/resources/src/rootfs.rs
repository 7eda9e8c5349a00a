//! File trees that travel: the contents of tmpfs mounts, and the root file system where it goes with the image. Taken
//! beneath `/proc/PID/root`, given back beneath the vessel's; both one entry at a time, with no more memory than a
//! directory's names and the hard links seen so far.

use crate::namespaces::mount;
use crate::{Error, Result};
use image::container::Container;
use image::ids::MountId;
use image::namespaces::mount::Origin;
use image::rootfs::{Rootfs, Tree};
use kernel::beneath::{self, Way};
use kernel::mount::copy as mount_copy;
use kernel::{Namespace, Pid, within};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

mod clear;
mod dress;
pub(crate) use dress::LABEL;
pub mod overlay;
mod places;
mod pour;
mod walk;

use overlay::Overlay;

pub use places::{Content, Policy};
pub use pour::Pour;

/// A tree of a container's: its name, its mount point, and its mount where no path leads there.
type Placed = (Tree, PathBuf, Option<MountId>);

/// The trees of a container, in the order they travel in.
fn trees(container: &Container) -> Vec<Placed> {
    let mut found = Vec::new();
    let (whole, changes) = match container.rootfs {
        Rootfs::Travels => (true, false),
        Rootfs::Layers { changes, layers } => (layers, changes),
        Rootfs::Host | Rootfs::Directory(_) => (false, false),
    };
    if whole {
        found.push((Tree::Root, PathBuf::from("/"), None));
    }
    if changes {
        found.push((Tree::Changes, PathBuf::from("/"), None));
    }
    for mount in container
        .namespaces
        .mount
        .own()
        .iter()
        .flat_map(|m| &m.mounts)
    {
        let tree = match mount.origin {
            Origin::Tmpfs { tree } => Tree::Tmpfs(tree),
            Origin::Volume {
                tree: Some(tree), ..
            } => Tree::Volume(tree),
            _ => continue,
        };
        let covered = mount.covered.then_some(mount.id);
        found.push((tree, mount.mountpoint.as_path().into(), covered));
    }
    found
}

/// Whether the layers of the container's image travel: they are taken while it still runs, for nothing changes in them.
pub fn has_layers(container: &Container) -> bool {
    matches!(container.rootfs, Rootfs::Layers { layers: true, .. })
}

/// Takes the layers of the root file system of this root process, as one tree.
pub fn dump_layers<W: std::io::Write>(root: Pid, out: &mut image::Writer<W>) -> Result<()> {
    let overlay = overlay(root)?;
    let view = kernel::overlay::view(&overlay.lower()?, overlay.options.user_marks)?;
    walk::walk(&view, Tree::Root, out)
}

/// Takes all other file trees of the container with this root process, which stands still.
pub fn dump<W: std::io::Write>(
    root: Pid,
    container: &Container,
    out: &mut image::Writer<W>,
) -> Result<()> {
    let trees = trees(container);
    let wanted = trees
        .iter()
        .filter_map(|(.., covered)| covered.map(|id| id.0));
    let covered = mount::covered::reach(root, &wanted.collect())?;
    for (tree, place, beneath) in trees {
        let reached = beneath.and_then(|id| covered.get(&id));
        match tree {
            tree if let Some(reached) = reached => walk::walk(reached, tree, out)?,
            Tree::Root if has_layers(container) => {}
            Tree::Changes => walk::changes(&overlay(root)?, &top(root, &place)?, out)?,
            Tree::Tmpfs(_) => whole(root, &place, tree, out)?,
            tree => walk::walk(&top(root, &place)?, tree, out)?,
        }
    }
    Ok(())
}

/// Takes file trees of mount namespaces inside the container, each beneath the root directory of one of its processes.
pub fn dump_inner<W: std::io::Write>(
    trees: &[(Pid, PathBuf, Tree)],
    out: &mut image::Writer<W>,
) -> Result<()> {
    for (pid, place, tree) in trees {
        whole(*pid, place, *tree, out)?;
    }
    Ok(())
}

/// A memory file system, also what lies in it under other mounts.
fn whole<W: std::io::Write>(
    pid: Pid,
    place: &Path,
    tree: Tree,
    out: &mut image::Writer<W>,
) -> Result<()> {
    let top = top(pid, place)?;
    let bare = bare(pid, &top)?;
    walk::walk(bare.as_ref().unwrap_or(&top), tree, out)
}

/// The overlay that is the root file system of this root process.
fn overlay(root: Pid) -> Result<Overlay> {
    Overlay::of(root)?.ok_or_else(|| {
        Error::Refused("the container's root file system is no overlay any more".into())
    })
}

/// The root directory of the mount at `place` in the container of process `pid`.
fn top(pid: Pid, place: &Path) -> Result<OwnedFd> {
    let root = mount::beginning::root(pid)?;
    Ok(beneath::open(
        root.fd(),
        place,
        Way::InRoot,
        OFlag::O_PATH | OFlag::O_DIRECTORY,
        0,
    )?)
}

/// A mount of process `pid` without what is mounted in it, so that what lies under that is seen; none, where the kernel makes
/// no such copy: of one that is unbindable, or under what a user namespace may not take off.
fn bare(pid: Pid, top: &OwnedFd) -> Result<Option<OwnedFd>> {
    let copied = within(pid, &[Namespace::Mount], || mount_copy(top.as_fd()))?;
    match copied {
        Err(e) if matches!(e.raw(), Some(libc::EINVAL | libc::EPERM)) => Ok(None),
        copied => Ok(Some(copied?)),
    }
}

/// A path that leads to the very file of a descriptor opened with O_PATH.
fn link(fd: BorrowedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn failed(what: impl Into<String>, errno: Errno) -> Error {
    kernel::Error::errno(what, errno as i32).into()
}
