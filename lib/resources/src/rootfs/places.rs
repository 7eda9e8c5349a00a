//! Where the trees of an image go in a vessel, and what of it must be left alone there.

use super::{Placed, bare, overlay, top, trees};
use crate::namespaces::mount::{self, Covered};
use crate::{Error, Result};
use image::container::Container;
use image::namespaces::mount::Origin;
use image::rootfs::{Rootfs, Tree};
use kernel::Pid;
use kernel::proc::mountinfo::{self, Mount};
use nix::sys::stat::fstat;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What becomes of the content that an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// It is given back, in the place of what is there.
    Poured,
    /// It is left out: what is there stays.
    Kept,
}

/// What the maker of a vessel, or its user, has to say about single trees; all others are poured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Of what was changed on top of an image's layers.
    pub changes: Option<Content>,
    /// Of volumes, by their names in the image.
    pub volumes: BTreeMap<String, Content>,
}

/// How a tree meets what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// It does not: no member of it is made.
    LeftOut,
    /// In the end there is what the tree has, and nothing else.
    Replaces,
    /// What the tree does not speak of stays.
    Changes,
    /// There is no place for it, and it must be empty.
    Nowhere,
}

/// One tree's place.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) tree: Tree,
    /// Its root directory; none where there is no place for it.
    pub(super) top: Option<OwnedFd>,
    pub(super) how: How,
    pub(super) guard: Guard,
    /// Nothing is mounted in it as we see it: what lies under mount points is given back, too.
    pub(super) bare: bool,
}

impl Place {
    /// For one of a mount namespace inside the container, that of process `pid`.
    pub(super) fn inner(pid: Pid, place: &Path, tree: Tree) -> Result<Place> {
        let mounts = mountinfo::of_namespace(pid)?;
        let here = |m: &Mount| Path::new(OsStr::from_bytes(&m.mountpoint)) == place;
        let there = mounts.iter().any(here);
        let top = there.then(|| top(pid, place)).transpose()?;
        let in_it = match &top {
            // A mount beneath what it covers is none in it.
            Some(top) => within(&mounts, top)?,
            None => Vec::new(),
        };
        Place {
            tree,
            top,
            how: if there { How::Replaces } else { How::Nowhere },
            guard: Guard::of(&in_it, place),
            bare: false,
        }
        .bared(pid)
    }

    /// A memory file system as it is without what is mounted in it, where the kernel makes a copy of it.
    fn bared(mut self, pid: Pid) -> Result<Place> {
        if let (Tree::Tmpfs(_), How::Replaces, Some(top)) = (self.tree, self.how, &self.top)
            && let Some(copy) = bare(pid, top)?
        {
            self.top = Some(copy);
            self.bare = true;
        }
        Ok(self)
    }

    /// For layers that go into an empty directory of the host's.
    pub(super) fn of_layers(directory: &Path) -> Result<Place> {
        let top = File::open(directory)
            .map_err(|e| kernel::Error::io(format!("open {}", directory.display()), &e))?;
        Ok(Place {
            tree: Tree::Root,
            top: Some(top.into()),
            how: How::Replaces,
            guard: Guard::default(),
            bare: false,
        })
    }
}

/// Mount points in a tree. They must not go: removing one's file from outside takes
/// the mount off, in every mount namespace (fs/namei.c, `detach_mounts`).
#[derive(Debug, Default)]
pub(super) struct Guard {
    points: BTreeSet<PathBuf>,
    /// The directories that lead to them.
    above: BTreeSet<PathBuf>,
}

impl Guard {
    fn of(mounts: &[Mount], place: &Path) -> Guard {
        let mut guard = Guard::default();
        for mount in mounts {
            let point = Path::new(OsStr::from_bytes(&mount.mountpoint));
            if let Ok(point) = point.strip_prefix(place)
                && !point.as_os_str().is_empty()
            {
                let above = point.ancestors().skip(1).map(Path::to_path_buf);
                guard.above.extend(above);
                guard.points.insert(point.to_path_buf());
            }
        }
        guard
    }

    /// Whether something is mounted there.
    pub(super) fn is_point(&self, path: &Path) -> bool {
        self.points.contains(path)
    }

    /// Whether it must not go.
    pub(super) fn holds(&self, path: &Path) -> bool {
        self.points.contains(path) || self.above.contains(path)
    }
}

/// The places of all trees of a container in the vessel whose first process this is.
pub(super) fn places(
    pid: Pid,
    container: &Container,
    policy: &Policy,
    covered: &Covered,
) -> Result<Vec<Place>> {
    let mounts = mount::beginning::mounts(pid)?;
    let trees = trees(container).into_iter();
    let place = |(tree, place, beneath): Placed| {
        if let Some(id) = beneath {
            return of_covered(pid, tree, covered.get(&id), &mounts);
        }
        let (how, top) = match tree {
            Tree::Root => root(pid, container)?,
            Tree::Changes => changes(pid, policy)?,
            tree => mounted(pid, tree, &place, &mounts, container, policy)?,
        };
        let in_it = match (tree, &top) {
            // Others may lie beneath what it covers.
            (Tree::Tmpfs(_), Some(top)) => within(&mounts, top)?,
            _ => mounts.clone(),
        };
        Place {
            tree,
            top,
            how,
            guard: Guard::of(&in_it, &place),
            bare: false,
        }
        .bared(pid)
    };
    trees.map(place).collect()
}

/// The mounts on that which a directory is in.
fn within(mounts: &[Mount], top: &OwnedFd) -> Result<Vec<Mount>> {
    let id = kernel::descriptor::mount(top.as_fd())?;
    let in_it = mounts.iter();
    let in_it = in_it.filter(|mount| mount.parent == id && mount.id != id);
    Ok(in_it.cloned().collect())
}

/// For a tree over which other mounts lie. Where an engine has made the mounts there is no such place.
fn of_covered(pid: Pid, tree: Tree, top: Option<&OwnedFd>, mounts: &[Mount]) -> Result<Place> {
    let Some(top) = top else {
        return Ok(Place {
            tree,
            top: None,
            how: How::Nowhere,
            guard: Guard::default(),
            bare: false,
        });
    };
    let id = kernel::descriptor::mount(top.as_fd())?;
    let here = mounts.iter().find(|mount| mount.id == id);
    let in_it = within(mounts, top)?;
    let place = here.map_or(b"/".to_vec(), |mount| mount.mountpoint.clone());
    Place {
        tree,
        top: Some(kernel::descriptor::duplicate(top.as_fd())?),
        how: How::Replaces,
        guard: Guard::of(&in_it, Path::new(OsStr::from_bytes(&place))),
        bare: false,
    }
    .bared(pid)
}

/// A root file system that travels goes only into a directory that was made for it; where the user has named another
/// (`--rootfs`), or an engine has its own layers, that is left as it is.
fn root(pid: Pid, container: &Container) -> Result<(How, Option<OwnedFd>)> {
    let fresh = container.rootfs == Rootfs::Travels && mount::is_kept(pid)?;
    Ok(if fresh {
        (How::Replaces, Some(top(pid, Path::new("/"))?))
    } else {
        (How::LeftOut, None)
    })
}

fn changes(pid: Pid, policy: &Policy) -> Result<(How, Option<OwnedFd>)> {
    if policy.changes == Some(Content::Kept) {
        return Ok((How::LeftOut, None));
    }
    // As the host has it: also where the container may only read, and without what is mounted over it.
    let whole = match overlay::of_host(pid)? {
        Some(whole) => whole,
        None => top(pid, Path::new("/"))?,
    };
    Ok((How::Changes, Some(whole)))
}

/// The place of a tmpfs or a volume.
fn mounted(
    pid: Pid,
    tree: Tree,
    place: &Path,
    mounts: &[Mount],
    container: &Container,
    policy: &Policy,
) -> Result<(How, Option<OwnedFd>)> {
    let here = |m: &&Mount| Path::new(OsStr::from_bytes(&m.mountpoint)) == place;
    let Some(mount) = mounts.iter().rev().find(here) else {
        return Ok((How::Nowhere, None));
    };
    if matches!(tree, Tree::Volume(_)) {
        let kept = name_of(container, tree)
            .is_some_and(|name| policy.volumes.get(name) == Some(&Content::Kept));
        if kept {
            return Ok((How::LeftOut, None));
        }
        return Ok((How::Replaces, Some(volume(pid, place, mount)?)));
    }
    // What is no memory file system here belongs to somebody else: an engine has filled it, or it is a directory of the
    // user's, whatever the image says.
    if !matches!(mount.fstype.as_str(), "tmpfs" | "ramfs" | "hugetlbfs") {
        return Ok((How::LeftOut, None));
    }
    // Nobody in the container could have changed one that can only be read: its maker has filled it.
    let read_only = |options: &[String]| options.iter().any(|option| option == "ro");
    if read_only(&mount.options) || read_only(&mount.super_options) {
        return Ok((How::LeftOut, None));
    }
    Ok((How::Replaces, Some(top(pid, place)?)))
}

fn name_of(container: &Container, tree: Tree) -> Option<&str> {
    let mounts = container.namespaces.mount.own()?;
    mounts.mounts.iter().find_map(|mount| match &mount.origin {
        Origin::Volume {
            name,
            tree: Some(number),
        } if Tree::Volume(*number) == tree => Some(&**name),
        _ => None,
    })
}

/// The directory of a volume: by its path on the host, where it can be written to even if the container may only read.
fn volume(pid: Pid, place: &Path, found: &Mount) -> Result<OwnedFd> {
    let seen = top(pid, place)?;
    let same = |other: &File| {
        let ids = |stat: nix::sys::stat::FileStat| (stat.st_dev, stat.st_ino);
        matches!((fstat(&seen), fstat(other)), (Ok(a), Ok(b)) if ids(a) == ids(b))
    };
    let on_host = mount::on_host(found, &mountinfo::read_own()?);
    let on_host = on_host.and_then(|path| File::open(path).ok()).filter(same);
    Ok(on_host.map_or(seen, OwnedFd::from))
}

/// What a tree without a place would have needed.
pub(super) fn nowhere(member: &image::Member) -> Error {
    Error::Refused(format!(
        "the image has {} of a tmpfs or volume that the new container does not have; restore it natively (--engine native), \
         where all mounts are made as they were",
        member.path.display()
    ))
}
