//! Cgroups of its own for each native container. In the unified hierarchy, where that counts or limits anything: process 1
//! is born into it at no cost, and `cat`, `cgroup.kill` and `cgroup.freeze` find the whole container there. In those of
//! version 1 where the container was in groups of its own: to be limited as it was, and to see them as it did.

use crate::cgroups;
use image::cgroups::{Cgroups, Limits};
use kernel::proc::mountinfo;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where the groups of a container go: at most one in each hierarchy.
pub(super) fn places(name: &str, record: &Cgroups) -> Vec<PathBuf> {
    let own = record.memberships.iter().any(|m| m.own);
    let mounts = mountinfo::read_own().unwrap_or_default();
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for mount in mounts.iter().rev() {
        let unified = mount.fstype == "cgroup2";
        if !(unified || mount.fstype == "cgroup") || seen.contains(&mount.device) {
            continue;
        }
        seen.push(mount.device.clone());
        let top = PathBuf::from(OsStr::from_bytes(&mount.mountpoint));
        // A unified hierarchy that only carries names, beside version 1, is otherwise left alone.
        if own || (unified && is_useful(&top)) {
            found.push(top.join(ALL).join(name));
        }
    }
    found
}

/// The directory of all our groups.
const ALL: &str = "ferry";

fn is_useful(top: &Path) -> bool {
    let controllers = fs::read_to_string(top.join("cgroup.controllers"));
    let controllers = controllers.unwrap_or_default();
    let mut all = controllers.split_whitespace();
    all.any(|c| c == "pids" || c == "memory")
}

/// Makes the groups, those of them that this host lets us make, with the limits that it can set. Gives the unified one, and
/// remarks.
pub(super) fn make(groups: &mut Vec<PathBuf>, limits: &Limits) -> (Option<OwnedFd>, Vec<String>) {
    groups.retain(|group| {
        // The directory of all may go just now, with the last group of another.
        let made = (0..3).any(|_| fs::create_dir_all(group).is_ok());
        if !made {
            remove(group);
        }
        made
    });
    let unified = groups
        .iter()
        .find(|group| group.join("cgroup.type").exists());
    for group in groups.iter() {
        prepare(group, limits);
    }
    let remarks = cgroups::write(groups, limits);
    let unified = unified.and_then(|group| fs::File::open(group).ok());
    (unified.map(OwnedFd::from), remarks)
}

/// What a group needs before it can have tasks or limits: in version 1 a copy of its parent's CPUs and memory nodes, in
/// version 2 the controllers.
fn prepare(group: &Path, limits: &Limits) {
    let Some(above) = group.parent() else {
        return;
    };
    for place in [above, group] {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let empty = fs::read_to_string(place.join(file)).is_ok_and(|t| t.trim().is_empty());
            let parents = place.parent().map(|p| fs::read(p.join(file)));
            if let (true, Some(Ok(parents))) = (empty, parents) {
                // Version 2 has no need of it, and it does no harm there.
                let _ = fs::write(place.join(file), parents);
            }
        }
    }
    if *limits == Limits::default() || !group.join("cgroup.controllers").exists() {
        return;
    }
    for place in [above.parent(), Some(above)].into_iter().flatten() {
        for controller in ["cpuset", "memory", "pids", "cpu", "io"] {
            // One that is not there shows when its limits are written.
            let _ = fs::write(
                place.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
}

/// A process, 0 for the calling one, enters the groups of version 1; in the unified one it was born. Gives remarks.
pub(super) fn enter(groups: &[PathBuf], pid: kernel::Pid) -> Vec<String> {
    let old = groups
        .iter()
        .filter(|group| !group.join("cgroup.type").exists());
    old.filter_map(|group| {
        let why = fs::write(group.join("cgroup.procs"), pid.to_string()).err()?;
        Some(format!(
            "it is not in the cgroup {}: {why}",
            group.display()
        ))
    })
    .collect()
}

/// Removes it with all groups beneath it, and the directory of all where it was the last.
pub(super) fn remove(path: &Path) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&entry.path());
    }
    // A cgroup is busy until the last of its tasks, a zombie too, has been reaped.
    for _ in 0..50 {
        match fs::remove_dir(path) {
            Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) => {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            _ => break,
        }
    }
    if let Some(top) = path.parent().filter(|top| top.ends_with(ALL)) {
        let _ = fs::remove_dir(top);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_cgroup_is_made_and_goes_when_its_last_task_does() {
        let mounts = mountinfo::read_own().unwrap();
        let unified = mounts.iter().rev().find(|m| m.fstype == "cgroup2").unwrap();
        let top = PathBuf::from(String::from_utf8(unified.mountpoint.clone()).unwrap());
        let path = top
            .join(format!("test-{}", std::process::id()))
            .join("ferry/a");
        let mut groups = vec![path.clone()];
        let (held, remarks) = make(&mut groups, &Limits::default());
        assert_eq!((groups.len(), remarks.len()), (1, 0));
        let held = held.unwrap();
        let script = "echo 0 > $0/cgroup.procs; exec sleep 0.05";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(&path)
            .spawn()
            .unwrap();
        let reaper = std::thread::spawn(move || child.wait());
        std::thread::sleep(std::time::Duration::from_millis(20));
        remove(&path);
        assert!(!path.exists() && !path.parent().unwrap().exists());
        reaper.join().unwrap().unwrap();
        drop(held);
        fs::remove_dir(path.parent().unwrap().parent().unwrap()).unwrap();
    }
}
