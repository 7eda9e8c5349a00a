//! Who descends from whom: one look over `/proc`.

use super::{numbers, stat};
use crate::{Pid, Result};
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};

/// `root` and all its descendants, parents before children; with `namespace` (the link text of `/proc/PID/ns/pid`) also
/// every other process whose pid namespace it is: those that came in from outside, and orphans.
pub fn family(root: Pid, namespace: Option<&Path>) -> Result<Vec<stat::Stat>> {
    let mut all = HashMap::new();
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for pid in numbers(Path::new("/proc"))? {
        // A process that ends while we look is not part of the family any more.
        if let Ok(stat) = stat::read(pid) {
            children.entry(stat.ppid()).or_default().push(pid);
            all.insert(pid, stat);
        }
    }
    let mut starts = VecDeque::from([root]);
    if let Some(namespace) = namespace {
        starts.extend(
            all.keys()
                .filter(|pid| pid_namespace(**pid).as_deref() == Some(namespace)),
        );
    }
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    while let Some(start) = starts.pop_front() {
        let mut queue = VecDeque::from([start]);
        while let Some(pid) = queue.pop_front() {
            if !seen.insert(pid) {
                continue;
            }
            queue.extend(children.get(&pid).into_iter().flatten());
            found.extend(all.get(&pid).cloned());
        }
    }
    Ok(found)
}

/// The pid namespace of a process, as its link reads (`pid:[4026531836]`); `None` for a zombie or a process gone.
pub fn pid_namespace(pid: Pid) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_under_its_parent() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let us = std::process::id() as Pid;
        let found = family(us, None).unwrap();
        assert_eq!(found.first().map(|s| s.pid), Some(us));
        assert!(found.iter().any(|s| s.pid == child.id() as Pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
