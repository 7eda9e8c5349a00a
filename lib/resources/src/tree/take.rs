//! The tree as a record.

use super::freeze::Frozen;
use super::plan::{OUTSIDE, plan};
use crate::namespaces::nested;
use crate::{Blocker, Error, Result};
use image::ids::{ActionsId, FsId, Pid, SpaceId, TableId};
use image::namespaces::nested::Nested;
use image::tree::{Ended, Process, State, Tree};
use kernel::pidfd::PidFd;
use kernel::proc::{stat, status};
use std::collections::{HashMap, HashSet};

/// What in the tree cannot be taken: found while everything still runs. Its root comes first.
pub fn blockers(processes: &[stat::Stat], namespace_depth: usize) -> Result<Vec<Blocker>> {
    let mut found = Vec::new();
    for (i, process) in processes.iter().enumerate() {
        let Ok(status) = status::read(process.pid) else {
            continue; // it ended meanwhile
        };
        let mut say = |what: &str, remedy: &str| {
            found.push(Blocker {
                pid: process.pid,
                place: String::new(),
                what: what.into(),
                remedy: remedy.into(),
            });
        };
        if i > 0 && is_visitor(process.ppid(), namespace_depth) {
            say(
                "it was started from outside, by exec (podman exec, nsenter)",
                "end it first",
            );
        }
        let other = super::living(process).filter(|tid| *tid != process.pid);
        if other.is_some_and(|tid| PidFd::thread(tid).is_err()) {
            say(
                "its main thread has ended and others run on",
                "such a process can be taken on Linux 6.9 or newer",
            );
        }
        if status.number("TracerPid").unwrap_or(0) != 0 {
            say(
                "it is being traced",
                "end the debugger or strace on it first",
            );
        }
    }
    Ok(found)
}

/// Whether a process is in the container and its parent is not: what is no child of anybody inside cannot be made again.
fn is_visitor(parent: kernel::Pid, namespace_depth: usize) -> bool {
    // Of a parent that even we do not see, the pid is 0.
    let numbers = status::read(parent).and_then(|status| status.numbers("NSpid"));
    parent == 0 || numbers.is_ok_and(|numbers| numbers.len() < namespace_depth)
}

/// Takes the tree, but for its namespaces ([`nested`]) and its terminals, which are found with its files. `root` is ours; `last_pid` the newest pid of an own namespace; `stub` a place free in all memories.
pub fn dump(
    frozen: &Frozen,
    root: kernel::Pid,
    subreapers: &dyn Fn(Pid) -> bool,
    last_pid: Option<Pid>,
    stub: u64,
) -> Result<Tree> {
    let (source, sharing) = (&frozen.source, &frozen.sharing);
    let inside: HashSet<Pid> = source.inside.values().copied().collect();
    let mut processes = Vec::new();
    for (i, process) in source.processes.iter().enumerate() {
        let state = State::Alive {
            threads: process.threads.iter().map(|t| t.inside).collect(),
            space: SpaceId(sharing.memory[i] as u32),
            table: TableId(sharing.tables[i] as u32),
            fs: FsId(sharing.fs[i] as u32),
            actions: ActionsId(sharing.actions[i] as u32),
            ended: process.ended.as_ref().map(|ended| Ended {
                status: ended.exit_code(),
                name: ended.comm.as_str().into(),
            }),
            stopped: frozen.stopped.contains(&process.id()),
            subreaper: subreapers(process.inside),
        };
        processes.push(shape(frozen, &inside, process.id(), state)?);
    }
    for zombie in &frozen.zombies {
        let state = State::Dead {
            status: zombie.exit_code(),
            name: zombie.comm.as_str().into(),
        };
        processes.push(shape(frozen, &inside, zombie.pid, state)?);
    }
    let root = source
        .inside(root)
        .ok_or(kernel::Error::Gone { pid: root })?;
    let tree = Tree {
        root,
        processes: parents_first(processes),
        last_pid,
        stub,
        terminals: Vec::new(),
        nested: Nested::default(),
    };
    // What cannot grow again must be known now, not on the other host.
    let first = if root == 1 { root } else { OUTSIDE };
    plan(&tree, first, &|_| false).map_err(|what| {
        Error::Blocked(vec![Blocker {
            pid: 0,
            place: "process tree".into(),
            what,
            remedy: "no order of forks makes such a tree".into(),
        }])
    })?;
    Ok(tree)
}

/// Takes the namespaces inside the container: for the tree's record, and for all who look at its processes.
pub fn nested(frozen: &mut Frozen, root: kernel::Pid) -> Result<Nested> {
    let processes = frozen.source.processes.iter();
    let threads: Vec<_> = processes
        .flat_map(|process| {
            process
                .threads
                .iter()
                .map(|thread| (process.pid, thread.tid))
        })
        .collect();
    let dead: Vec<_> = frozen.zombies.iter().map(|zombie| zombie.pid).collect();
    let (nested, sights) = nested::dump(root, &threads, &dead, &frozen.source.inside)?;
    frozen.source.sights = sights;
    Ok(nested)
}

fn shape(
    frozen: &Frozen,
    inside: &HashSet<Pid>,
    pid: kernel::Pid,
    state: State,
) -> Result<Process> {
    let stat = stat::read(pid)?;
    let status = status::read(pid)?;
    let own = |key: &str| -> Result<Pid> {
        // Ours comes first, the one in the innermost namespace last (proc_pid_status(5)).
        let number = status.numbers(key)?.get(frozen.depth - 1).copied();
        Ok(number.unwrap_or(0) as Pid)
    };
    let (host_group, host_session) = (stat.pgrp(), stat.session());
    // A number from outside is 0 in an own namespace; in the host's it belongs to nobody in the tree, unless its
    // founder is gone, which nobody can tell apart from outside: it counts as outside when a process outside bears it.
    let member = |number: Pid, host: kernel::Pid| {
        let outside =
            !inside.contains(&number) && std::path::Path::new(&format!("/proc/{host}")).exists();
        if outside { OUTSIDE } else { number }
    };
    Ok(Process {
        pid: own("NSpid")?,
        ppid: frozen.source.inside(stat.ppid()).unwrap_or(OUTSIDE),
        pgid: member(own("NSpgid")?, host_group),
        sid: member(own("NSsid")?, host_session),
        exit_signal: stat.exit_signal(),
        terminal: stat.terminal().is_some(),
        state,
    })
}

/// Sorts parents before children, keeping the order otherwise.
fn parents_first(processes: Vec<Process>) -> Vec<Process> {
    let mut children: HashMap<Pid, Vec<Process>> = HashMap::new();
    let pids: HashSet<Pid> = processes.iter().map(|p| p.pid).collect();
    for process in processes {
        let parent = if pids.contains(&process.ppid) {
            process.ppid
        } else {
            OUTSIDE
        };
        children.entry(parent).or_default().push(process);
    }
    let mut sorted = Vec::new();
    let mut next: Vec<Process> = children.remove(&OUTSIDE).unwrap_or_default();
    next.reverse();
    while let Some(process) = next.pop() {
        if let Some(mut below) = children.remove(&process.pid) {
            below.reverse();
            next.extend(below);
        }
        sorted.push(process);
    }
    sorted
}
