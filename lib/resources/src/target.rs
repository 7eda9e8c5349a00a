//! The container being rebuilt, as rooms see it: every task stopped, with a stub in its memory.

use crate::namespaces::mount::Covered;
use crate::namespaces::nested::Inners;
use crate::{Error, Result};
use image::ids::{FileId, NsId, Pid, SharedId};
use image::sockets::tcp::Connections;
use kernel::pidfd::PidFd;
use kernel::proc::Proc;
use kernel::remote::{Caller, Stub};
use kernel::sysv::shm::Attached;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// A container being rebuilt.
#[derive(Debug)]
pub struct Target {
    /// Its processes, by their pid inside.
    pub processes: BTreeMap<Pid, TargetProcess>,
    /// Open file descriptions made so far, on our side; planted into tables later.
    pub files: HashMap<FileId, OwnedFd>,
    /// Deleted files, memfds and other memory objects made so far, readable and writable, on our side: areas map them.
    /// Those of `memory.json` by `memory::shared::restore`, those of `files.json` by the rooms of their files.
    pub objects: HashMap<SharedId, OwnedFd>,
    /// Which of these are segments of System V: attached by us until the processes have them.
    pub segments: HashMap<SharedId, Attached>,
    /// Our pid of the container's first process: its namespaces are `/proc/PID/ns/*`, its root is `/proc/PID/root`.
    pub root_pid: kernel::Pid,
    /// Its mounts over which others lie.
    pub covered: Covered,
    /// The container's addresses that have changed: what they were, what they are now.
    pub addresses: Vec<(IpAddr, IpAddr)>,
    /// What becomes of its TCP connections with the outside.
    pub connections: Connections,
    /// The namespaces inside it, as long as not all tasks are in theirs.
    pub inners: Inners,
}

/// One process being rebuilt.
#[derive(Debug)]
pub struct TargetProcess {
    /// In our pid namespace: what calls of ours take.
    pub pid: kernel::Pid,
    /// In the container's: what records hold.
    pub inside: Pid,
    /// Its `/proc/PID`.
    pub proc: Proc,
    /// For planting descriptors.
    pub pidfd: PidFd,
    /// The leader: calls for the whole process are made in it.
    pub leader: Stub,
    /// The other threads made so far, by their id inside.
    pub threads: BTreeMap<Pid, Stub>,
    /// For planting descriptors into tables that are not the leader's, by the threads that have them.
    pub pidfds: BTreeMap<Pid, PidFd>,
}

/// One task being rebuilt, for what it has by descriptor.
#[derive(Debug)]
pub struct TargetTask<'a> {
    /// Its id, which records hold.
    pub inside: Pid,
    /// Its `/proc/PID`.
    pub proc: Proc,
    /// Calls are made in it.
    pub stub: &'a mut Stub,
    /// For planting descriptors.
    pub pidfd: &'a PidFd,
}

impl TargetProcess {
    /// Its leader or another thread.
    pub fn task(&mut self, inside: Pid) -> Option<TargetTask<'_>> {
        let (stub, pidfd) = match self.threads.get_mut(&inside) {
            _ if inside == self.inside => (&mut self.leader, &self.pidfd),
            Some(stub) => (stub, self.pidfds.get(&inside).unwrap_or(&self.pidfd)),
            None => return None,
        };
        Some(TargetTask {
            inside,
            proc: Proc::process(stub.tid()),
            stub,
            pidfd,
        })
    }
}

impl Target {
    /// A process by its pid inside.
    pub fn process(&mut self, inside: Pid) -> Result<&mut TargetProcess> {
        self.processes.get_mut(&inside).ok_or_else(|| {
            Error::Refused(format!(
                "the image speaks of process {inside}, which is not in its tree"
            ))
        })
    }

    /// A task by its id inside.
    pub fn task(&mut self, inside: Pid) -> Result<TargetTask<'_>> {
        let mut processes = self.processes.values_mut();
        let found = processes.find_map(|process| process.task(inside));
        found.ok_or_else(|| {
            Error::Refused(format!(
                "the image speaks of task {inside}, which is not in its tree"
            ))
        })
    }

    /// Our pid of a process whose root directory is that of the mount namespace in which a process will be.
    pub fn root_of(&self, inside: Pid) -> kernel::Pid {
        let inner = self.inners.mounts_of(inside);
        inner
            .and_then(|id| self.inners.pid(id))
            .unwrap_or(self.root_pid)
    }

    /// Our pid of a process in an ipc namespace inside the container; none: in the container's.
    pub fn queues_of(&self, id: Option<NsId>) -> Result<kernel::Pid> {
        let Some(id) = id else {
            return Ok(self.root_pid);
        };
        self.inners.pid(id).ok_or_else(|| {
            Error::Refused(format!(
                "the image speaks of namespace {}, which is not in it",
                id.0
            ))
        })
    }

    /// Our descriptor for an open file description.
    pub fn file(&self, id: FileId) -> Result<&OwnedFd> {
        file(&self.files, id)
    }
}

/// Our descriptor for an open file description.
pub(crate) fn file(files: &HashMap<FileId, OwnedFd>, id: FileId) -> Result<&OwnedFd> {
    files.get(&id).ok_or_else(|| {
        Error::Refused(format!(
            "the image speaks of open file {}, which is not in it",
            id.0
        ))
    })
}
