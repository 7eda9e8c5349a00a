//! A cgroup of its own for each native container, in the unified hierarchy, where there is one and it is writable:
//! process 1 is born into it at no cost, and `cat`, `cgroup.kill` and `cgroup.freeze` find the whole container there.

use kernel::proc::mountinfo;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where the cgroup of a container goes, on a host whose unified hierarchy counts and limits anything. One that only
/// carries names, beside version 1, is left alone.
pub(super) fn place(name: &str) -> Option<PathBuf> {
    let mounts = mountinfo::read_own().ok()?;
    let unified = mounts.iter().rev().find(|m| m.fstype == "cgroup2")?;
    let top = PathBuf::from(String::from_utf8(unified.mountpoint.clone()).ok()?);
    let controllers = fs::read_to_string(top.join("cgroup.controllers")).ok()?;
    let useful = controllers
        .split_whitespace()
        .any(|c| c == "pids" || c == "memory");
    useful.then(|| top.join("ferry").join(name))
}

/// Makes it; `None` where this host does not let us.
pub(super) fn make(path: &Path) -> Option<OwnedFd> {
    fs::create_dir_all(path).ok()?;
    let dir = fs::File::open(path);
    if dir.is_err() {
        remove(path);
    }
    dir.ok().map(OwnedFd::from)
}

/// Removes it, and the directory of all where it was the last.
pub(super) fn remove(path: &Path) {
    // A cgroup is busy until the last of its tasks, a zombie too, has been reaped.
    for _ in 0..50 {
        match fs::remove_dir(path) {
            Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) => {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            _ => break,
        }
    }
    if let Some(top) = path.parent().filter(|top| top.ends_with("ferry")) {
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
        let held = make(&path).unwrap();
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
