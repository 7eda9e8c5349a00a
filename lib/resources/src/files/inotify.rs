//! File system watches. Events that were queued and not read are lost: the kernel shows them to readers only.

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::search;
use crate::{Error, Result};
use image::files::inotify::{Inotify, Watch};
use image::path::Name;
use kernel::descriptor::{O_DIRECTORY, O_PATH};
use kernel::open::{self, Root};
use kernel::proc::fdinfo::{self, Watch as Seen};
use kernel::{descriptor, event};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a program may ask for: `IN_ALL_EVENTS`, `IN_ONLYDIR`, `IN_EXCL_UNLINK`, `IN_ONESHOT`. Older kernels show bits of
/// their own too, and refuse them.
const ASKED: u32 = 0xfff | 0x0100_0000 | 0x0400_0000 | 0x8000_0000;

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Inotify> {
    let mut watches = Vec::new();
    for watch in file.fdinfo.inotify()? {
        let path = path(&watch, collector).ok_or_else(|| {
            Error::Refused(format!(
                "{}: what its inotify watch {} (inode {}) is on was not found; it is deleted or outside the container: remove the watch",
                file.holder, watch.descriptor, watch.inode
            ))
        })?;
        watches.push(Watch {
            descriptor: watch.descriptor,
            mask: watch.mask & ASKED,
            path,
        });
    }
    watches.sort_by_key(|watch| watch.descriptor);
    Ok(Inotify { watches })
}

/// The path of what is watched: by its file handle through each mount of its device, else by a search.
fn path(watch: &Seen, collector: &Collector) -> Option<Name> {
    let around = &collector.around;
    let device = fdinfo::device(watch.device);
    for mount in &around.mounts {
        let opened = around
            .root
            .open(
                Path::new(std::ffi::OsStr::from_bytes(&mount.mountpoint)),
                O_DIRECTORY,
            )
            .or_else(|_| around.root.open(Path::new("/"), O_DIRECTORY));
        let Ok(opened) = opened else { continue };
        if descriptor::stat(opened.as_fd()).map(|s| s.device) != Ok(device) {
            continue;
        }
        let Some((kind, handle)) = &watch.handle else {
            break;
        };
        let found = open::by_handle(opened.as_fd(), *kind, handle)
            .and_then(|fd| open::path_of(fd.as_fd()))
            .ok()
            .and_then(|path| around.inside(&Name::from(path.as_path())));
        if let Some(path) = found
            && around.leads_to(&path, device, watch.inode)
        {
            return Some(path);
        }
    }
    search::anywhere(&around.root, Path::new("/"), device, watch.inode)
}

/// Makes one without watches.
pub(crate) fn restore(_record: &Inotify) -> Result<OwnedFd> {
    Ok(event::inotify()?)
}

/// Adds the watches, when nothing of ours happens in the container's file systems any more.
pub(crate) fn resume(record: &Inotify, fd: BorrowedFd, root: &Root) -> Result<()> {
    for watch in &record.watches {
        let target = root.open(watch.path.as_path(), O_PATH)?;
        event::watch(fd, target.as_fd(), watch.mask, watch.descriptor)?;
    }
    Ok(())
}
