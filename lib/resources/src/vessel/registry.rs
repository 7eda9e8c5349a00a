//! `/run/ferry`: one file for each native container, with all that has to be taken away when it is gone. Names and
//! addresses are given out under one lock.

use crate::{Error, Result};
use kernel::proc::stat;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where the files are.
pub const DIR: &str = "/run/ferry";
/// Where `ip netns` looks for named networks.
pub const NETNS: &str = "/run/netns";

/// A native container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name; the id where it was given none.
    pub name: String,
    /// Its id: twelve hexadecimal digits.
    pub id: String,
    /// Process 1, or the root of its tree where it has no pid namespace of its own; absent while it is being made.
    pub first: Option<Process>,
    /// The root of its process tree, in the host's pid namespace; absent while it is being made.
    pub pid: Option<kernel::Pid>,
    /// The same, with its start.
    pub root: Option<Process>,
    /// Process 1 is an init of ours, no part of the container.
    pub init: bool,
    /// Who takes it all away when process 1 is gone.
    pub keeper: Process,
    /// Its addresses on our bridge.
    pub addresses: Vec<IpAddr>,
    /// Our end of its link.
    pub link: Option<String>,
    /// Its network namespace is bound at `/run/netns/NAME`.
    pub netns: bool,
    /// The directory `/run/netns` was made for it, or for one before it: it goes with the last.
    pub netns_dir: bool,
    /// Its cgroups, one in each hierarchy where it has one.
    pub cgroups: Vec<PathBuf>,
    /// The directory with its root file system, where that came with the image.
    pub directory: Option<PathBuf>,
    /// What it was restored from.
    pub archive: String,
    /// When, in seconds since 1970.
    pub created: u64,
}

/// A process, and when it started, so that a later one with its pid is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// In the pid namespace of the host.
    pub pid: kernel::Pid,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub start: u64,
}

impl Process {
    /// A process that is there now.
    pub fn of(pid: kernel::Pid) -> Result<Self> {
        let start = stat::read(pid)?.starttime();
        Ok(Process { pid, start })
    }

    /// Whether it still runs: not gone, no zombie.
    pub fn lives(&self) -> bool {
        stat::read(self.pid).is_ok_and(|s| s.starttime() == self.start && s.state != 'Z')
    }
}

impl Entry {
    /// `NAME.json` once it runs; under another name before, so that who looks for the first finds what is ready.
    fn path(&self) -> PathBuf {
        path(&self.name, self.root.is_some())
    }

    /// Whether its process 1 lives; or, before there is one, the keeper, which does not outlive the maker. Where process
    /// 1 is gone the keeper is at work, or will find the work done by whoever came first.
    fn lives(&self) -> bool {
        self.first.unwrap_or(self.keeper).lives()
    }
}

/// Held while names and addresses are given out or taken back.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<fs::File>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_dir(DIR); // where it is empty
    }
}

/// Waits for the lock: on the directory itself, so that nothing is left when it is empty and goes.
pub fn lock() -> Result<Lock> {
    loop {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(DIR);
        made.map_err(|e| failed(&format!("make {DIR}"), &e))?;
        let Ok(file) = fs::File::open(DIR) else {
            continue; // it went just now
        };
        let file = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| kernel::Error::errno(format!("lock {DIR}"), errno as i32))?;
        let held = file
            .metadata()
            .map_err(|e| failed("look at the lock", &e))?;
        // Whoever held it before may have removed it.
        if fs::metadata(DIR).is_ok_and(|now| now.ino() == held.ino()) {
            return Ok(Lock { _file: file });
        }
    }
}

fn failed(what: &str, error: &std::io::Error) -> Error {
    kernel::Error::io(what, error).into()
}

fn path(name: &str, runs: bool) -> PathBuf {
    let ending = if runs { "json" } else { "making" };
    Path::new(DIR).join(format!("{name}.{ending}"))
}

/// A name that is fit to be one of a file, a network namespace and a cgroup.
pub fn check_name(name: &str) -> Result<()> {
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if first && rest && name.len() <= 63 {
        return Ok(());
    }
    Err(Error::Name(format!(
        "{name:?} is no name for a container: letters, digits, '_', '.' and '-', at most 63, a letter or digit first"
    )))
}

/// All native containers that run or are being made. What is left of others is taken away.
pub fn list(lock: &Lock) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in read_all()? {
        if entry.lives() {
            found.push(entry);
        } else {
            super::keeper::clean(lock, &entry);
        }
    }
    Ok(found)
}

/// A running native container by its name or id; an error of kind `Name` where there is none.
pub fn find(name: &str) -> Result<Entry> {
    list(&lock()?)?
        .into_iter()
        .find(|e| e.root.is_some() && (e.name == name || e.id == name))
        .ok_or_else(|| {
            Error::Name(format!(
                "no native container {name:?}; {DIR} has those there are"
            ))
        })
}

/// Everything on file, also what no longer lives. A file that does not read is not ours to judge.
pub(super) fn read_all() -> Result<Vec<Entry>> {
    let mut found: Vec<Entry> = Vec::new();
    let files = match fs::read_dir(DIR) {
        Ok(files) => files,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(failed(&format!("list {DIR}"), &e)),
    };
    for file in files.flatten() {
        let path = file.path();
        if path
            .extension()
            .is_some_and(|e| e == "json" || e == "making")
            && let Ok(text) = fs::read(&path)
            && let Ok(entry) = serde_json::from_slice::<Entry>(&text)
            && entry.path() == path
        {
            found.push(entry);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The entry on file, whether it lives or not.
pub(super) fn read(name: &str) -> Option<Entry> {
    let read = |runs| serde_json::from_slice(&fs::read(path(name, runs)).ok()?).ok();
    read(true).or_else(|| read(false))
}

/// Refuses a name that is taken.
pub(super) fn check_free(entries: &[Entry], name: &str) -> Result<()> {
    if entries.iter().any(|e| e.name == name || e.id == name) {
        return Err(Error::Name(format!(
            "the name {name:?} is taken by a native container; choose another or end that one"
        )));
    }
    Ok(())
}

/// Writes an entry, whole or not at all.
pub(super) fn write(entry: &Entry) -> Result<()> {
    let path = entry.path();
    let new = Path::new(DIR).join(format!("{}.new", entry.name));
    let mut text = serde_json::to_vec_pretty(entry).map_err(|e| Error::Refused(e.to_string()))?;
    text.push(b'\n');
    let done = fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| fs::rename(&new, &path));
    done.map_err(|e| failed(&format!("write {}", path.display()), &e))?;
    if entry.root.is_some() {
        let _ = fs::remove_file(self::path(&entry.name, false));
    }
    Ok(())
}

/// Takes an entry off, and what a half-written one left.
pub(super) fn remove(entry: &Entry) {
    for ending in ["json", "making", "new"] {
        let _ = fs::remove_file(Path::new(DIR).join(format!("{}.{ending}", entry.name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for good in ["web", "hello1", "a.b-c_d", "0"] {
            check_name(good).unwrap();
        }
        let long = "x".repeat(64);
        for bad in ["", "..", ".a", "a/b", "-x", "ä", &long] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let mut own = Process::of(std::process::id() as i32).unwrap();
        assert!(own.lives());
        own.start += 1;
        assert!(!own.lives());
    }
}
