//! A container left frozen (`--leave-frozen`): a stop by ptrace ends with its tracer, a frozen cgroup does not. Each
//! process goes one level down, into a group beneath the one it is in, so that nothing it is counted for or limited by
//! changes; thawing takes it up again. What was done is on file, for `--thaw` and `--kill` by a later call.

use crate::vessel::registry::DIR;
use crate::{Blocker, Error, Result};
use kernel::Pid;
use kernel::pidfd::PidFd;
use kernel::proc::{Proc, mountinfo};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a group may take to freeze, thaw or empty itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// A frozen container, as on file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Frozen {
    /// Its name.
    name: String,
    /// The version of the cgroup hierarchy: 1 or 2.
    version: u8,
    /// The groups made for it, each beneath the one its processes came from.
    groups: Vec<PathBuf>,
}

/// Where the freezer is: its mount point, and the file and words that rule it.
struct Freezer {
    version: u8,
    mount: PathBuf,
    /// What the mount shows of the hierarchy.
    root: PathBuf,
}

impl Freezer {
    /// The freezer of version 1 where it is mounted, for there a group of version 2 may rule over the same tasks without
    /// a freezer of its own; else that of version 2.
    fn find() -> Result<Self> {
        let mounts = mountinfo::read_own()?;
        let found = [1, 2]
            .into_iter()
            .find_map(|version| Self::of(version, &mounts));
        found.ok_or_else(|| {
            Error::Refused(
                "no cgroup freezer is mounted, and nothing else outlives checkpoint; mount one, or leave the \
                 container running or stopped"
                    .into(),
            )
        })
    }

    fn of(version: u8, mounts: &[mountinfo::Mount]) -> Option<Self> {
        let mount = mounts.iter().rev().find(|m| match version {
            1 => m.fstype == "cgroup" && m.super_options.iter().any(|o| o == "freezer"),
            _ => m.fstype == "cgroup2",
        })?;
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        Some(Freezer {
            version,
            mount: path(&mount.mountpoint),
            root: path(&mount.root),
        })
    }

    /// The group a process is in.
    fn group_of(&self, pid: Pid) -> Result<PathBuf> {
        let memberships = super::parse(&Proc::process(pid).bytes("cgroup")?);
        let one = memberships.iter().find(|m| match self.version {
            1 => m.controllers.split(',').any(|c| c == "freezer"),
            _ => m.controllers.is_empty(),
        });
        let path = one
            .map(|m| m.path.as_path().to_path_buf())
            .unwrap_or("/".into());
        let below = path
            .strip_prefix(&self.root)
            .unwrap_or(Path::new(""))
            .to_path_buf();
        Ok(self.mount.join(below))
    }
}

/// What of a container is frozen by somebody else: under version 1 it would never stop for us, and it would not be frozen
/// elsewhere.
pub fn blockers(processes: &[Pid]) -> Result<Vec<Blocker>> {
    let mounts = mountinfo::read_own()?;
    let mut found = Vec::new();
    for freezer in [1, 2].into_iter().filter_map(|v| Freezer::of(v, &mounts)) {
        for &pid in processes {
            // One that has ended meanwhile is in nobody's way.
            let Ok(group) = freezer.group_of(pid) else {
                continue;
            };
            let read = |file| fs::read_to_string(group.join(file)).unwrap_or_default();
            let is_frozen = match freezer.version {
                1 => matches!(read("freezer.state").trim(), "FROZEN" | "FREEZING"),
                _ => read("cgroup.events").lines().any(|line| line == "frozen 1"),
            };
            if is_frozen {
                found.push(Blocker {
                    pid,
                    place: group.display().to_string(),
                    what: "a cgroup that is frozen".into(),
                    remedy: "thaw it (checkpoint --thaw, where it was left frozen) and try again"
                        .into(),
                });
            }
        }
    }
    Ok(found)
}

/// Freezes the processes of a container, which may be stopped by ptrace meanwhile; they stay frozen when it lets go.
pub fn freeze(name: &str, processes: &[Pid]) -> Result<()> {
    crate::vessel::registry::check_name(name)?;
    freeze_by(&Freezer::find()?, name, processes)
}

fn freeze_by(freezer: &Freezer, name: &str, processes: &[Pid]) -> Result<()> {
    let mut members: BTreeMap<PathBuf, Vec<Pid>> = BTreeMap::new();
    for &pid in processes {
        members.entry(freezer.group_of(pid)?).or_default().push(pid);
    }
    let frozen = Frozen {
        name: name.into(),
        version: freezer.version,
        groups: members
            .keys()
            .map(|g| g.join(format!("ferry-frozen-{name}")))
            .collect(),
    };
    frozen.record()?;
    let done = frozen.enter(&members);
    if done.is_err() {
        let _ = frozen.undo();
    }
    done
}

/// Lets a container left frozen run on.
pub fn thaw(name: &str) -> Result<()> {
    Frozen::read(name)?.undo()
}

/// Ends a container left frozen.
pub fn kill(name: &str) -> Result<()> {
    let frozen = Frozen::read(name)?;
    for group in &frozen.groups {
        for pid in processes(group)? {
            match PidFd::open(pid).and_then(|p| p.signal(nix::sys::signal::Signal::SIGKILL as i32))
            {
                Err(e) if e.raw() != Some(Errno::ESRCH as i32) => return Err(e.into()),
                _ => {}
            }
        }
    }
    // A task that is frozen dies when it thaws (version 1), with the signal already there.
    frozen.undo()
}

/// The names of all containers left frozen.
pub fn list() -> Vec<String> {
    let files = fs::read_dir(dir()).into_iter().flatten().flatten();
    let names =
        files.filter_map(|f| Some(f.file_name().to_str()?.strip_suffix(".json")?.to_string()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn dir() -> PathBuf {
    Path::new(DIR).join("frozen")
}

fn processes(group: &Path) -> Result<Vec<Pid>> {
    let path = group.join("cgroup.procs");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|l| l.parse().ok()).collect()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(kernel::Error::io(format!("read {}", path.display()), &e).into()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .map_err(|e| kernel::Error::io(format!("write {text} to {}", path.display()), &e).into())
}

impl Frozen {
    fn path(name: &str) -> PathBuf {
        dir().join(format!("{name}.json"))
    }

    fn read(name: &str) -> Result<Self> {
        crate::vessel::registry::check_name(name)?;
        let path = Self::path(name);
        let text = fs::read(&path)
            .map_err(|_| Error::Name(format!("no container {name:?} was left frozen")))?;
        serde_json::from_slice(&text)
            .map_err(|e| Error::Refused(format!("{}: {e}", path.display())))
    }

    fn record(&self) -> Result<()> {
        let fail = |e: std::io::Error| -> Error {
            match e.kind() {
                ErrorKind::AlreadyExists => Error::Name(format!(
                    "a container {:?} was left frozen already; thaw or kill it first",
                    self.name
                )),
                _ => kernel::Error::io(format!("write {}", Self::path(&self.name).display()), &e)
                    .into(),
            }
        };
        let mut make = fs::DirBuilder::new();
        make.recursive(true)
            .mode(0o755)
            .create(dir())
            .map_err(fail)?;
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::Refused(e.to_string()))?;
        let mut open = fs::File::options();
        let file = open.create_new(true).write(true).mode(0o600);
        let mut file = file.open(Self::path(&self.name)).map_err(fail)?;
        std::io::Write::write_all(&mut file, &text).map_err(fail)
    }

    fn enter(&self, members: &BTreeMap<PathBuf, Vec<Pid>>) -> Result<()> {
        for (group, pids) in self.groups.iter().zip(members.values()) {
            fs::create_dir(group)
                .map_err(|e| kernel::Error::io(format!("make {}", group.display()), &e))?;
            for pid in pids {
                match write(&group.join("cgroup.procs"), &pid.to_string()) {
                    Err(Error::Kernel(e)) if e.raw() == Some(Errno::ESRCH as i32) => {}
                    done => done?,
                }
            }
            self.rule(group, true)?;
        }
        Ok(())
    }

    fn rule(&self, group: &Path, freeze: bool) -> Result<()> {
        match (self.version, freeze) {
            (1, true) => write(&group.join("freezer.state"), "FROZEN"),
            (1, false) => write(&group.join("freezer.state"), "THAWED"),
            (_, true) => write(&group.join("cgroup.freeze"), "1"),
            (_, false) => write(&group.join("cgroup.freeze"), "0"),
        }
    }

    /// Thaws, takes the processes back to where they were, and removes groups and file.
    fn undo(&self) -> Result<()> {
        for group in self.groups.iter().filter(|g| g.exists()) {
            self.rule(group, false)?;
            self.empty(group)?;
        }
        let path = Self::path(&self.name);
        fs::remove_file(&path)
            .map_err(|e| kernel::Error::io(format!("remove {}", path.display()), &e))?;
        let _ = fs::remove_dir(dir());
        let _ = fs::remove_dir(DIR);
        Ok(())
    }

    fn empty(&self, group: &Path) -> Result<()> {
        let Some(above) = group.parent() else {
            return Ok(());
        };
        let until = Instant::now() + PATIENCE;
        loop {
            for pid in processes(group)? {
                match write(&above.join("cgroup.procs"), &pid.to_string()) {
                    Err(Error::Kernel(e)) if e.raw() == Some(Errno::ESRCH as i32) => {}
                    done => done?,
                }
            }
            match fs::remove_dir(group) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                // A dying task, a zombie not reaped, or a child just forked.
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
                Err(e) => {
                    let what = format!("remove {}", group.display());
                    return Err(kernel::Error::io(what, &e).into());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::ptrace::{self, Event};
    use std::process::{Child, Command, Stdio};

    /// A program that counts into a file, and its own group of the freezer to be restored to.
    struct Counter {
        child: Child,
        file: tempfile::NamedTempFile,
    }

    impl Counter {
        fn start() -> Self {
            let file = tempfile::NamedTempFile::new().unwrap();
            let child = Command::new("sh")
                .args(["-c", "while :; do echo >> $0; sleep 0.005; done"])
                .arg(file.path())
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            let counter = Counter { child, file };
            assert!(counter.counts());
            counter
        }

        fn counts(&self) -> bool {
            let len = || fs::metadata(self.file.path()).unwrap().len();
            std::thread::sleep(Duration::from_millis(40));
            let before = len();
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(10));
                if len() > before {
                    return true;
                }
            }
            false
        }
    }

    impl Drop for Counter {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn stopped(pid: Pid) -> ptrace::Stopped {
        let running = ptrace::seize(pid, 0).unwrap();
        running.interrupt().unwrap();
        match running.wait().unwrap() {
            Event::Stop(stopped) => stopped,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stopped_tree_stays_frozen_when_the_tracer_lets_go_and_thaws_where_it_was() {
        let mounts = mountinfo::read_own().unwrap();
        let all = [1, 2].into_iter().filter_map(|v| Freezer::of(v, &mounts));
        let all: Vec<Freezer> = all.collect();
        assert!(!all.is_empty());
        for freezer in all {
            let counter = Counter::start();
            let pid = counter.child.id() as Pid;
            let name = format!("test-{pid}-thaw");
            let before = fs::read(format!("/proc/{pid}/cgroup")).unwrap();
            let task = stopped(pid);
            freeze_by(&freezer, &name, &[pid]).unwrap();
            task.detach(0).unwrap();
            assert!(!counter.counts());
            assert!(list().contains(&name));
            assert!(matches!(freeze(&name, &[pid]), Err(Error::Name(_))));
            thaw(&name).unwrap();
            assert!(counter.counts());
            assert_eq!(fs::read(format!("/proc/{pid}/cgroup")).unwrap(), before);
            assert!(matches!(thaw(&name), Err(Error::Name(_))));
        }
    }

    #[test]
    fn a_frozen_tree_can_be_killed() {
        let mut counter = Counter::start();
        let pid = counter.child.id() as Pid;
        let name = format!("test-{pid}-kill");
        let task = stopped(pid);
        freeze(&name, &[pid]).unwrap();
        task.detach(0).unwrap();
        kill(&name).unwrap();
        let status = counter.child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
        assert!(!list().contains(&name));
    }
}
