//! File system watches. Events that were queued and not read are shown to readers only, and lost; the program hears of it as
//! it does of any loss, by an overflow.

use super::borrowed::{Borrowed, Seen};
use super::collect::Collector;
use super::kind::{Obstacle, obstacle};
use super::search;
use super::surroundings::Surroundings;
use crate::{Error, Result, Target};
use image::files::inotify::{Inotify, On, Watch};
use image::path::Name;
use kernel::descriptor::{O_DIRECTORY, O_PATH};
use kernel::open::{self, Root};
use kernel::proc::fdinfo::{self, Watch as Watched};
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
        let key = (fdinfo::device(watch.device), watch.inode);
        let at = path(&watch, &collector.around).map(|path| On::Path { path });
        let open = || collector.open_on(key).map(|file| On::File { file });
        let on = at.or_else(open).ok_or_else(|| {
            let obstacle = lost(&watch);
            Error::Blocked(vec![Surroundings::blocker(file.holder, obstacle)])
        })?;
        watches.push(Watch {
            descriptor: watch.descriptor,
            mask: watch.mask & ASKED,
            on,
        });
    }
    watches.sort_by_key(|watch| watch.descriptor);
    Ok(Inotify {
        watches,
        unread: event::unread(file.fd.as_fd())?,
    })
}

/// Refuses, before anything is frozen, a watch on what cannot be found.
pub(crate) fn judge(file: &Seen, around: &Surroundings) -> std::result::Result<(), Obstacle> {
    for watch in file.fdinfo.inotify().unwrap_or_default() {
        let key = (fdinfo::device(watch.device), watch.inode);
        if !around.is_open(key) && path(&watch, around).is_none() {
            return Err(lost(&watch));
        }
    }
    Ok(())
}

fn lost(watch: &Watched) -> Obstacle {
    obstacle(
        format!(
            "inotify, whose watch {} (inode {}) is on something that was not found",
            watch.descriptor, watch.inode
        ),
        "it is deleted or outside the container: remove the watch",
    )
}

/// The path of what is watched: by its file handle through each mount of its device, else by a search.
pub(super) fn path(watch: &Watched, around: &Surroundings) -> Option<Name> {
    let device = fdinfo::device(watch.device);
    for mount in &around.view.mounts {
        let opened = around
            .view
            .root
            .open(
                Path::new(std::ffi::OsStr::from_bytes(&mount.mountpoint)),
                O_DIRECTORY,
            )
            .or_else(|_| around.view.root.open(Path::new("/"), O_DIRECTORY));
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
    search::anywhere(&around.view.root, Path::new("/"), device, watch.inode)
}

/// Makes one without watches.
pub(crate) fn restore(_record: &Inotify) -> Result<OwnedFd> {
    Ok(event::inotify()?)
}

/// Adds the watches, when nothing of ours happens in the container's file systems any more.
pub(crate) fn resume(record: &Inotify, fd: BorrowedFd, root: &Root, target: &Target) -> Result<()> {
    if record.unread > 0 {
        event::overflow(fd)?;
    }
    for watch in &record.watches {
        let (mask, descriptor) = (watch.mask, watch.descriptor);
        match &watch.on {
            On::Path { path } => {
                let place = root.open(path.as_path(), O_PATH)?;
                event::watch(fd, place.as_fd(), mask, descriptor)?;
            }
            On::File { file } => event::watch(fd, target.file(*file)?.as_fd(), mask, descriptor)?,
        }
    }
    Ok(())
}
