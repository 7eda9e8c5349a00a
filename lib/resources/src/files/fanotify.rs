//! File system watches of the wider kind: of files, mounts and file systems. Groups that only are told. One that decides
//! whether others may go on would hold up everybody, us too, while it stands still.

use super::borrowed::{Borrowed, Seen};
use super::collect::Collector;
use super::inotify;
use super::kind::{Obstacle, obstacle};
use super::surroundings::Surroundings;
use crate::{Error, Result, Target};
use image::files::fanotify::{Fanotify, Mark, Scope};
use image::files::inotify::On;
use image::path::Name;
use kernel::descriptor::{self, O_PATH};
use kernel::open::Root;
use kernel::proc::fdinfo::{self, Marked, Watch};
use kernel::proc::{Proc, status};
use kernel::{event, fanotify};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Fanotify> {
    let group = file.fdinfo.fanotify()?;
    let mut marks = Vec::new();
    for mark in &group.marks {
        let on = place(&mark.on, &collector.around).map(|path| On::Path { path });
        let open = || match &mark.on {
            Marked::Inode(watch) => collector.open_on(key(watch)),
            _ => None,
        };
        let on = on.or_else(|| open().map(|file| On::File { file }));
        let on = on.ok_or_else(|| {
            Error::Blocked(vec![Surroundings::blocker(file.holder, lost(&mark.on))])
        })?;
        marks.push(Mark {
            on,
            scope: match mark.on {
                Marked::Inode(_) => Scope::Inode,
                Marked::Mount(_) => Scope::Mount,
                Marked::Filesystem(_) => Scope::Filesystem,
            },
            flags: mark.flags,
            mask: mark.mask,
            ignored: mark.ignored,
        });
    }
    // The kernel does not say which it is, but who may not ask for more got only this.
    let capabilities = status::read(file.holder.pid)?.mask("CapEff")?;
    Ok(Fanotify {
        flags: group.flags,
        event_flags: group.event_flags,
        unprivileged: capabilities & CAP_SYS_ADMIN == 0,
        marks,
        unread: event::unread(file.fd.as_fd())?,
    })
}

/// Refuses, before anything is frozen, what decides for others, and marks on what cannot be found.
pub(crate) fn judge(file: &Seen, around: &Surroundings) -> std::result::Result<(), Obstacle> {
    let Ok(group) = file.fdinfo.fanotify() else {
        return Err(obstacle(
            "fanotify, with marks of a kind that is not known",
            "end the program that watches",
        ));
    };
    for mark in &group.marks {
        if (mark.mask | mark.ignored) & fanotify::DECIDES != 0 {
            return Err(obstacle(
                "fanotify, which decides what others may open (FAN_OPEN_PERM and the like)",
                "all who wait for it would stand still with it; end the program that decides",
            ));
        }
        let is_open = matches!(&mark.on, Marked::Inode(watch) if around.is_open(key(watch)));
        if !is_open && place(&mark.on, around).is_none() {
            return Err(lost(&mark.on));
        }
    }
    Ok(())
}

fn key(watch: &Watch) -> (u64, u64) {
    (fdinfo::device(watch.device), watch.inode)
}

fn lost(on: &Marked) -> Obstacle {
    let what = match on {
        Marked::Inode(watch) => format!("inode {}", watch.inode),
        Marked::Mount(id) => format!("mount {id}"),
        Marked::Filesystem(device) => format!("file system {device:x}"),
    };
    obstacle(
        format!("fanotify, of which a mark ({what}) is on something that was not found"),
        "it is deleted or outside the container: remove the mark",
    )
}

/// Where what is marked is found.
fn place(on: &Marked, around: &Surroundings) -> Option<Name> {
    let mounts = around.view.mounts.iter();
    let reached = |path: &[u8]| {
        let path = Name(path.to_vec());
        let opened = around.view.root.open(path.as_path(), O_PATH).ok()?;
        Some((path, opened))
    };
    match on {
        Marked::Inode(watch) => inotify::path(watch, around),
        Marked::Mount(id) => mounts.filter(|mount| mount.id == *id).find_map(|mount| {
            let (path, opened) = reached(&mount.mountpoint)?;
            // Another may lie over it.
            (mount_of(&opened)? == *id).then_some(path)
        }),
        Marked::Filesystem(device) => mounts.rev().find_map(|mount| {
            let (path, opened) = reached(&mount.mountpoint)?;
            let found = descriptor::stat(opened.as_fd()).ok()?.device;
            (found == fdinfo::device(*device)).then_some(path)
        }),
    }
}

fn mount_of(file: &OwnedFd) -> Option<u32> {
    let own = Proc::process(std::process::id() as kernel::Pid);
    let text = own.text(&format!("fdinfo/{}", file.as_raw_fd())).ok()?;
    u32::try_from(fdinfo::parse(&text).ok()?.mount).ok()
}

/// Makes one without marks.
pub(crate) fn restore(record: &Fanotify) -> Result<OwnedFd> {
    let make = || fanotify::group(record.flags, record.event_flags);
    if !record.unprivileged {
        return Ok(make()?);
    }
    const NOBODY: u32 = 65534;
    Ok(kernel::socket::root::as_user(NOBODY, NOBODY, make)??)
}

/// Adds the marks, when nothing of ours happens in the container's file systems any more.
pub(crate) fn resume(
    record: &Fanotify,
    fd: BorrowedFd,
    root: &Root,
    target: &Target,
) -> Result<()> {
    if record.unread > 0 {
        fanotify::overflow(fd, record.flags)?;
    }
    for mark in &record.marks {
        let scope = match mark.scope {
            Scope::Inode => 0,
            Scope::Mount => fanotify::MOUNT,
            Scope::Filesystem => fanotify::FILESYSTEM,
        };
        let add = |file: BorrowedFd| -> Result<()> {
            Ok(fanotify::mark(
                fd,
                file,
                scope,
                mark.flags,
                mark.mask,
                mark.ignored,
            )?)
        };
        match &mark.on {
            On::Path { path } => add(root.open(path.as_path(), O_PATH)?.as_fd())?,
            On::File { file } => add(target.file(*file)?.as_fd())?,
        }
    }
    Ok(())
}
