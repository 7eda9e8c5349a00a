//! How tasks come by the ids they had. A task with the privilege has its child's id chosen (`set_tid`, clone3(2)); in a
//! container of an engine no task has it, and the id is counted up to by a process of ours in the same pid namespace.

use crate::{Error, Result, credentials};
use image::ids::Pid;
use image::tree::{State, Tree};
use kernel::last_pid::LastPid;
use kernel::remote::{Caller, Stub, call};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The highest id for our own process there; less where the kernel counts less far.
const HIGHEST: Pid = 32_000;
/// How long an id may stay taken by a task that has just ended and waits to be reaped.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to an id in a container.
#[derive(Debug, Default)]
pub enum Numbers {
    /// Chosen by the task that forks.
    #[default]
    Chosen,
    /// Counted by a process of ours.
    Counted(Counter),
}

/// Counts.
#[derive(Debug)]
pub struct Counter {
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
        if credentials::may_restore(first)? {
            return Ok(Numbers::Chosen);
        }
        let used = used(tree);
        let mut free = (300..=highest()).rev().filter(|pid| !used.contains(pid));
        loop {
            let own = free.next().ok_or_else(|| {
                Error::Refused("the container has no pid left for a process of ours".into())
            })?;
            match LastPid::of(first, own) {
                Err(e) if e.raw() == Some(call::EEXIST) => {}
                last_pid => {
                    return Ok(Numbers::Counted(Counter {
                        last_pid: last_pid?,
                        next: None,
                    }));
                }
            }
        }
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
        let ids: &[Pid] = match self {
            Numbers::Chosen => &[id],
            Numbers::Counted(counter) => {
                if counter.next != Some(id) {
                    counter.last_pid.set(id - 1)?;
                }
                counter.next = id.checked_add(1);
                &[]
            }
        };
        let (clone, arguments) = call::clone3(at, flags, exit_signal, ids);
        creator.write(at, &arguments)?;
        match creator.fork(what, clone) {
            Ok((seen, stub)) if seen == id as u64 => Ok(Born::Right(stub)),
            Ok((seen, stub)) => {
                self.forget();
                Ok(Born::Other(seen as Pid, stub))
            }
            Err(e) if e.raw() == Some(call::EEXIST) => Ok(Born::Taken),
            Err(e) => Err(e.into()),
        }
    }

    fn forget(&mut self) {
        if let Numbers::Counted(counter) = self {
            counter.next = None;
        }
    }

    /// Whether ids are chosen, so that nothing is to be done at the end.
    pub(crate) fn are_chosen(&self) -> bool {
        matches!(self, Numbers::Chosen)
    }

    /// All tasks are there: the next one will be new, and nothing of ours stays in the container.
    pub fn finish(&mut self, last: Option<Pid>) -> Result<()> {
        if let (Numbers::Counted(counter), Some(last)) = (&mut *self, last) {
            counter.last_pid.set(last)?;
        }
        *self = Numbers::Chosen;
        Ok(())
    }
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
fn used(tree: &Tree) -> BTreeSet<Pid> {
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
