//! Namespaces that are mounted on files (`ip netns add`, `unshare --net=FILE`): they stay as long as they are.

use crate::{Result, Target};
use image::namespaces::nested::Nested;
use image::path::Name;
use kernel::namespaces::{Kind, identity};
use kernel::nsfs::Handle;
use kernel::proc::mountinfo;
use kernel::{Namespace, Pid, beneath, mount, within};
use nix::fcntl::OFlag;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// One that a process sees, and the host has nowhere.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The file.
    pub place: Name,
    /// It.
    pub handle: Handle,
}

/// What mounts show of namespaces that the host has mounted, but for the container's own: by its name a native container's network
/// is.
pub(crate) fn foreign(root: Pid) -> Result<HashSet<Vec<u8>>> {
    let mut found = HashSet::new();
    for one in mountinfo::read_own()?
        .into_iter()
        .filter(|one| one.fstype == "nsfs")
    {
        let own = match shown(&one.root) {
            Some((kind, inode)) => {
                identity(root, kind)? == inode && crate::namespaces::is_own(root, kind)?
            }
            None => false,
        };
        if !own {
            found.insert(one.root);
        }
    }
    Ok(found)
}

/// Whether a mount shows a namespace of the container's: then it is none of the mounts' room.
pub(crate) fn is_own(one: &mountinfo::Mount, foreign: &HashSet<Vec<u8>>) -> bool {
    one.fstype == "nsfs" && !foreign.contains(&one.root)
}

/// Those in the mount namespace of a process; none of what something else lies over.
pub(crate) fn seen(pid: Pid, foreign: &HashSet<Vec<u8>>) -> Result<Vec<Seen>> {
    let mut found = Vec::new();
    for one in mountinfo::of_namespace(pid)? {
        let Some((kind, inode)) = shown(&one.root).filter(|_| is_own(&one, foreign)) else {
            continue;
        };
        let place = Path::new(OsStr::from_bytes(&one.mountpoint));
        if let Some(handle) = Handle::mounted(pid, place, kind)?
            && handle.inode() == inode
        {
            let place = Name(one.mountpoint);
            found.push(Seen { place, handle });
        }
    }
    Ok(found)
}

/// Which namespace a mount shows: `net:[4026532008]`.
fn shown(root: &[u8]) -> Option<(Kind, u64)> {
    let text = std::str::from_utf8(root).ok()?.trim_start_matches('/');
    let (name, rest) = text.split_once(":[")?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name)?;
    Some((kind, rest.strip_suffix(']')?.parse().ok()?))
}

/// Mounts them again, as long as somebody is in each; words about those for which there is no file.
pub(super) fn restore(nested: &Nested, target: &Target) -> Result<Vec<String>> {
    let mut words = Vec::new();
    for bound in &nested.bound {
        let mounts = match bound.mounts {
            None => Some(target.root_pid),
            Some(id) => target.inners.pid(id),
        };
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == bound.kind);
        let handle = match (kind, bound.of) {
            (None, _) => None,
            (Some(kind), None) => Some(Handle::of(target.root_pid, target.root_pid, kind)?),
            (Some(kind), Some(id)) => target.inners.handle(id, kind)?,
        };
        let (Some(mounts), Some(handle)) = (mounts, handle) else {
            words.push(format!(
                "no {} namespace is there to be mounted at {}",
                bound.kind, bound.place
            ));
            continue;
        };
        let present = mountinfo::of_namespace(mounts)?;
        let same = |m: &mountinfo::Mount| m.fstype == "nsfs" && m.mountpoint == bound.place.0;
        if present.iter().any(same) {
            continue; // one that shows wherever another does
        }
        let made = within(mounts, &[Namespace::Mount], || {
            let root = std::fs::File::open("/").map_err(|e| kernel::Error::io("open /", &e))?;
            let place = bound.place.as_path();
            let to = beneath::open(root.as_fd(), place, beneath::Way::InRoot, OFlag::O_PATH, 0)?;
            mount::bind(handle.as_fd(), to.as_fd())
        })?;
        match made {
            Err(e) if e.raw() == Some(nix::errno::Errno::ENOENT as i32) => words.push(format!(
                "not mounted in the container, as there is no file for it: {} ({} namespace)",
                bound.place, bound.kind
            )),
            made => made?,
        }
    }
    Ok(words)
}
