//! How tasks come by the ids they had. A task with the privilege has its child's id chosen (`set_tid`, clone3(2)); in a
//! container of an engine no task has it, and the id is counted up to by a process of ours in the same pid namespace.

use crate::{Error, Result, credentials};
use image::ids::Pid;
use image::tree::{State, Tree};
use kernel::last_pid::LastPid;
use kernel::proc::status;
use kernel::remote::{Caller, Stub, call};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The highest id for our own process there; less where the kernel counts less far.
const HIGHEST: Pid = 32_000;
/// How long an id may stay taken by a task that has just ended and waits to be reaped.
const PATIENCE: Duration = Duration::from_secs(5);

/// How tasks of a container come by their ids.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Those that count ids up, of the container's pid namespace and then of those inside it; in the ones below, ids are
    /// chosen by the task that forks.
    counters: Vec<Counter>,
    /// The ids that pid namespaces inside the container have for tasks, outermost first, by that of the container.
    names: BTreeMap<Pid, Vec<Pid>>,
    /// All ids that tasks of the tree have, in whatever namespace.
    used: BTreeSet<Pid>,
}

/// Counts.
#[derive(Debug)]
struct Counter {
    last_pid: LastPid,
    /// The id that the next task will have, as far as we know.
    next: Option<Pid>,
}

/// What came of a birth.
pub(crate) enum Born {
    /// A task with the id wanted.
    Right(Stub),
    /// One with this other id.
    Other(Pid, Stub),
    /// None: the id is taken.
    Taken,
}

impl Numbers {
    /// The way in the container of process `first`, in which this tree will grow.
    pub fn of(first: kernel::Pid, tree: &Tree) -> Result<Self> {
        let names = tree.nested.names.clone();
        let mut used = used(tree);
        used.extend(names.values().flatten());
        let chosen = Numbers {
            counters: Vec::new(),
            names,
            used,
        };
        match credentials::may_choose_pids(first)? {
            true => Ok(chosen),
            false => chosen.counted(&[first]),
        }
    }

    /// Another way, for a task without the privilege: ids are counted in all the namespaces of these processes, the
    /// container's own and those below it.
    pub(crate) fn counted(&self, levels: &[kernel::Pid]) -> Result<Self> {
        let mut free = (300..=highest()).rev();
        let mut free = free.by_ref().filter(|pid| !self.used.contains(pid));
        let mut counters = Vec::new();
        for (below, pid) in levels.iter().enumerate() {
            let last_pid = loop {
                let own = free.next().ok_or_else(|| {
                    Error::Refused("the container has no pid left for a process of ours".into())
                })?;
                match LastPid::of(*pid, &vec![own; below + 1]) {
                    Err(e) if e.raw() == Some(call::EEXIST) => {}
                    last_pid => break last_pid?,
                }
            };
            counters.push(Counter {
                last_pid,
                next: None,
            });
        }
        Ok(Numbers {
            counters,
            names: self.names.clone(),
            used: self.used.clone(),
        })
    }

    /// Has `creator` make a task, by clone3 with these flags.
    pub(crate) fn birth(
        &mut self,
        creator: &mut Stub,
        what: &str,
        id: Pid,
        flags: u64,
        exit_signal: i32,
    ) -> Result<Born> {
        let (at, _) = creator.scratch()?;
        let inner = self.names.get(&id).map_or(&[][..], Vec::as_slice);
        let all: Vec<Pid> = [&[id], inner].concat();
        for (counter, id) in self.counters.iter_mut().zip(&all) {
            if counter.next != Some(*id) {
                counter.last_pid.set(id - 1)?;
            }
            counter.next = id.checked_add(1);
        }
        // Innermost first, as the kernel wants them.
        let chosen = all.iter().skip(self.counters.len()).rev();
        let chosen: Vec<Pid> = chosen.copied().collect();
        let (clone, arguments) = call::clone3(at, flags, exit_signal, &chosen);
        creator.write(at, &arguments)?;
        match creator.fork(what, clone) {
            Ok((seen, stub)) => {
                // The creator sees it by the name that its own namespace has for it.
                let right = match inner.is_empty() {
                    true => seen as Pid == id,
                    false => innermost(stub.tid(), all.len())? == all,
                };
                if right {
                    return Ok(Born::Right(stub));
                }
                self.forget();
                Ok(Born::Other(seen as Pid, stub))
            }
            Err(e) if e.raw() == Some(call::EEXIST) => Ok(Born::Taken),
            Err(e) => Err(e.into()),
        }
    }

    /// What was counted since is not known.
    pub(crate) fn forget(&mut self) {
        for counter in &mut self.counters {
            counter.next = None;
        }
    }

    /// Whether ids are chosen, so that nothing is to be done at the end.
    pub(crate) fn are_chosen(&self) -> bool {
        self.counters.is_empty()
    }

    /// What a task calls another, itself, or a group: by the container's ids of both. None where it has no name for it.
    pub(crate) fn seen_by(&self, id: Pid, by: Pid) -> Option<Pid> {
        match self.names.get(&by).map_or(0, Vec::len) {
            0 => Some(id),
            depth => self.names.get(&id)?.get(depth - 1).copied(),
        }
    }

    /// How many pid namespaces inside the container a task is in.
    pub(crate) fn depth(&self, id: Pid) -> usize {
        self.names.get(&id).map_or(0, Vec::len)
    }

    /// All tasks are there: the next one will be new, and nothing of ours stays in the container.
    pub fn finish(&mut self, last: Option<Pid>) -> Result<()> {
        if let (Some(counter), Some(last)) = (self.counters.first_mut(), last) {
            counter.last_pid.set(last)?;
        }
        self.counters.clear();
        Ok(())
    }
}

/// What a task of ours is called in the innermost so many of its pid namespaces, outermost first.
fn innermost(tid: kernel::Pid, count: usize) -> Result<Vec<Pid>> {
    let numbers = status::read(tid)?.numbers("NSpid")?;
    let skip = numbers.len().saturating_sub(count);
    Ok(numbers.iter().skip(skip).map(|n| *n as Pid).collect())
}

/// Waits for an id that is taken.
#[derive(Debug)]
pub(crate) struct Patience(Instant);

impl Patience {
    pub(crate) fn new() -> Self {
        Patience(Instant::now() + PATIENCE)
    }

    /// Waits a little, until it is too long.
    pub(crate) fn wait(&self, id: Pid) -> Result<()> {
        if Instant::now() > self.0 {
            return Err(Error::Name(format!(
                "pid {id} is taken on this host: give the container a pid namespace of its own with -n NAME"
            )));
        }
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    }
}

/// Ids that tasks of the tree have, or that its groups and sessions are known by.
pub(crate) fn used(tree: &Tree) -> BTreeSet<Pid> {
    let mut used = BTreeSet::new();
    for process in &tree.processes {
        used.extend([process.pid, process.pgid, process.sid]);
        if let State::Alive { threads, .. } = &process.state {
            used.extend(threads);
        }
    }
    used
}

/// The highest id to be had (`/proc/sys/kernel/pid_max` is one more).
fn highest() -> Pid {
    let text = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    text.trim()
        .parse()
        .map_or(HIGHEST, |max: Pid| HIGHEST.min(max - 1))
}
