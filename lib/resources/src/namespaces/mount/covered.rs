//! Mounts over which others lie: the order in which that comes about, which ones nobody reaches any more, and how they are
//! reached nevertheless, in a copy of the mount namespace from which the others are taken off.

use super::{FRESH, beginning, on_host, path};
use crate::namespaces::is_own;
use crate::{Error, Result};
use image::ids::MountId;
use kernel::namespaces::Kind;
use kernel::nsfs::with_copied_mounts;
use kernel::open::Root;
use kernel::proc::mountinfo;
use kernel::{Pid, descriptor, within};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// Mounts by their ids, each a descriptor of its root directory (or file): what no path leads to.
pub type Covered = BTreeMap<MountId, OwnedFd>;

/// The same once more.
pub fn copies(covered: &Covered) -> Result<Covered> {
    let copy = |(id, fd): (&MountId, &OwnedFd)| Ok((*id, descriptor::duplicate(fd.as_fd())?));
    covered.iter().map(copy).collect()
}

/// Puts mounts into the order in which they can be made: parents before children, what covers after what is covered.
/// mountinfo is in the order of ids, which is not always that of making.
pub(super) fn in_order(mounts: Vec<mountinfo::Mount>) -> Vec<mountinfo::Mount> {
    let ids: BTreeSet<u32> = mounts.iter().map(|m| m.id).collect();
    let later = coverers(&mounts);
    let mut placed = BTreeSet::new();
    let mut ordered = Vec::with_capacity(mounts.len());
    let mut waiting = mounts;
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut held = Vec::new();
        for mount in waiting {
            let has_parent = !ids.contains(&mount.parent)
                || placed.contains(&mount.parent)
                || mount.id == mount.parent;
            let below = later.get(&mount.id);
            if has_parent && below.is_none_or(|below| below.is_subset(&placed)) {
                placed.insert(mount.id);
                ordered.push(mount);
            } else {
                held.push(mount);
            }
        }
        waiting = held;
        if waiting.len() == before {
            ordered.append(&mut waiting); // a circle: no kernel says so
        }
    }
    ordered
}

/// The mounts to whose mount points others cover the way, and all those which they cover so.
fn coverers(mounts: &[mountinfo::Mount]) -> BTreeMap<u32, BTreeSet<u32>> {
    let mut children: BTreeMap<u32, BTreeMap<&[u8], u32>> = BTreeMap::new();
    for mount in mounts.iter().filter(|m| m.id != m.parent) {
        let siblings = children.entry(mount.parent).or_default();
        siblings.insert(&mount.mountpoint, mount.id);
    }
    let mut found = BTreeMap::new();
    for siblings in children.values() {
        for (place, id) in siblings {
            let mut above = place.to_vec();
            if above.last() != Some(&b'/') {
                above.push(b'/');
            }
            let beneath = siblings.range(&above[..]..);
            let beneath = beneath.take_while(|(other, _)| other.starts_with(&above));
            let mut waiting: Vec<u32> = beneath.map(|(_, other)| *other).collect();
            let mut all = BTreeSet::new();
            while let Some(one) = waiting.pop().filter(|one| one != id) {
                if all.insert(one) {
                    waiting.extend(children.get(&one).into_iter().flat_map(BTreeMap::values));
                }
            }
            if !all.is_empty() {
                found.insert(*id, all);
            }
        }
    }
    found
}

/// Mounts that nobody reaches: those over whose root, or over the way to which, another one is mounted, and what is mounted
/// in them but for that.
pub(super) fn covered(mounts: &[mountinfo::Mount]) -> BTreeSet<u32> {
    let place: BTreeMap<u32, &[u8]> = mounts.iter().map(|m| (m.id, &m.mountpoint[..])).collect();
    let covers =
        |m: &mountinfo::Mount| m.id != m.parent && place.get(&m.parent) == Some(&&m.mountpoint[..]);
    let mut covered: BTreeSet<u32> = mounts
        .iter()
        .filter(|m| covers(m))
        .map(|m| m.parent)
        .collect();
    let on_the_way = |m: &mountinfo::Mount, other: &mountinfo::Mount| {
        let (here, there) = (path(&m.mountpoint), path(&other.mountpoint));
        other.parent == m.parent && other.id != m.parent && here != there && here.starts_with(there)
    };
    // Parents come first. What lies on top of another is hidden where that would be without it.
    let mut hidden = BTreeSet::new();
    for mount in mounts.iter().filter(|m| m.id != m.parent) {
        let is_hidden = match covers(mount) {
            true => hidden.contains(&mount.parent),
            false => {
                covered.contains(&mount.parent)
                    || mounts.iter().any(|other| on_the_way(mount, other))
            }
        };
        if is_hidden {
            hidden.insert(mount.id);
            covered.insert(mount.id);
        }
    }
    covered
}

/// Whether a covered mount travels: it has content, or is the host's.
pub(super) fn travels(mount: &mountinfo::Mount, host: &[mountinfo::Mount]) -> bool {
    let whole = mount.root == b"/";
    let known =
        matches!(mount.fstype.as_str(), "tmpfs" | "ramfs") || FRESH.contains(&&*mount.fstype);
    known && whole || !known && on_host(mount, host).is_some()
}

/// The covered mounts of the container whose first process this is, as far as they travel: each with its mountinfo.
fn all(first: Pid) -> Result<Vec<mountinfo::Mount>> {
    let host = mountinfo::read_own()?;
    let ordered = in_order(beginning::mounts(first)?);
    let covered = covered(&ordered);
    let mut all = ordered;
    all.retain(|m| covered.contains(&m.id) && !of_host(m, &host) && travels(m, &host));
    Ok(all)
}

/// The same, each with its place as the container's processes say it, and its root directory.
pub(crate) fn roots(first: Pid) -> Result<Vec<(PathBuf, MountId, Root)>> {
    if !is_own(first, Kind::Mount)? {
        return Ok(Vec::new());
    }
    let all = all(first)?;
    let mut reached = reach(first, &all.iter().map(|mount| mount.id).collect())?;
    let mut roots = Vec::new();
    for mount in all {
        let id = MountId(mount.id);
        let place = path(&mount.mountpoint).to_path_buf();
        if let Some(fd) = reached.remove(&id) {
            let shown = format!("the mount at {}", place.display());
            roots.push((place, id, Root::from_fd(fd, shown)));
        }
    }
    Ok(roots)
}

/// Whether the host has the same mount at the same place.
pub(super) fn of_host(mount: &mountinfo::Mount, host: &[mountinfo::Mount]) -> bool {
    host.iter().any(|h| {
        h.device == mount.device && h.root == mount.root && h.mountpoint == mount.mountpoint
    })
}

/// Descriptors of covered mounts of the container whose first process this is. They are of a copy of its mount namespace that
/// is gone by then: in the container nothing is touched.
pub(crate) fn reach(first: Pid, wanted: &BTreeSet<u32>) -> Result<Covered> {
    if wanted.is_empty() {
        return Ok(Covered::new());
    }
    if !is_own(first, Kind::User)? {
        return take_off(first, first, wanted, true);
    }
    // Our own copy would belong to another user namespace, where nothing could be taken off.
    with_copied_mounts(first, |copy| Ok(take_off(first, copy, wanted, false)))?
}

/// Takes off mounts one by one until all that are wanted have been seen: in a copy that process `copy` is in, or in a copy of
/// that.
fn take_off(first: Pid, copy: Pid, wanted: &BTreeSet<u32>, anew: bool) -> Result<Covered> {
    let mut found = Covered::new();
    let ordered = in_order(beginning::mounts(first)?);
    within(copy, &[beginning::namespace(first)?], || -> Result<()> {
        let fail = |what: &str, e: nix::Error| kernel::Error::errno(what, e as i32);
        if anew {
            unshare(CloneFlags::CLONE_NEWNS).map_err(|e| fail("copy a mount namespace", e))?;
        }
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(|e| fail("make a copy of mounts private", e))?;
        for one in ordered.iter().rev() {
            let place = path(&one.mountpoint);
            if wanted.contains(&one.id) {
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let opened = nix::fcntl::open(place, flags, Mode::empty());
                let opened = opened.map_err(|e| fail("open a covered mount", e))?;
                let (major, minor) = descriptor::device(opened.as_fd())?;
                if one.device != format!("{major}:{minor}") {
                    return Err(Error::Refused(format!(
                        "the mount at {}, over which another one lies, cannot be reached: unmount what lies over it",
                        place.display()
                    )));
                }
                found.insert(MountId(one.id), opened);
                if found.len() == wanted.len() {
                    break;
                }
            }
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            umount2(place, flags).map_err(|e| {
                fail(
                    &format!("take off the mount at {}, in a copy", place.display()),
                    e,
                )
            })?;
        }
        Ok(())
    })??;
    Ok(found)
}
