//! The mounts of a mount namespace inside the container, seen against the container's own, as those are against the host's:
//! at the target the namespace begins as a copy of the container's.

pub use super::attach::Known;
use super::attach::build;
use super::base::Base;
use super::settle::settle_with;
use super::{Covered, Sorter, engine, sort};
use crate::container::Files;
use crate::namespaces::nested::{bound, processes};
use crate::{Blocker, Error, Result};
use image::ids::{MountId, NsId};
use image::namespaces::mount::{Mount, Mounts, Origin};
use image::namespaces::nested::Shown;
use image::path::Name;
use image::rootfs::Rootfs;
use kernel::Pid;
use kernel::proc::mountinfo;
use nix::mount::{MntFlags, umount2};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// The mounts.
    pub mounts: Mounts,
    /// The mount points of the container's own that are not there.
    pub gone: Vec<Name>,
    /// Of mounts of proc: process 1 of what they show, by the pid namespace's inode.
    pub processes: BTreeMap<MountId, u64>,
    /// What stands in the way.
    pub blockers: Vec<Blocker>,
}

/// Takes the mounts of process `pid`, whose container has the root process `root`. Its trees are numbered from `first` on.
pub fn dump(pid: Pid, root: Pid, first: u32) -> Result<Found> {
    let of_container = super::beginning::mounts(root)?;
    let mut sorter = Sorter {
        host: &of_container,
        foreign: bound::foreign(root)?,
        outside: &[],
        files: Files::default(),
        engine: engine::Mounts::new(None, &engine::read),
        brought: BTreeMap::new(),
        trees: first,
        covered: false,
    };
    let present = mountinfo::of_namespace(pid)?;
    let mut found = sort(pid, present.clone(), &mut sorter);
    let mut block = |place: String, what: &str, remedy: &str| {
        found.blockers.push(Blocker {
            pid,
            place,
            what: what.into(),
            remedy: remedy.into(),
        });
    };
    if let Some(top) = found
        .mounts
        .mounts
        .iter_mut()
        .find(|m| m.mountpoint.0 == b"/")
    {
        match &found.rootfs {
            Rootfs::Host => {}
            Rootfs::Directory(path) => top.origin = Origin::Bind { path: path.clone() },
            Rootfs::Travels if top.fstype == "tmpfs" => {
                top.origin = Origin::Tmpfs { tree: sorter.trees };
            }
            Rootfs::Travels | Rootfs::Layers { .. } => block(
                "root directory".into(),
                "a root file system of a mount namespace inside the container that is neither a directory of the \
                 container's nor in memory",
                "end what lives in it",
            ),
        }
    }
    let own_root = found.rootfs != Rootfs::Host;
    let there = |m: &&mountinfo::Mount| {
        own_root
            || present
                .iter()
                .any(|p| p.mountpoint == m.mountpoint && p.device == m.device)
    };
    let gone = of_container.iter().filter(|m| !there(m));
    let gone = gone.map(|m| Name(m.mountpoint.clone())).collect();
    let mut shown = BTreeMap::new();
    for one in &found.mounts.mounts {
        if one.fstype != "proc" || one.origin != (Origin::Fresh) {
            continue;
        }
        match processes(pid, one.mountpoint.as_path()) {
            Some(inode) => {
                shown.insert(one.id, inode);
            }
            None => block(
                format!("mount at {}", one.mountpoint),
                "a proc file system of a pid namespace that nobody is in, or that is covered",
                "unmount it",
            ),
        }
    }
    Ok(Found {
        mounts: found.mounts,
        gone,
        processes: shown,
        blockers: found.blockers,
    })
}

/// Makes the mounts in the calling thread's mount namespace, a copy of the container's.
pub fn restore(record: &Mounts, gone: &[Name], known: Known) -> Result<Vec<String>> {
    let base = base(record);
    let none = &[];
    if base == Base::Host {
        for place in gone.iter().rev().filter(|place| place.0 != b"/") {
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            match umount2(place.as_path(), flags) {
                // Not mounted here, or gone with what it was mounted on.
                Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
                Err(e) => {
                    let what = format!("unmount {place} inside the container");
                    return Err(kernel::Error::errno(what, e as i32).into());
                }
            }
        }
    }
    Ok(build(Some(record), &base, none, known, true)?.missing)
}

fn root(record: &Mounts) -> Option<&Mount> {
    record.mounts.iter().find(|m| m.mountpoint.0 == b"/")
}

/// What becomes the root directory.
fn base(record: &Mounts) -> Base {
    match root(record).map(|root| (root, &root.origin)) {
        Some((_, Origin::Bind { path })) => Base::Directory(path.as_path().into()),
        Some((root, Origin::Tmpfs { .. })) => Base::Tmpfs(Box::new(root.clone()), spare(record)),
        _ => Base::Host,
    }
}

/// A directory of the container's that no mount shows anything of: it is covered until the new root is entered.
fn spare(record: &Mounts) -> PathBuf {
    let free = |place: &&&str| {
        Path::new(place).is_dir()
            && !record.mounts.iter().any(|mount| match &mount.origin {
                Origin::Bind { path } => path.as_path().starts_with(place),
                Origin::Host => mount.mountpoint.as_path().starts_with(place),
                _ => false,
            })
    };
    let places = [
        "/mnt", "/media", "/srv", "/opt", "/sys", "/tmp", "/home", "/var",
    ];
    PathBuf::from(places.iter().find(free).unwrap_or(&"/sys"))
}

/// Once file trees are poured: see [`super::settle`].
pub fn settle(pid: Pid, record: &Mounts) -> Result<()> {
    settle_with(
        pid,
        record,
        base(record) != Base::Host,
        true,
        &Covered::new(),
    )
}

/// What must be known before a thread of ours enters the mount namespace of process `holder`: what is mounted there, and file
/// systems that show processes, made in each of the pid namespaces, in which `of` is a process.
pub fn known(
    holder: Pid,
    processes: &[Shown],
    of: &dyn Fn(Option<NsId>) -> Option<Pid>,
) -> Result<Known> {
    let made = processes.iter().map(|shown| {
        let pid = of(shown.of).ok_or_else(|| {
            Error::Refused("a proc file system shows a pid namespace that nobody is in".into())
        })?;
        Ok((shown.mount, kernel::mount::processes_of(pid)?))
    });
    Ok(Known {
        made: made.collect::<Result<_>>()?,
        present: mountinfo::of_namespace(holder)?,
    })
}
