//! Where mounts made in a container show (mount_namespaces(7)): its peer groups, and who takes from which. Groups that have
//! peers outside are left out: there it takes from the host, or is a group of its own.

use super::{Top, path};
use crate::{Error, Result};
use image::namespaces::mount::{Mount, Origin, Propagation};
use kernel::mount::{self, join, propagate};
use kernel::proc::mountinfo;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

/// The peer groups that are the container's alone.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeSet<u32>);

/// The group that a mount has with this tag.
fn tag(mount: &mountinfo::Mount, name: &str) -> Option<u32> {
    let mut numbers = mount.tags.iter().filter_map(|tag| tag.strip_prefix(name));
    numbers.find_map(|number| number.parse().ok())
}

impl Groups {
    /// Those of a container's mounts.
    pub(super) fn of(container: &[mountinfo::Mount], host: &[mountinfo::Mount]) -> Self {
        let shared = |mounts: &[mountinfo::Mount]| -> BTreeSet<u32> {
            mounts.iter().filter_map(|m| tag(m, "shared:")).collect()
        };
        Groups(&shared(container) - &shared(host))
    }

    /// The groups a mount is in and takes from.
    pub(super) fn of_mount(&self, mount: &mountinfo::Mount) -> (Option<u32>, Option<u32>) {
        let known = |name| tag(mount, name).filter(|group| self.0.contains(group));
        (known("shared:"), known("master:"))
    }
}

/// Mounts whose group cannot be made again: the kernel lets one join only another that shows all of what it shows.
pub(super) fn apart(mounts: &[Mount]) -> Vec<&Mount> {
    let mut widest: BTreeMap<u32, &Mount> = BTreeMap::new();
    for one in by_width(mounts) {
        if let Some(group) = one.peers {
            widest.entry(group).or_insert(one);
        }
    }
    let fits = |one: &&Mount| {
        let groups = one.peers.iter().chain(&one.master);
        let mut all = groups.filter_map(|group| widest.get(group));
        all.all(|wide| one.root.as_path().starts_with(wide.root.as_path()))
    };
    mounts.iter().filter(|one| !fits(one)).collect()
}

/// Those that show most first.
fn by_width<'a>(mounts: impl IntoIterator<Item = &'a Mount>) -> Vec<&'a Mount> {
    let mut all: Vec<&Mount> = mounts.into_iter().collect();
    all.sort_by_key(|one| one.root.as_path().components().count());
    all
}

/// Gives mounts, all made by now, their groups. What took from the host still does, where it could.
pub(super) fn restore(top: &Top, mounts: &[&Mount]) -> Result<()> {
    let failed = |one: &Mount| {
        let at = one.mountpoint.clone();
        move |e: kernel::Error| Error::Refused(format!("the propagation of the mount at {at}: {e}"))
    };
    let open = |one: &Mount| top.of(one).map_err(failed(one));
    let of_host = |one: &Mount| one.propagation == Propagation::Slave && one.master.is_none();
    for one in mounts.iter().filter(|one| !of_host(one)) {
        let to = match one.propagation {
            Propagation::Unbindable => mount::Propagation::Unbindable,
            _ => mount::Propagation::Private,
        };
        propagate(open(one)?.as_fd(), to).map_err(failed(one))?;
    }
    let mut made: BTreeMap<u32, OwnedFd> = BTreeMap::new();
    let mut waiting = by_width(mounts.iter().copied());
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut later = Vec::new();
        for one in waiting {
            let fd = open(one)?;
            let peers = one.peers.and_then(|group| made.get(&group));
            let master = one.master.map(|group| made.get(&group));
            if let Some(peers) = peers {
                join(peers.as_fd(), fd.as_fd()).map_err(failed(one))?;
                continue;
            }
            match master {
                Some(None) => {
                    later.push(one);
                    continue;
                }
                Some(Some(master)) => join(master.as_fd(), fd.as_fd())
                    .and_then(|()| propagate(fd.as_fd(), mount::Propagation::Slave))
                    .map_err(failed(one))?,
                None => {}
            }
            // A peer of the host's is left alone.
            let own = one.peers.is_some() || one.origin != Origin::Host;
            if one.propagation == Propagation::Shared && own {
                propagate(fd.as_fd(), mount::Propagation::Shared).map_err(failed(one))?;
            }
            if let Some(group) = one.peers {
                made.insert(group, fd);
            }
        }
        if later.len() == before {
            let all: Vec<String> = later.iter().map(|m| m.mountpoint.to_string()).collect();
            return Err(Error::Refused(format!(
                "the mounts at {} take from peer groups that are not in the image",
                all.join(", ")
            )));
        }
        waiting = later;
    }
    Ok(())
}

/// The places of mounts that take from the host here, and did not before.
pub(super) fn strangers<'a>(
    there: &'a [mountinfo::Mount],
    mounts: &[&Mount],
) -> Vec<&'a std::path::Path> {
    let theirs = |m: &&mountinfo::Mount| {
        let known = mounts.iter().any(|one| one.mountpoint.0 == m.mountpoint);
        tag(m, "master:").is_some() && !known
    };
    there
        .iter()
        .filter(theirs)
        .map(|m| path(&m.mountpoint))
        .collect()
}
