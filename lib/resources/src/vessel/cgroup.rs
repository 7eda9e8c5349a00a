//! A cgroup of its own for each native container, in the unified hierarchy, where there is one and it is writable:
//! process 1 is born into it at no cost, and `cat`, `cgroup.kill` and `cgroup.freeze` find the whole container there.

use kernel::proc::mountinfo;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Makes the cgroup of a container; `None` where this host has no place for it.
pub(super) fn make(name: &str) -> Option<(PathBuf, OwnedFd)> {
    let mounts = mountinfo::read_own().ok()?;
    let unified = mounts.iter().rev().find(|m| m.fstype == "cgroup2")?;
    let top = PathBuf::from(String::from_utf8(unified.mountpoint.clone()).ok()?).join("ferry");
    let path = top.join(name);
    fs::create_dir_all(&path).ok()?;
    match fs::File::open(&path) {
        Ok(dir) => Some((path, dir.into())),
        Err(_) => {
            remove(&path);
            None
        }
    }
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
