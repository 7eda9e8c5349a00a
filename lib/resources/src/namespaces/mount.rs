//! Mounts (mount_namespaces(7)): where each comes from, seen against the host's own; made again inside the vessel.

use crate::container::Files;
use crate::namespaces::nested::bound;
use crate::rootfs::overlay;
use crate::{Blocker, Error, Result};
use image::engine::Configuration;
use image::ids::MountId;
use image::namespaces::mount::{Mount, Mounts, Origin, Propagation};
use image::path::Name;
use image::rootfs::Rootfs;
use kernel::proc::mountinfo;
use kernel::{Namespace, Pid, within};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

mod attach;
mod base;
pub(crate) mod beginning;
pub(crate) mod covered;
mod engine;
pub mod inner;
mod order;
mod owned;
mod propagation;
mod settle;

use attach::Top;
use covered::{covered, in_order};
use propagation::Groups;

pub use attach::restore;
pub use base::{Base, MERGED, UPPER, WORK, map_owners};
pub use covered::{Covered, copies};
pub use owned::owned;
pub use settle::settle;

/// Where native containers keep a root file system that came with the image.
pub const KEPT: &str = "/var/lib/ferry";

/// File systems whose contents are the kernel's: mounted anew they are what they were.
const FRESH: [&str; 14] = [
    "proc",
    "sysfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "fusectl",
    "configfs",
    "pstore",
    "binfmt_misc",
];

/// Mounts and root file system of a container, and what of it cannot be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The mounts.
    pub mounts: Mounts,
    /// The root file system.
    pub rootfs: Rootfs,
    /// What stands in the way.
    pub blockers: Vec<Blocker>,
}

/// Takes the mounts of a process whose mount namespace is its own; what an engine has mounted for it is known by the
/// engine's configuration.
/// `outside` are the places whose mounts stay behind.
pub fn dump(
    root: Pid,
    configuration: Option<&Configuration>,
    files: Files,
    outside: &[PathBuf],
) -> Result<Found> {
    let host = mountinfo::read_own()?;
    let mounts = beginning::mounts(root)?;
    let unknown = outside.iter().find(|place| {
        **place == *Path::new("/") || !mounts.iter().any(|m| path(&m.mountpoint) == **place)
    });
    if let Some(place) = unknown {
        return Err(Error::Refused(format!(
            "--mount {}: the container has no mount there that could stay behind",
            place.display()
        )));
    }
    let mut sorter = Sorter {
        host: &host,
        foreign: bound::foreign(root)?,
        files,
        outside,
        engine: engine::Mounts::new(configuration, &engine::read),
        brought: BTreeMap::new(),
        trees: 0,
        covered: true,
    };
    let mut found = sort(root, mounts, &mut sorter);
    found.blockers.extend(pinned(root, &found.mounts)?);
    Ok(found)
}

/// File systems for BPF, which come back empty but for what the kernel makes there, and have more.
fn pinned(root: Pid, mounts: &Mounts) -> Result<Vec<Blocker>> {
    let mut found = Vec::new();
    for one in &mounts.mounts {
        if one.fstype != "bpf" || one.origin != Origin::Fresh || one.covered {
            continue;
        }
        let top = beginning::root(root)?.below(one.mountpoint.as_path())?;
        let listed = std::fs::read_dir(format!("/proc/self/fd/{}", top.fd().as_raw_fd()));
        let own = |name: &OsStr| name == "maps.debug" || name == "progs.debug";
        let mut names = listed.into_iter().flatten().flatten();
        if names.any(|name| !own(&name.file_name())) {
            found.push(Blocker {
                pid: root,
                place: format!("mount at {}", one.mountpoint),
                what: "objects pinned in a file system for BPF".into(),
                remedy: "BPF programs and maps belong to the host; remove them first".into(),
            });
        }
    }
    Ok(found)
}

/// What mounts are seen against.
struct Sorter<'a> {
    host: &'a [mountinfo::Mount],
    /// What mounts show of namespaces of the host's.
    foreign: HashSet<Vec<u8>>,
    files: Files,
    /// Places whose mounts stay behind.
    outside: &'a [PathBuf],
    engine: engine::Mounts<'a>,
    /// Mounts that an [`Origin::Again`] may speak of, by device.
    brought: BTreeMap<String, Vec<(MountId, PathBuf)>>,
    /// How many trees of tmpfs there are so far.
    trees: u32,
    /// Covered mounts are taken, too.
    covered: bool,
}

/// Sorts the mounts of process `root` by where they come from, seen against those of the host.
fn sort(root: Pid, container: Vec<mountinfo::Mount>, sorter: &mut Sorter) -> Found {
    let mut blockers = Vec::new();
    let groups = Groups::of(&container, sorter.host);
    let ordered = in_order(container);
    let covered = covered(&ordered);
    let mut lost = BTreeSet::new();
    let mut rootfs = None;
    let mut sorted: Vec<Mount> = Vec::new();
    for mut mount in ordered {
        if bound::is_own(&mount, &sorter.foreign) {
            continue;
        }
        let here = path(&mount.mountpoint).to_path_buf();
        let of_host = covered::of_host(&mount, sorter.host);
        let is_covered = covered.contains(&mount.id) && !of_host;
        let goes = sorter.covered && covered::travels(&mount, sorter.host);
        if is_covered && (!goes || lost.contains(&mount.parent) || mount.mountpoint == b"/") {
            lost.insert(mount.id);
            continue;
        }
        let mut block = |what: String, remedy: &str| {
            blockers.push(Blocker {
                pid: root,
                place: format!("mount at {}", here.display()),
                what,
                remedy: remedy.into(),
            });
        };
        let is_root = *here == *Path::new("/");
        let shown = (mount.fstype.clone(), PathBuf::from(path(&mount.root)));
        let origin = if is_root {
            match sorter.root_of(&mount, of_host) {
                Some(found) => {
                    let host = found == Rootfs::Host;
                    rootfs = Some(found);
                    if host { Origin::Host } else { Origin::Root }
                }
                None => {
                    block(
                        format!(
                            "a root file system ({}) that is not on the host",
                            mount.fstype
                        ),
                        "let it travel: checkpoint --with-image",
                    );
                    rootfs = Some(Rootfs::Travels);
                    Origin::Root
                }
            }
        } else {
            // Under a root of its own nothing is the host's of itself: it was bound there.
            let of_host = of_host && rootfs == Some(Rootfs::Host);
            match sorter.origin(&mut mount, of_host) {
                // It could be made only when the file trees are there: too late to be covered.
                Ok(Origin::Again { .. } | Origin::Overlay {})
                    if is_covered && mount.root != b"/" =>
                {
                    lost.insert(mount.id);
                    continue;
                }
                Ok(origin) => origin,
                Err(_) if is_covered => {
                    lost.insert(mount.id);
                    continue;
                }
                Err(what) => {
                    block(
                        what,
                        "unmount it, mount it on the host and bind it from there, or leave it behind: checkpoint --mount",
                    );
                    continue;
                }
            }
        };
        // One that comes back as a tmpfs shows nothing of the file system it is in now.
        if origin != Origin::Host && shown.0 == mount.fstype {
            let at = sorter.brought.entry(mount.device.clone()).or_default();
            at.push((MountId(mount.id), shown.1));
        }
        sorted.push(Mount {
            covered: is_covered,
            ..record(mount, origin, &groups)
        });
    }
    if rootfs.is_none() {
        blockers.push(Blocker {
            pid: root,
            place: "root directory".into(),
            what: "a mount namespace whose root directory is no mount".into(),
            remedy: "enter it by pivot_root: unshare --root, systemd-nspawn, a container engine"
                .into(),
        });
    }
    for one in propagation::apart(&sorted) {
        blockers.push(Blocker {
            pid: root,
            place: format!("mount at {}", one.mountpoint),
            what: "a peer group of which no mount shows all that this one shows".into(),
            remedy: "make it private: mount --make-private".into(),
        });
    }
    Found {
        mounts: Mounts { mounts: sorted },
        rootfs: rootfs.unwrap_or(Rootfs::Host),
        blockers,
    }
}

fn path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

/// Without the slash at the end that joining nothing leaves.
fn join(path: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() {
        path.into()
    } else {
        path.join(below)
    }
}

/// The path on the host of the directory that a mount shows.
pub(crate) fn on_host(mount: &mountinfo::Mount, host: &[mountinfo::Mount]) -> Option<PathBuf> {
    host.iter()
        .filter(|h| h.device == mount.device)
        .filter_map(|h| {
            let below = path(&mount.root).strip_prefix(path(&h.root)).ok()?;
            Some(join(path(&h.mountpoint), below))
        })
        .min_by_key(|p| p.as_os_str().len())
}

/// In words: the mounts of a record that a process has nothing like, for it was not the engine that made them.
pub fn missing(pid: Pid, record: &Mounts) -> Result<Option<String>> {
    let there = mountinfo::of_namespace(pid)?;
    let here =
        |one: &&Mount| one.covered || !there.iter().any(|m| m.mountpoint == one.mountpoint.0);
    let missing: Vec<String> = record
        .mounts
        .iter()
        .filter(here)
        .map(|one| format!("{} ({})", one.mountpoint, one.fstype))
        .collect();
    Ok((!missing.is_empty()).then(|| {
        format!(
            "not mounted in the new container, as a program had in the old one: {}; restore it natively (--engine \
             native) to have all",
            missing.join(", ")
        )
    }))
}

/// Whether the root file system of a process is one that was made for an image's.
pub fn is_kept(pid: Pid) -> Result<bool> {
    let mounts = mountinfo::of_namespace(pid)?;
    let root = mounts.iter().rev().find(|m| m.mountpoint == b"/");
    let host = mountinfo::read_own()?;
    let place = root.and_then(|root| on_host(root, &host));
    Ok(place.is_some_and(|place| place.starts_with(KEPT)))
}

impl Sorter<'_> {
    fn root_of(&self, mount: &mountinfo::Mount, of_host: bool) -> Option<Rootfs> {
        if of_host {
            return Some(Rootfs::Host);
        }
        if let Some(layers) = overlay::Options::of(mount) {
            // What came with an image goes with its container.
            let kept = layers.lower.iter().all(|layer| layer.starts_with(KEPT));
            return Some(Rootfs::Layers {
                changes: layers.upper.is_some() && !self.files.ignore_rootfs,
                layers: kept || self.files.with_image,
            });
        }
        if self.files.with_image || matches!(mount.fstype.as_str(), "tmpfs" | "ramfs") {
            return Some(Rootfs::Travels);
        }
        let directory = on_host(mount, self.host)?;
        Some(if directory.starts_with(KEPT) {
            Rootfs::Travels
        } else {
            Rootfs::Directory(Name::from(&*directory))
        })
    }

    fn origin(
        &mut self,
        mount: &mut mountinfo::Mount,
        of_host: bool,
    ) -> std::result::Result<Origin, String> {
        if self.outside.iter().any(|at| *at == path(&mount.mountpoint)) {
            return Ok(Origin::Outside {});
        }
        if of_host {
            return Ok(Origin::Host);
        }
        if mount.root.ends_with(b"//deleted") {
            return Err("a bind of a file that was removed".into());
        }
        if matches!(mount.fstype.as_str(), "cgroup" | "cgroup2") {
            return Ok(Origin::Fresh);
        }
        let earlier = self.brought.get(&mount.device).into_iter().flatten();
        if let Some((id, _)) = earlier
            .filter(|(_, root)| path(&mount.root).starts_with(root))
            .max_by_key(|(_, root)| root.as_os_str().len())
        {
            return Ok(Origin::Again { mount: *id });
        }
        if let Some(name) = self.engine.volume(path(&mount.mountpoint)) {
            let name = name.to_string();
            let tree = (!self.files.ignore_volumes).then(|| self.engine.next_tree());
            return Ok(Origin::Volume { name, tree });
        }
        if let Some(source) = on_host(mount, self.host) {
            let made = self.engine.made(&source, &mount.fstype)?;
            return Ok(match made {
                engine::Made::File(content) => Origin::Written {
                    content: content.into(),
                },
                engine::Made::Directory => {
                    // Made anew as a tmpfs, whatever the engine keeps it in.
                    engine::as_tmpfs(mount);
                    self.next_tmpfs()
                }
                engine::Made::Elsewhere => Origin::Bind {
                    path: Name::from(&*source),
                },
            });
        }
        match mount.fstype.as_str() {
            "tmpfs" | "ramfs" | "hugetlbfs" => Ok(self.next_tmpfs()),
            "overlay" if mount.root == b"/" => own_overlay(mount),
            fstype if FRESH.contains(&fstype) && mount.root == b"/" => Ok(Origin::Fresh),
            fstype => {
                let article = match fstype.starts_with(['a', 'e', 'i', 'o', 'u']) {
                    true => "an",
                    false => "a",
                };
                Err(format!(
                    "{article} {fstype} file system that the host has not mounted"
                ))
            }
        }
    }

    fn next_tmpfs(&mut self) -> Origin {
        self.trees += 1;
        Origin::Tmpfs {
            tree: self.trees - 1,
        }
    }
}

/// An overlay of directories that the container knows by these names, too.
fn own_overlay(mount: &mountinfo::Mount) -> std::result::Result<Origin, String> {
    let parts = mount
        .super_options
        .iter()
        .filter_map(|option| option.split_once('='))
        .filter(|(key, _)| {
            ["lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir"].contains(key)
        });
    let mut paths = parts.flat_map(|(_, value)| value.split(':'));
    match paths.find(|path| !path.is_empty() && !path.starts_with('/')) {
        Some(path) => Err(format!(
            "an overlay that was mounted with a relative path, {path}"
        )),
        None => Ok(Origin::Overlay {}),
    }
}

fn record(mount: mountinfo::Mount, origin: Origin, groups: &Groups) -> Mount {
    let (peers, master) = groups.of_mount(&mount);
    let tag = |name: &str| mount.tags.iter().any(|t| t.starts_with(name));
    let propagation = match () {
        () if tag("shared:") => Propagation::Shared,
        () if tag("master:") => Propagation::Slave,
        () if tag("unbindable") => Propagation::Unbindable,
        () => Propagation::Private,
    };
    Mount {
        id: MountId(mount.id),
        parent: MountId(mount.parent),
        mountpoint: Name(mount.mountpoint),
        root: Name(mount.root),
        fstype: mount.fstype,
        source: Name(mount.source),
        options: mount.options,
        super_options: mount.super_options,
        propagation,
        peers,
        master,
        covered: false,
        origin,
    }
}

#[cfg(test)]
mod tests;
