//! Control groups (cgroups(7)): membership, limits, and the freezer.

use crate::Result;
use image::cgroups::{Cgroups, Membership};
use image::engine::Configuration;
use image::path::Name;
use kernel::Pid;
use kernel::proc::{Proc, mountinfo};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

mod freezer;
mod limits;
mod rules;

pub use freezer::{freeze, kill, list, thaw};
pub(crate) use limits::write;

/// Takes the membership of a process, and what groups limit that are its own. Of devices version 2 keeps a program, which
/// the kernel does not give back: then the engine's configuration is asked.
pub fn dump(root: Pid, configuration: Option<&Configuration>) -> Result<Cgroups> {
    let ours = parse(&Proc::process(std::process::id() as Pid).bytes("cgroup")?);
    let mut memberships = parse(&Proc::process(root).bytes("cgroup")?);
    let mounts = mountinfo::read_own()?;
    let mut groups = Vec::new();
    for one in &mut memberships {
        let group = own_group(one, &ours, &mounts);
        one.own = group.is_some();
        groups.extend(group);
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

/// The directory of a group, where it is neither ours nor the root.
fn own_group(
    one: &Membership,
    ours: &[Membership],
    mounts: &[mountinfo::Mount],
) -> Option<PathBuf> {
    let path = one.path.as_path();
    let shared = ours
        .iter()
        .any(|m| m.controllers == one.controllers && m.path == one.path);
    if shared || path == Path::new("/") {
        return None;
    }
    let mount = mounts.iter().rev().find(|m| is_hierarchy(m, one))?;
    let place = |bytes| Path::new(OsStr::from_bytes(bytes));
    let below = path.strip_prefix(place(&mount.root)).ok()?;
    Some(place(&mount.mountpoint).join(below))
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
