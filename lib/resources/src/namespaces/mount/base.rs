//! What becomes the root directory of a mount namespace, and how it is entered.

use super::KEPT;
use super::attach::{bind, call, flags, options};
use crate::namespaces::user::inside;
use crate::{Error, Result};
use image::namespaces::mount::Mount;
use image::namespaces::user::{Range, Users};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What becomes the root directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The host's root stays.
    Host,
    /// A directory, as it is.
    Directory(PathBuf),
    /// A file system in memory, made over a directory that nothing is bound from.
    Tmpfs(Box<Mount>, PathBuf),
    /// An overlay, so that the directory below it is never changed and many containers can share it.
    Overlay {
        /// The directory below.
        lower: PathBuf,
        /// The container's own, with [`UPPER`], [`WORK`] and [`MERGED`] in it.
        kept: PathBuf,
    },
}

/// What the container has changed, in its own directory.
pub const UPPER: &str = "changes";
/// Where overlayfs prepares changes.
pub const WORK: &str = "work";
/// Where its root is mounted before it becomes one.
pub const MERGED: &str = "merged";

impl Base {
    /// The directory that becomes the root, mounted; none: the host's root stays.
    pub(super) fn mount(&self) -> Result<Option<PathBuf>> {
        match self {
            Base::Host => Ok(None),
            Base::Tmpfs(root, place) => {
                let (kind, data) = (Some("tmpfs"), options(root));
                let flags = flags(&root.options) - MsFlags::MS_RDONLY;
                call("mount a root file system in memory", || {
                    mount(kind, place, kind, flags, Some(&*data))
                })?;
                Ok(Some(place.clone()))
            }
            Base::Directory(directory) => {
                bind(directory, directory)?;
                Ok(Some(directory.clone()))
            }
            Base::Overlay { lower, kept } => {
                let merged = kept.join(MERGED);
                dress_as(lower, &kept.join(UPPER))?;
                let mut data = OsString::from("lowerdir=");
                data.push(escaped(lower));
                for (name, at) in [(",upperdir=", UPPER), (",workdir=", WORK)] {
                    data.push(name);
                    data.push(escaped(&kept.join(at)));
                }
                let kind = Some("overlay");
                mount(kind, &merged, kind, MsFlags::empty(), Some(&*data)).map_err(|e| {
                    Error::Refused(format!(
                        "no overlay can be made in {} over the root file system {}: {}; {KEPT} has to be on a file \
                         system that overlayfs(5) can write to (ext4, xfs, btrfs, tmpfs): mount one there",
                        kept.display(),
                        lower.display(),
                        e.desc()
                    ))
                })?;
                Ok(Some(merged))
            }
        }
    }
}

/// The files of a directory below, which belong to users as a container image has them, are those of a user namespace's in the
/// calling thread's mount namespace; a directory whose owner the namespace knows already stays as it is.
pub fn map_owners(lower: &Path, maps: &Users, users: BorrowedFd) -> Result<()> {
    let fail = |e: std::io::Error| kernel::Error::io(format!("open {}", lower.display()), &e);
    let directory = std::fs::File::open(lower).map_err(fail)?;
    let owner = directory.metadata().map_err(fail)?.uid();
    let known = inside(&maps.uids, owner).is_some();
    let on_disk = |range: &Range| {
        owner
            .checked_sub(range.inside)
            .is_some_and(|n| n < range.count)
    };
    if known || !maps.uids.iter().any(on_disk) {
        return Ok(());
    }
    kernel::mount::map_owners(directory.as_fd(), users).map_err(|e| {
        Error::Refused(format!(
            "the files in {} cannot be given to the users of the container's user namespace ({e}); name a copy that belongs to \
             them (--rootfs DIR, chown)",
            lower.display()
        ))
    })
}

/// The root directory of an overlay looks as the one above does: which is to look as the one below.
fn dress_as(lower: &Path, upper: &Path) -> Result<()> {
    let fail = |e: std::io::Error| kernel::Error::io(format!("dress {}", upper.display()), &e);
    let looks = std::fs::metadata(lower).map_err(fail)?;
    std::os::unix::fs::chown(upper, Some(looks.uid()), Some(looks.gid())).map_err(fail)?;
    std::fs::set_permissions(upper, looks.permissions()).map_err(fail)?;
    Ok(())
}

/// A path as an option of overlayfs, where commas and colons part one from the next.
fn escaped(path: &Path) -> OsString {
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if b",:\\".contains(byte) {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    OsString::from_vec(bytes)
}

/// Makes a directory, already a mount, the root of the calling process's mount namespace.
pub(super) fn enter(root: &Path) -> Result<()> {
    call("enter the root file system", || {
        nix::unistd::chdir(root)?;
        // The old root comes to lie over the new one, and is taken off (pivot_root(2), the last example).
        nix::unistd::pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        nix::unistd::chdir("/")
    })
}
