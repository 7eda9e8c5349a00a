//! `/proc`: one handle for a task's files, and pure parsers from their text to structs (proc(5)).

use crate::{Error, Pid, Result};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

pub mod family;
pub mod fdinfo;
pub mod igmp;
pub mod limits;
pub mod maps;
pub mod mountinfo;
pub mod netlink;
pub mod raw;
pub mod stat;
pub mod status;
pub mod timer_list;
pub mod timers;

/// The directory of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proc {
    dir: PathBuf,
}

impl Proc {
    /// `/proc/PID`.
    pub fn process(pid: Pid) -> Self {
        Proc {
            dir: PathBuf::from(format!("/proc/{pid}")),
        }
    }

    /// `/proc/PID/task/TID`.
    pub fn thread(pid: Pid, tid: Pid) -> Self {
        Proc {
            dir: PathBuf::from(format!("/proc/{pid}/task/{tid}")),
        }
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file as bytes.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path(name);
        read(&path).map_err(|e| Error::io(format!("read {}", path.display()), &e))
    }

    /// A file as text; bytes that are not UTF-8 are replaced, so use it for texts that have none.
    pub fn text(&self, name: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes(name)?).into_owned())
    }

    /// Where a link points.
    pub fn link(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::read_link(&path).map_err(|e| Error::io(format!("readlink {}", path.display()), &e))
    }

    /// The numbers that are names in a directory of it (`task`, `fd`), in order.
    pub fn numbers(&self, name: &str) -> Result<Vec<i32>> {
        numbers(&self.path(name))
    }
}

/// A file that says it is empty, read with few calls.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    fs::File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What `/proc/self/fd` says a descriptor of ours is open on.
pub fn name_of(fd: std::os::fd::BorrowedFd) -> Result<PathBuf> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    fs::read_link(&path).map_err(|e| Error::io(format!("readlink {path}"), &e))
}

/// The entries of a directory that are numbers, in order.
pub fn numbers(dir: &Path) -> Result<Vec<i32>> {
    let fail = |e: &std::io::Error| Error::io(format!("list {}", dir.display()), e);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| fail(&e))? {
        let entry = entry.map_err(|e| fail(&e))?;
        if let Some(n) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
            found.push(n);
        }
    }
    found.sort_unstable();
    Ok(found)
}
