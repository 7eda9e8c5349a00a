//! Control groups (cgroups(7)): membership, limits, and the freezer.

use crate::{Result, namespaces};
use image::cgroups::{Cgroups, Membership};
use image::engine::Configuration;
use image::path::Name;
use kernel::namespaces::Kind;
use kernel::proc::{Proc, mountinfo};
use kernel::{Namespace, Pid, within};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

mod freezer;
pub mod groups;
mod limits;
mod rules;

pub use freezer::{blockers, freeze, kill, list, thaw};
pub(crate) use limits::write;

/// Takes the membership of a process, and what groups limit that are its own. Of devices version 2 keeps a program, which
/// the kernel does not give back: then the engine's configuration is asked.
pub fn dump(root: Pid, configuration: Option<&Configuration>) -> Result<Cgroups> {
    let mut memberships = Vec::new();
    let mut groups = Vec::new();
    for mut one in bases(root)? {
        one.membership.own = one.own;
        memberships.push(one.membership);
        groups.extend(one.directory.filter(|_| one.own));
    }
    let mut limits = limits::read(&groups);
    inherited(&mut limits, &groups);
    if limits.devices.is_none() && !groups.iter().any(|g| g.join("devices.list").exists()) {
        limits.devices = configuration.and_then(|c| rules::of_spec(&c.spec));
    }
    Ok(Cgroups {
        memberships,
        limits,
    })
}

/// Where a process is in one hierarchy.
struct Hierarchy {
    membership: Membership,
    /// The directory of the group, where the hierarchy is mounted.
    directory: Option<PathBuf>,
    /// The group is neither ours nor the root.
    own: bool,
    ours: PathBuf,
}

impl Hierarchy {
    /// The same with a group above.
    fn raise(&mut self, path: &Path) {
        if let Ok(below) = self.membership.path.as_path().strip_prefix(path) {
            let depth = below.components().count();
            let above = |directory: PathBuf| Some(directory.ancestors().nth(depth)?.to_path_buf());
            self.directory = self.directory.take().and_then(above);
            self.membership.path = Name::from(path);
            self.own = is_own(path, &self.ours);
        }
    }
}

fn is_own(path: &Path, ours: &Path) -> bool {
    path != ours && path != Path::new("/")
}

/// Where the container begins whose root process this is, hierarchy by hierarchy: at the roots of its cgroup namespace,
/// else where the process is.
fn bases(root: Pid) -> Result<Vec<Hierarchy>> {
    let mut all = hierarchies(root)?;
    if namespaces::is_own(root, Kind::Cgroup)? {
        // As a thread sees it that has entered the namespace.
        let seen = within(root, &[Namespace::Cgroup], || {
            Proc::process(root).bytes("cgroup")
        })??;
        for inside in parse(&seen) {
            let mut same = all.iter_mut();
            let same = same.find(|one| one.membership.controllers == inside.controllers);
            let depth = inside.path.as_path().components().count().saturating_sub(1);
            if let Some(one) = same
                && let Some(base) = one.membership.path.clone().as_path().ancestors().nth(depth)
            {
                one.raise(base);
            }
        }
    }
    Ok(all)
}

/// Where a process is, hierarchy by hierarchy.
fn hierarchies(pid: Pid) -> Result<Vec<Hierarchy>> {
    let ours = parse(&Proc::process(std::process::id() as Pid).bytes("cgroup")?);
    let memberships = parse(&Proc::process(pid).bytes("cgroup")?);
    let mounts = mountinfo::read_own()?;
    let place = |bytes| Path::new(OsStr::from_bytes(bytes));
    let found = memberships.into_iter().map(|membership| {
        let same = ours
            .iter()
            .find(|m| m.controllers == membership.controllers);
        let ours = same.map_or(PathBuf::new(), |m| m.path.as_path().to_path_buf());
        let mount = mounts.iter().rev().find(|m| is_hierarchy(m, &membership));
        let directory = mount.and_then(|mount| {
            let below = membership
                .path
                .as_path()
                .strip_prefix(place(&mount.root))
                .ok()?;
            Some(place(&mount.mountpoint).join(below))
        });
        Hierarchy {
            own: is_own(membership.path.as_path(), &ours) && directory.is_some(),
            membership,
            directory,
            ours,
        }
    });
    Ok(found.collect())
}

/// Whether this is a mount of the hierarchy of a membership.
fn is_hierarchy(mount: &mountinfo::Mount, one: &Membership) -> bool {
    match one.controllers.as_str() {
        "" => mount.fstype == "cgroup2",
        list => {
            let has = |wanted: &str| mount.super_options.iter().any(|o| o == wanted);
            mount.fstype == "cgroup" && list.split(',').all(has)
        }
    }
}

/// A group of version 1 has a copy of its parent's CPUs and memory nodes, which is no limit of its own.
fn inherited(limits: &mut image::cgroups::Limits, groups: &[PathBuf]) {
    let parents = |file: &str| {
        let group = groups.iter().find(|g| g.join(file).exists())?;
        let text = std::fs::read_to_string(group.parent()?.join(file)).ok()?;
        Some(text.trim().to_string())
    };
    if limits.cpus.is_some() && limits.cpus == parents("cpuset.cpus") {
        limits.cpus = None;
    }
    if limits.nodes.is_some() && limits.nodes == parents("cpuset.mems") {
        limits.nodes = None;
    }
}

/// Reads `/proc/PID/cgroup`: `number:controllers:path`.
fn parse(text: &[u8]) -> Vec<Membership> {
    let memberships = text.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.splitn(3, |b| *b == b':').skip(1);
        Some(Membership {
            controllers: String::from_utf8_lossy(fields.next()?).into_owned(),
            path: Name(fields.next()?.to_vec()),
            own: false,
        })
    });
    memberships.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_of_both_versions_are_read() {
        let found = parse(b"9:name=systemd:/\n4:cpu,cpuacct:/a:b\n0::/user.slice\n");
        let all: Vec<_> = found
            .iter()
            .map(|m| (m.controllers.as_str(), m.path.to_string()))
            .collect();
        let wanted = [
            ("name=systemd", "/"),
            ("cpu,cpuacct", "/a:b"),
            ("", "/user.slice"),
        ];
        assert_eq!(all, wanted.map(|(c, p)| (c, p.to_string())));
    }
}
