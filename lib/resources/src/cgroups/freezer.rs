//! Freezing that outlasts us (`--leave-frozen`): a ptrace stop ends with its tracer, a frozen cgroup does not. What has to
//! be undone is written down under `/run/ferry/frozen`, one file for each container.

use crate::vessel::registry::Process;
use crate::{Error, Result};
use kernel::Pid;
use kernel::pidfd::PidFd;
use kernel::proc::{Proc, mountinfo};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the records are.
const DIR: &str = "/run/ferry/frozen";
/// How long a cgroup may take to come to rest, or its processes to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container kept frozen.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// The root of its process tree.
    root: Process,
    /// The cgroup that is frozen.
    cgroup: PathBuf,
    /// It is of the unified hierarchy (version 2).
    unified: bool,
    /// It was made for this, and goes when the container is let go.
    made: bool,
    /// Its processes, and the cgroup each belongs to.
    members: Vec<(Process, PathBuf)>,
}

/// A hierarchy in which tasks can be frozen.
struct Hierarchy {
    mountpoint: PathBuf,
    /// The directory of the hierarchy that is mounted there.
    root: PathBuf,
    unified: bool,
}

/// Keeps these processes frozen, which stand still now by our own stops; `root` is the root of their tree.
pub fn freeze(root: Pid, pids: &[Pid]) -> Result<()> {
    let hierarchy = hierarchy()?;
    let members = pids
        .iter()
        .map(|pid| Ok((Process::of(*pid)?, hierarchy.of(*pid)?)))
        .collect::<Result<Vec<_>>>()?;
    let own = members.first().map(|(_, cgroup)| cgroup).filter(|cgroup| {
        // The cgroup of a native container holds nothing else; any other may.
        hierarchy.unified
            && cgroup
                .parent()
                .is_some_and(|parent| parent.ends_with("ferry"))
            && members.iter().all(|(_, other)| other == *cgroup)
    });
    let record = Record {
        root: Process::of(root)?,
        cgroup: match own {
            Some(own) => own.clone(),
            None => hierarchy.mountpoint.join(format!("ferry-frozen-{root}")),
        },
        unified: hierarchy.unified,
        made: own.is_none(),
        members,
    };
    record.write()?;
    let frozen = record.gather().and_then(|()| record.set(true));
    if frozen.is_err() {
        // The container runs on: whatever was done is undone.
        let _ = record.undo();
    }
    frozen
}

/// Waits until all of it is frozen, after our own stops have ended.
pub fn settled(root: Pid) -> Result<()> {
    let record = Record::read(root)?;
    record.wait("frozen", |record| record.is_frozen())
}

/// Lets it run on.
pub fn thaw(root: Pid) -> Result<()> {
    Record::read(root)?.undo()
}

/// Ends it: no process of it runs again.
pub fn kill(root: Pid) -> Result<()> {
    let record = Record::read(root)?;
    for (process, _) in record.members.iter().filter(|(process, _)| process.lives()) {
        let pidfd = PidFd::open(process.pid)?;
        pidfd.signal(nix::sys::signal::Signal::SIGKILL as i32)?;
    }
    // A signal that kills does so also in a cgroup that is frozen, but for the first version.
    if !record.unified {
        record.set(false)?;
    }
    record.wait("at its end", |record| {
        Ok(!record.members.iter().any(|(process, _)| process.lives()))
    })?;
    record.undo()
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    kernel::Error::io(format!("{what} {}", path.display()), error).into()
}

fn hierarchy() -> Result<Hierarchy> {
    let mounts = mountinfo::read_own()?;
    let text = |bytes: &[u8]| PathBuf::from(String::from_utf8_lossy(bytes).into_owned());
    let unified = mounts.iter().rev().find(|m| m.fstype == "cgroup2");
    let first = mounts
        .iter()
        .rev()
        .find(|m| m.fstype == "cgroup" && m.super_options.iter().any(|o| o == "freezer"));
    let mount = unified.or(first).ok_or_else(|| {
        kernel::Error::Unsupported {
            what: "no cgroup hierarchy that can freeze is mounted here, so that nothing can be left frozen: mount cgroup2"
                .into(),
        }
    })?;
    Ok(Hierarchy {
        mountpoint: text(&mount.mountpoint),
        root: text(&mount.root),
        unified: unified.is_some(),
    })
}

impl Hierarchy {
    /// The directory of the cgroup a process is in.
    fn of(&self, pid: Pid) -> Result<PathBuf> {
        let text = Proc::process(pid).text("cgroup")?;
        let path = member(&text, self.unified).ok_or_else(|| {
            kernel::Error::unreadable(
                format!("/proc/{pid}/cgroup"),
                "not in the freezer's hierarchy",
            )
        })?;
        let below = Path::new(path)
            .strip_prefix(&self.root)
            .unwrap_or(Path::new(path));
        Ok(self
            .mountpoint
            .join(below.strip_prefix("/").unwrap_or(below)))
    }
}

/// The path in the line of `/proc/PID/cgroup` that is about the unified hierarchy, or about the freezer.
fn member(text: &str, unified: bool) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let right = if unified {
            number == "0" && controllers.is_empty()
        } else {
            controllers.split(',').any(|c| c == "freezer")
        };
        right.then_some(path)
    })
}

impl Record {
    fn path(root: Pid) -> PathBuf {
        Path::new(DIR).join(format!("{root}.json"))
    }

    fn write(&self) -> Result<()> {
        let path = Self::path(self.root.pid);
        if Self::read(self.root.pid).is_ok() {
            return Err(Error::Name(format!(
                "process {} is kept frozen already: end that with --thaw or --kill",
                self.root.pid
            )));
        }
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(DIR);
        made.map_err(|e| failed("make", Path::new(DIR), &e))?;
        let json = serde_json::to_vec(self)
            .map_err(|e| kernel::Error::unreadable(path.display().to_string(), e.to_string()))?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &json));
        written.map_err(|e| failed("write", &path, &e))
    }

    fn read(root: Pid) -> Result<Self> {
        let none = || {
            Error::Name(format!(
                "process {root} is not kept frozen by --leave-frozen"
            ))
        };
        let bytes = fs::read(Self::path(root)).map_err(|_| none())?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| {
            kernel::Error::unreadable(Self::path(root).display().to_string(), e.to_string())
        })?;
        if record.root.lives() {
            Ok(record)
        } else {
            let _ = fs::remove_file(Self::path(root));
            Err(none())
        }
    }

    /// Moves the processes into the cgroup, where it is one made for them.
    fn gather(&self) -> Result<()> {
        if !self.made {
            return Ok(());
        }
        match fs::create_dir(&self.cgroup) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed("make", &self.cgroup, &e));
            }
            _ => (),
        }
        self.members
            .iter()
            .try_for_each(|(process, _)| join(&self.cgroup, process.pid))
    }

    fn set(&self, frozen: bool) -> Result<()> {
        let (file, value) = match (self.unified, frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let path = self.cgroup.join(file);
        fs::write(&path, value).map_err(|e| failed("write", &path, &e))
    }

    fn is_frozen(&self) -> Result<bool> {
        let (file, line) = if self.unified {
            ("cgroup.events", "frozen 1")
        } else {
            ("freezer.state", "FROZEN")
        };
        let path = self.cgroup.join(file);
        let text = fs::read_to_string(&path).map_err(|e| failed("read", &path, &e))?;
        Ok(text.lines().any(|l| l == line))
    }

    fn wait(&self, what: &str, reached: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let patience = Instant::now() + PATIENCE;
        while !reached(self)? {
            if Instant::now() > patience {
                return Err(Error::Refused(format!(
                    "the container of process {} is not {what} after {} seconds",
                    self.root.pid,
                    PATIENCE.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets all go, puts every process back where it was, and forgets about it.
    fn undo(&self) -> Result<()> {
        if self.cgroup.exists() {
            // Back first, thawed last, so that nothing runs in the wrong place.
            let back = self
                .members
                .iter()
                .filter(|(process, _)| self.made && process.lives());
            let moved = back
                .map(|(process, cgroup)| join(cgroup, process.pid))
                .collect::<Result<Vec<_>>>();
            self.set(false)?;
            moved?;
        }
        if self.made {
            for _ in 0..100 {
                match fs::remove_dir(&self.cgroup) {
                    // A zombie that nobody has reaped yet keeps it busy.
                    Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    _ => break,
                }
            }
        }
        let _ = fs::remove_file(Self::path(self.root.pid));
        let _ = fs::remove_dir(DIR);
        Ok(())
    }
}

fn join(cgroup: &Path, pid: Pid) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    fs::write(&path, pid.to_string())
        .map_err(|e| failed(&format!("move process {pid} to"), &path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_right_hierarchy_is_found() {
        let text = "9:name=systemd:/\n4:freezer,cpu:/a:b\n0::/user.slice\n";
        assert_eq!(member(text, true), Some("/user.slice"));
        assert_eq!(member(text, false), Some("/a:b"));
        assert_eq!(member("9:cpu:/\n", false), None);
    }
}
