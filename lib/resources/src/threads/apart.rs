//! Threads with descriptors of their own, or with a working directory, root and umask of their own (unshare(2), or clone(2)
//! without `CLONE_FILES` or `CLONE_FS`).

use crate::{Blocker, Error, Result};
use image::ids::Pid;
use image::threads::{self, Thread};
use kernel::error::ESRCH;
use kernel::kcmp::{Kind, Sharers};
use kernel::pidfd::PidFd;
use kernel::proc::{Proc, stat};
use std::collections::{BTreeMap, HashMap};

/// Those of some processes. All ids are ours.
#[derive(Debug, Default)]
pub struct Apart {
    /// Threads that have not the descriptors of their process, each with the first of them that has the same.
    pub tables: BTreeMap<kernel::Pid, kernel::Pid>,
    /// The same of working directory, root and umask.
    pub fs: BTreeMap<kernel::Pid, kernel::Pid>,
    /// Threads, after their process, that share them with another process and not with their own.
    crossing: Vec<(kernel::Pid, kernel::Pid)>,
}

impl Apart {
    /// Of processes and all their threads.
    pub fn of(processes: &[(kernel::Pid, Vec<kernel::Pid>)]) -> Result<Self> {
        let mut apart = Apart::default();
        apart.tables = apart.find(Kind::Table, processes)?;
        apart.fs = apart.find(Kind::Fs, processes)?;
        Ok(apart)
    }

    /// Of processes that run.
    pub fn running(pids: &[kernel::Pid]) -> Result<Self> {
        let tasks = |pid: &kernel::Pid| {
            let tids = Proc::process(*pid).numbers("task").unwrap_or_default();
            (*pid, tids)
        };
        Apart::of(&pids.iter().map(tasks).collect::<Vec<_>>())
    }

    fn find(
        &mut self,
        kind: Kind,
        processes: &[(kernel::Pid, Vec<kernel::Pid>)],
    ) -> Result<BTreeMap<kernel::Pid, kernel::Pid>> {
        let others = |(pid, tids): &(kernel::Pid, Vec<kernel::Pid>)| {
            let alike = |tid| kind.order(*pid, tid).map_or(true, |order| order.is_eq());
            tids.iter().any(|tid| !alike(*tid))
        };
        // As almost always.
        if !processes.iter().any(others) {
            return Ok(BTreeMap::new());
        }
        let (mut sharers, mut homes) = (Sharers::of(kind), HashMap::new());
        let mut first = |tid| match sharers.meet(tid) {
            Err(e) if e.raw() == Some(ESRCH) => Ok(None),
            first => first.map(|first| Some(first.unwrap_or(tid))),
        };
        let mut usual = Vec::with_capacity(processes.len());
        for (pid, _) in processes {
            let first = first(*pid)?;
            homes.extend(first.map(|first| (first, *pid)));
            usual.push(first);
        }
        let mut found = BTreeMap::new();
        for ((pid, tids), usual) in processes.iter().zip(usual) {
            for tid in tids.iter().filter(|tid| *tid != pid) {
                let first = first(*tid)?.filter(|first| usual.is_some_and(|usual| usual != *first));
                // A first thread that has ended has nothing any more.
                let Some(first) = first.filter(|_| lives(*tid)) else {
                    continue;
                };
                if *homes.entry(first).or_insert(*pid) == *pid {
                    found.insert(*tid, first);
                } else {
                    self.crossing.push((*pid, *tid));
                }
            }
        }
        Ok(found)
    }

    /// The first thread of each table that is not that of a process.
    pub fn holders(&self) -> impl Iterator<Item = kernel::Pid> {
        firsts(&self.tables)
    }

    /// The first thread of each working directory, root and umask that is not that of a process.
    pub(crate) fn first_fs(&self) -> impl Iterator<Item = kernel::Pid> {
        firsts(&self.fs)
    }

    /// Why they cannot be taken.
    pub fn blockers(&self) -> Vec<Blocker> {
        let blocker = |pid: kernel::Pid, what: String, remedy: &str| Blocker {
            pid,
            place: String::new(),
            what,
            remedy: remedy.into(),
        };
        let crossing = self.crossing.iter().map(|(pid, tid)| {
            let what = format!(
                "its thread {tid} shares descriptors or a working directory with another process, and not with its own"
            );
            blocker(*pid, what, "no order of clone calls makes such a thread again")
        });
        let old = self.holders().find(|tid| PidFd::thread(*tid).is_err());
        let old = old.map(|tid| {
            let what = format!("its thread {tid} has descriptors of its own");
            blocker(
                tid,
                what,
                "such a thread can be taken on Linux 6.9 or newer",
            )
        });
        crossing.chain(old).collect()
    }
}

/// The first thread of each that is not that of a process.
fn firsts(found: &BTreeMap<kernel::Pid, kernel::Pid>) -> impl Iterator<Item = kernel::Pid> {
    let firsts = found.iter().filter(|(tid, first)| tid == first);
    firsts.map(|(tid, _)| *tid)
}

fn lives(tid: kernel::Pid) -> bool {
    stat::read(tid).is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// How a thread is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Birth {
    /// Its id.
    pub tid: Pid,
    /// The thread that makes it; none: the first of its process.
    pub creator: Option<Pid>,
    /// Whether it has the descriptors of its creator.
    pub table: bool,
    /// Whether it has its creator's working directory, root and umask.
    pub fs: bool,
}

impl From<&Pid> for Birth {
    /// One that shares everything with the first.
    fn from(tid: &Pid) -> Self {
        Birth {
            tid: *tid,
            creator: None,
            table: true,
            fs: true,
        }
    }
}

/// In which order, and by whom, the threads of a process are made. Each is made by one that has already what it shares:
/// there is one, for by unshare and clone alone nobody comes to share with two that share nothing with one another.
pub fn order(process: Pid, threads: &[Thread]) -> Result<Vec<Birth>> {
    let has = |thread: &Thread| {
        (
            whose(process, thread.tid, thread.table.as_ref()),
            whose(process, thread.tid, thread.fs.as_ref()),
        )
    };
    let mut waiting: Vec<&Thread> = threads.iter().filter(|t| t.tid != process).collect();
    // Who has which, the first of each pair alone.
    let mut made = HashMap::from([((process, process), None)]);
    let mut births = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|thread| {
            let (table, fs) = has(thread);
            let is_new = |owner| owner == thread.tid;
            let creator = match (is_new(table), is_new(fs)) {
                (true, true) => Some(None),
                (false, false) => made.get(&(table, fs)).copied(),
                (false, true) => creator(&made, |(own, _)| own == table),
                (true, false) => creator(&made, |(_, own)| own == fs),
            };
            let Some(creator) = creator else { return true };
            made.entry((table, fs)).or_insert(Some(thread.tid));
            births.push(Birth {
                tid: thread.tid,
                creator,
                table: !is_new(table),
                fs: !is_new(fs),
            });
            false
        });
        if waiting.len() == before {
            return Err(Error::Refused(format!(
                "thread {} of the image shares descriptors or a working directory with a thread that cannot have made it",
                waiting[0].tid
            )));
        }
    }
    Ok(births)
}

type Made = HashMap<(Pid, Pid), Option<Pid>>;

/// The earliest of those who have it, that the order be the same each time.
fn creator(made: &Made, has: impl Fn((Pid, Pid)) -> bool) -> Option<Option<Pid>> {
    let found = made.iter().filter(|(pair, _)| has(**pair));
    found.map(|(_, tid)| *tid).min()
}

fn whose<T>(process: Pid, tid: Pid, apart: Option<&threads::Apart<T>>) -> Pid {
    match apart {
        None => process,
        Some(threads::Apart::Own(_)) => tid,
        Some(threads::Apart::With(other)) => *other,
    }
}
