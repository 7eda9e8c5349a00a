//! The container being taken, as rooms see it: every task stopped, and at hand by descriptor.

use crate::Result;
use crate::namespaces::nested::Sights;
use crate::sockets::tcp::Clients;
use crate::threads::Apart;
use image::ids::{Pid, SharedId};
use image::sockets::tcp::Connections;
use kernel::pidfd::PidFd;
use kernel::proc::Proc;
use kernel::proc::stat::Stat;
use kernel::remote::Guest;
use std::collections::HashMap;
use std::os::fd::OwnedFd;

/// All live processes of a frozen container.
#[derive(Debug)]
pub struct Source {
    /// Parents before children.
    pub processes: Vec<SourceProcess>,
    /// From task ids of ours to those of the container.
    pub inside: HashMap<kernel::Pid, Pid>,
    /// Deleted files and memfds that somebody has open, by device and inode: `files` takes them, contents and all;
    /// areas that map one refer to it.
    pub objects: HashMap<(u64, u64), SharedId>,
    /// What becomes of its TCP connections with the outside.
    pub connections: Connections,
    /// Those of them that no program has accepted.
    pub clients: Clients,
    /// Unix sockets whose other end is outside are taken without it.
    pub ext_unix: bool,
    /// Threads with descriptors, or a place in the file system, of their own.
    pub apart: Apart,
    /// Where to look for what those of its processes see that are in namespaces inside it.
    pub sights: Sights,
}

/// One live process, all of its threads stopped.
#[derive(Debug)]
pub struct SourceProcess {
    /// In our pid namespace: what calls of ours take.
    pub pid: kernel::Pid,
    /// In the container's: what records hold.
    pub inside: Pid,
    /// Its first thread, where that has ended and others live on: `pid` is then that of one of these.
    pub ended: Option<Stat>,
    /// Its `/proc/PID`.
    pub proc: Proc,
    /// Descriptors are borrowed through it.
    pub pidfd: PidFd,
    /// The leader first, unless it has ended.
    pub threads: Vec<SourceThread>,
}

/// One stopped thread.
#[derive(Debug)]
pub struct SourceThread {
    /// In our pid namespace.
    pub tid: kernel::Pid,
    /// In the container's.
    pub inside: Pid,
    /// The wait that the stop interrupted, where the kernel remembers it.
    pub wait: Option<image::threads::Wait>,
    /// The thread itself: registers by `guest.task()`, remote calls by `guest.call()` where nothing else serves.
    pub guest: Guest,
}

impl Source {
    /// A task id of ours as the container knows it; `None` for a task outside.
    pub fn inside(&self, pid: kernel::Pid) -> Option<Pid> {
        self.inside.get(&pid).copied()
    }

    /// All that have descriptors of their own: processes, and threads.
    pub fn holders(&self) -> Vec<kernel::Pid> {
        let pids = self.processes.iter().map(|process| process.pid);
        pids.chain(self.apart.holders()).collect()
    }

    /// A descriptor of a task, borrowed.
    pub(crate) fn borrow(&self, task: kernel::Pid, number: i32) -> Result<OwnedFd> {
        let pidfd = self.processes.iter().find(|one| one.pid == task);
        Ok(match pidfd {
            Some(process) => process.pidfd.borrow(number)?,
            None => PidFd::thread(task)?.borrow(number)?,
        })
    }

    /// A process of the container as we know it; 0 for one that is not in it.
    pub fn outside(&self, inside: Pid) -> kernel::Pid {
        let found = self.processes.iter().find(|one| one.inside == inside);
        found.map_or(0, |process| process.pid)
    }
}

impl SourceProcess {
    /// Ends the calls in its threads until the next one is made: those of a process with which it shares its memory are made in the same place.
    pub fn rest(&mut self) -> Result<()> {
        let mut threads = self.threads.iter_mut();
        Ok(threads.try_for_each(|thread| thread.guest.rest())?)
    }

    /// Its process id, as its parent knows it.
    pub fn id(&self) -> kernel::Pid {
        self.ended.as_ref().map_or(self.pid, |ended| ended.pid)
    }

    /// Its leader, in which calls for the whole process are made.
    pub fn leader(&mut self) -> Result<&mut SourceThread> {
        let pid = self.pid;
        self.threads
            .first_mut()
            .ok_or_else(|| kernel::Error::Gone { pid }.into())
    }
}
