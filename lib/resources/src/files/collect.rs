//! All open file descriptions of a container, each once: found equal by kcmp(2), taken by the room of its kind.

use super::borrowed::{Borrowed, Holder, Seen};
use super::kind::{Kind, kind};
use super::namespace;
use super::surroundings::Surroundings;
use super::{Blob, contents};
use super::{
    deleted, device, directory, epoll, eventfd, external, fanotify, fifo, inotify, memfd, mqueue,
    opath,
};
use super::{pidfd, pipe, procfile, regular, signalfd, timerfd, tty, tun};
use crate::{Blocker, Error, Result, Source, sockets};
use image::files::{File, OpenFile, OpenFiles, Owner, OwnerKind};
use image::ids::{BlobId, FileId, PipeId, SharedId};
use kernel::descriptor::{self, S_IFSOCK};
use kernel::kcmp;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What is known of the open file descriptions so far.
#[derive(Debug)]
pub struct Collector<'a> {
    pub(crate) source: &'a Source,
    pub(crate) around: Surroundings,
    /// By device and inode, each list in the order kcmp(2) gives.
    known: HashMap<(u64, u64), Vec<(Holder, FileId)>>,
    /// Found and not yet taken.
    waiting: Vec<(FileId, Seen)>,
    /// Interest lists, taken when all else is known.
    epolls: Vec<(FileId, Seen)>,
    diag: Option<sockets::Diag>,
    /// Sockets, for the rooms of their families.
    sockets: Vec<(FileId, Seen)>,
    /// Borrowed descriptors that stand for what was in flight.
    kept: Vec<OwnedFd>,
    pipes: HashMap<(u64, u64), PipeId>,
    /// Those an open file of which was met; their ids are their places.
    pub(crate) terminals: Vec<tty::Met>,
    pub(crate) objects: HashMap<(u64, u64), SharedId>,
    /// Message queues without a name, not taken yet.
    pub(crate) queues: Vec<mqueue::Nameless>,
    pub(crate) record: OpenFiles,
    pub(crate) blobs: Vec<Blob>,
    blockers: Vec<Blocker>,
    next: u32,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(source: &'a Source, around: Surroundings) -> Self {
        Collector {
            source,
            around,
            known: HashMap::new(),
            waiting: Vec::new(),
            epolls: Vec::new(),
            diag: None,
            sockets: Vec::new(),
            kept: Vec::new(),
            pipes: HashMap::new(),
            terminals: Vec::new(),
            objects: HashMap::new(),
            queues: Vec::new(),
            record: OpenFiles::default(),
            blobs: Vec::new(),
            blockers: Vec::new(),
            next: 0,
        }
    }

    /// The open file description behind a descriptor: known, or new and to be taken.
    pub(crate) fn identify(&mut self, file: &Seen) -> Result<FileId> {
        let list = self.known.entry(file.key()).or_default();
        let holder = file.holder;
        let found = search(list, |known| kcmp::file(known.pair(), holder.pair()))?;
        let at = match found {
            Ok(at) => return Ok(list[at].1),
            Err(at) => at,
        };
        let id = FileId(self.next);
        self.next += 1;
        list.insert(at, (holder, id));
        let is_socket =
            file.stat.format() == S_IFSOCK && matches!(kind(file, &self.around), Ok(Kind::Socket));
        let list = if is_socket {
            &mut self.sockets
        } else {
            &mut self.waiting
        };
        list.push((id, file.clone()));
        Ok(id)
    }

    /// An open file description of this device and inode.
    pub(crate) fn open_on(&self, key: (u64, u64)) -> Option<FileId> {
        let list = self.known.get(&key)?;
        list.first().map(|(_, id)| *id)
    }

    /// One that was found in flight, in a socket's queue: a descriptor of ours, which is kept.
    fn in_flight(&mut self, fd: OwnedFd, socket: sockets::Holder) -> Result<FileId> {
        let holder = Holder {
            pid: std::process::id() as kernel::Pid,
            number: fd.as_raw_fd(),
        };
        let twin = descriptor::duplicate(fd.as_fd())?;
        let file = Borrowed::look(holder, twin)?;
        self.around.note(&file)?;
        if let Some(tid) = pidfd::of_late(&file, self)? {
            let what =
                format!("a descriptor of thread {tid} (PIDFD_THREAD), sent and not yet received");
            return Err(socket.blocked(what, "have it received, or send that of the process"));
        }
        let id = self.identify(&file.seen)?;
        self.kept.push(fd);
        Ok(id)
    }

    fn borrow(&self, seen: Seen) -> Result<Borrowed> {
        let holder = seen.holder;
        let kept = self.kept.iter().find(|fd| fd.as_raw_fd() == holder.number);
        let ours = std::process::id() as kernel::Pid;
        let fd = match kept {
            Some(kept) if holder.pid == ours => descriptor::duplicate(kept.as_fd())?,
            _ => self.source.borrow(holder.pid, holder.number)?,
        };
        Ok(Borrowed { seen, fd })
    }

    /// What an epoll watches under a number: `nth` counts registrations with the same.
    pub(crate) fn watched(
        &self,
        epoll: Holder,
        key: (u64, u64),
        number: i32,
        nth: u32,
    ) -> Result<Option<FileId>> {
        let Some(list) = self.known.get(&key) else {
            return Ok(None);
        };
        let found = search(list, |known| {
            kcmp::watched(known.pair(), epoll.pid, epoll.number, number, nth)
        })?;
        Ok(found.ok().map(|at| list[at].1))
    }

    /// Takes all that was identified, and what turns up by it.
    pub(crate) fn take_all(&mut self) -> Result<()> {
        loop {
            // Sockets before all else: what is in flight in their queues may be the other end of a pipe.
            if let Some((id, file)) = self.sockets.pop() {
                self.take_socket(id, file)?;
            } else if let Some((id, file)) = self.waiting.pop() {
                self.take(id, file)?;
            } else if let Some((id, seen)) = self.epolls.pop() {
                let file = self.borrow(seen)?;
                let record = epoll::dump(&file, self)?;
                self.push(id, &file, File::Epoll(record))?;
            } else {
                break;
            }
        }
        self.record.files.sort_by_key(|file| file.id);
        match self.diag.as_ref().map_or(Ok(()), sockets::Diag::complete) {
            Err(Error::Blocked(blockers)) => self.blockers.extend(blockers),
            complete => complete?,
        }
        if self.blockers.is_empty() {
            return Ok(());
        }
        Err(Error::Blocked(std::mem::take(&mut self.blockers)))
    }

    fn take(&mut self, id: FileId, seen: Seen) -> Result<()> {
        let kind = match kind(&seen, &self.around) {
            Ok(Kind::Epoll) => {
                self.epolls.push((id, seen));
                return Ok(());
            }
            Ok(Kind::Socket) => {
                self.sockets.push((id, seen));
                return Ok(());
            }
            Ok(kind) => kind,
            Err(obstacle) => {
                let blocker = Surroundings::blocker(seen.holder, obstacle);
                self.blockers.push(blocker);
                return Ok(());
            }
        };
        let file = self.borrow(seen)?;
        let record = match kind {
            Kind::Regular => File::Regular(regular::dump(&file, self)?),
            Kind::Deleted => File::Deleted(deleted::dump(&file, self)?),
            Kind::Directory => File::Directory(directory::dump(&file, self)?),
            Kind::Opath => File::Opath(opath::dump(&file, self)?),
            Kind::Device => File::Device(device::dump(&file, self)?),
            Kind::Tun => File::Tun(tun::dump(&file, self)?),
            Kind::Pipe => File::Pipe(pipe::dump(&file, self)?),
            Kind::Fifo => File::Fifo(fifo::dump(&file, self)?),
            Kind::Eventfd => File::Eventfd(eventfd::dump(&file)?),
            Kind::Timerfd => File::Timerfd(timerfd::dump(&file)?),
            Kind::Signalfd => File::Signalfd(signalfd::dump(&file)?),
            Kind::Inotify => File::Inotify(inotify::dump(&file, self)?),
            Kind::Fanotify => File::Fanotify(fanotify::dump(&file, self)?),
            Kind::Memfd => File::Memfd(memfd::dump(&file, self)?),
            Kind::Mqueue => File::Mqueue(mqueue::dump(&file, self)?),
            Kind::Pidfd => File::Pidfd(pidfd::dump(&file, self)?),
            Kind::Namespace => File::Namespace(namespace::dump(&file, self)?),
            Kind::Procfile => File::Procfile(procfile::dump(&file, self)?),
            Kind::Tty => File::Tty(tty::dump(&file, self)?),
            Kind::External(stream) => File::External(external::dump(&file, stream)),
            Kind::Epoll | Kind::Socket => return Ok(()),
        };
        self.push(id, &file, record)
    }

    fn take_socket(&mut self, id: FileId, seen: Seen) -> Result<()> {
        let ours = std::process::id() as kernel::Pid;
        let holder = match self.source.processes.first() {
            // In flight: nobody's, and the container's as a whole.
            Some(first) if seen.holder.pid == ours => sockets::Holder {
                pid: first.pid,
                number: None,
            },
            _ => sockets::Holder {
                pid: seen.holder.pid,
                number: Some(seen.holder.number),
            },
        };
        let file = self.borrow(seen)?;
        let mut diag = match self.diag.take() {
            Some(diag) => diag,
            None => sockets::diag_of(self.source)?,
        };
        let mut in_flight = |fd| self.in_flight(fd, holder);
        let record = sockets::dump(file.fd.as_fd(), holder, &mut diag, &mut in_flight);
        let network = diag.network();
        self.diag = Some(diag);
        match record {
            Ok(record) => {
                self.push(id, &file, File::Socket(record))?;
                if let Some(last) = self.record.files.last_mut() {
                    last.network = network;
                }
                Ok(())
            }
            Err(Error::Blocked(blockers)) => {
                self.blockers.extend(blockers);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn push(&mut self, id: FileId, file: &Borrowed, record: File) -> Result<()> {
        let owner = match file.flags() & descriptor::O_PATH {
            0 => self.owner(file.fd.as_fd())?,
            _ => None,
        };
        self.around.view.as_opener(file);
        self.record.files.push(OpenFile {
            mounts: self.around.view.namespace(),
            covered: self.around.view.covered(),
            network: None,
            id,
            flags: file.flags() as u32,
            position: file.fdinfo.position,
            owner,
            file: record,
        });
        Ok(())
    }

    /// Who gets I/O signals; nobody, where that is a task outside or dead.
    fn owner(&self, fd: BorrowedFd) -> Result<Option<Owner>> {
        let signal = descriptor::signal(fd)?;
        let found =
            descriptor::owner(fd)?.and_then(|(kind, pid)| Some((kind, self.source.inside(pid)?)));
        let (kind, pid) = match found {
            None if signal == 0 => return Ok(None),
            None => (None, 0),
            Some((descriptor::OwnerKind::Thread, pid)) => (Some(OwnerKind::Thread), pid),
            Some((descriptor::OwnerKind::Process, pid)) => (Some(OwnerKind::Process), pid),
            Some((descriptor::OwnerKind::Group, pid)) => (Some(OwnerKind::Group), pid),
        };
        Ok(Some(Owner { kind, pid, signal }))
    }

    /// The pipe behind an end of it, taken when it is first met.
    pub(crate) fn pipe(&mut self, file: &Borrowed) -> Result<PipeId> {
        let key = file.key();
        if let Some(id) = self.pipes.get(&key) {
            return Ok(*id);
        }
        let id = PipeId(self.pipes.len() as u32);
        self.pipes.insert(key, id);
        let record = pipe::contents(id, file, self)?;
        self.record.pipes.push(record);
        Ok(id)
    }

    /// The id of a nameless file, and whether it is new.
    pub(crate) fn object(&mut self, file: &Borrowed) -> (SharedId, bool) {
        let next = SharedId(self.objects.len() as u32);
        let key = file.key();
        let id = *self.objects.entry(key).or_insert(next);
        (id, id == next)
    }

    /// A new bulk entry.
    pub(crate) fn blob(&mut self, source: contents::Bulk) -> BlobId {
        let id = BlobId(self.blobs.len() as u32);
        self.blobs.push(Blob { id, source });
        id
    }
}

/// Where in an ordered list something is, or belongs; `compare` says how an element stands to it.
fn search(
    list: &[(Holder, FileId)],
    compare: impl Fn(Holder) -> kernel::Result<Ordering>,
) -> Result<std::result::Result<usize, usize>> {
    let (mut low, mut high) = (0, list.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match compare(list[middle].0)? {
            Ordering::Equal => return Ok(Ok(middle)),
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    Ok(Err(low))
}
