//! Files made again: on our side, before any process has them; then what can only be done once all processes do.

use super::external::Stdio;
use super::namespace;
use super::tty::Terminals;
use super::{
    contents, deleted, device, directory, epoll, eventfd, external, fanotify, fifo, inotify, memfd,
};
use super::{
    fs, mqueue, opath, ours, pidfd, pipe, procfile, regular, signalfd, table, timerfd, tun,
};
use crate::namespaces::mount::Covered;
use crate::{Error, Result, Target, locks, sockets};
use image::files::contents::{Contents, Extent, Store};
use image::files::fifo::Fifo;
use image::files::fs::Fs;
use image::files::pipe::Pipe;
use image::files::table::Table;
use image::files::{File, OpenFile, OpenFiles, Owner, OwnerKind};
use image::ids::{BlobId, FileId, MountId, NsId, Pid, PipeId, SharedId};
use image::threads::{Apart, Thread};
use kernel::descriptor::{
    self, O_APPEND, O_ASYNC, O_DIRECT, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDWR,
    O_TMPFILE_BIT,
};
use kernel::open::Root;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Files made again, and what is left to do with them.
#[derive(Debug)]
pub struct Opened {
    record: OpenFiles,
    /// The container's root directory, from before any process of it did chroot(2).
    root: Root,
    covered: CoveredRoots,
    /// Those of mount namespaces inside it.
    roots: HashMap<NsId, Root>,
    fills: HashMap<BlobId, Fill>,
    tables: BTreeMap<Pid, Table>,
    waiting: sockets::tcp::Waiting,
}

/// Where a bulk entry goes.
#[derive(Debug)]
enum Fill {
    File {
        what: String,
        fd: OwnedFd,
        extents: Vec<Extent>,
    },
    Pipe {
        record: Pipe,
        writer: OwnedFd,
    },
    /// Is there already.
    Nowhere,
}

/// Bulk contents that are awaited.
#[derive(Debug, Default)]
struct Fills(HashMap<BlobId, Fill>);

impl Fills {
    fn later(&mut self, id: BlobId, fill: Fill) -> Result<()> {
        match self.0.insert(id, fill) {
            None => Ok(()),
            Some(_) => Err(Error::Refused(format!(
                "two files have their contents in data/{}",
                id.0
            ))),
        }
    }

    fn file(&mut self, contents: &Contents, fd: BorrowedFd, what: String) -> Result<()> {
        let Store::Blob(id) = contents.bytes else {
            return Ok(());
        };
        let fill = Fill::File {
            what,
            fd: descriptor::duplicate(fd)?,
            extents: contents.extents.clone(),
        };
        self.later(id, fill)
    }

    fn pipe(&mut self, record: &Pipe, writer: BorrowedFd) -> Result<()> {
        let Store::Blob(id) = record.bytes else {
            return Ok(());
        };
        let fill = Fill::Pipe {
            record: record.clone(),
            writer: descriptor::duplicate(writer)?,
        };
        self.later(id, fill)
    }
}

/// What is at hand while files are made.
struct Maker<'a> {
    record: &'a OpenFiles,
    root: &'a Root,
    /// Of mount namespaces inside the container.
    roots: &'a HashMap<NsId, Root>,
    covered: &'a CoveredRoots,
    /// File systems that are mounted nowhere, by their devices at the source.
    detached: HashMap<u64, Root>,
    stdio: &'a Stdio,
    terminals: Terminals,
    fills: Fills,
    /// Nameless files whose first open file description was given out.
    given: HashSet<SharedId>,
    ends: HashMap<PipeId, pipe::Ends>,
    fifos: HashMap<PipeId, OwnedFd>,
    /// Opened queues that have no name any more.
    queues: HashMap<FileId, OwnedFd>,
    graves: pidfd::Graves,
}

/// Makes all open files on our side, into `target.files`, and nameless ones into `target.objects`. The terminals are those
/// with which the tree has grown.
pub fn open(
    record: OpenFiles,
    terminals: Terminals,
    target: &mut Target,
    stdio: &Stdio,
) -> Result<Opened> {
    let root = Root::of(target.root_pid)?;
    let roots = target.inners.roots()?;
    let covered = CoveredRoots::of(&target.covered)?;
    let mut maker = Maker {
        record: &record,
        root: &root,
        roots: &roots,
        covered: &covered,
        detached: HashMap::new(),
        stdio,
        terminals,
        fills: Fills::default(),
        given: HashSet::new(),
        ends: HashMap::new(),
        fifos: HashMap::new(),
        queues: HashMap::new(),
        graves: HashMap::new(),
    };
    maker.objects(target)?;
    let sockets: Vec<sockets::Listed> = record.files.iter().filter_map(socket).collect();
    let made = sockets::restore(&sockets, target)?;
    for file in &record.files {
        if let File::Socket(_) = &file.file {
            continue;
        }
        let fd = maker.make(file, target)?;
        if target.files.insert(file.id, fd).is_some() {
            let twice = format!("open file {} is there twice", file.id.0);
            return Err(Error::Refused(twice));
        }
    }
    let waiting = made.fill(&sockets, target)?;
    maker.terminals.finish()?;
    for file in &record.files {
        settle(file, target.file(file.id)?.as_fd())?;
    }
    let Fills(fills) = maker.fills;
    Ok(Opened {
        record,
        root,
        roots,
        covered,
        fills,
        tables: BTreeMap::new(),
        waiting,
    })
}

impl Maker<'_> {
    fn objects(&mut self, target: &mut Target) -> Result<()> {
        let record = self.record;
        for file in &record.deleted {
            let what = format!("{} (deleted)", file.path);
            let root = match file.detached {
                None => self.covered.at(file.covered, self.root)?,
                Some(device) => match self.detached.entry(device) {
                    Entry::Occupied(found) => found.into_mut(),
                    Entry::Vacant(place) => place.insert(Root::empty()?),
                },
            };
            let fd = deleted::restore(file, root)?;
            self.object(file.id, fd, &file.contents, what, target)?;
        }
        for file in &record.memfds {
            let what = format!("memfd {}", file.name);
            let fd = memfd::restore(file)?;
            self.object(file.id, fd, &file.contents, what, target)?;
        }
        for one in &record.queues {
            let there = mqueue::vessel(one.namespace, target)?;
            let of_it = record.files.iter().filter_map(|file| match &file.file {
                File::Mqueue(queue) if queue.unlinked == Some(one.id) => {
                    Some((file.id, file.flags))
                }
                _ => None,
            });
            self.queues
                .extend(mqueue::restore_unlinked(one, there, of_it.collect())?);
        }
        Ok(())
    }

    fn object(
        &mut self,
        id: SharedId,
        fd: OwnedFd,
        contents: &Contents,
        what: String,
        target: &mut Target,
    ) -> Result<()> {
        self.fills.file(contents, fd.as_fd(), what)?;
        match target.objects.insert(id, fd) {
            None => Ok(()),
            Some(_) => Err(Error::Refused(format!("object {} is there twice", id.0))),
        }
    }

    fn make(&mut self, file: &OpenFile, target: &mut Target) -> Result<OwnedFd> {
        let (flags, position) = (file.flags, file.position);
        let root = through(file.mounts, self.root, self.roots)?;
        let root = self.covered.at(file.covered, root)?;
        match &file.file {
            File::Regular(regular) => regular::restore(regular, flags, position, root),
            File::Deleted(open) => self.deleted(open.inode, flags, target),
            File::Memfd(open) => object(open.inode, flags, target),
            File::Directory(directory) => directory::restore(directory, flags, root),
            File::Opath(place) => opath::restore(place, flags, root),
            File::Device(device) => device::restore(device, flags, root),
            File::Tun(tun) => tun::restore(tun, flags, root, target.root_pid),
            File::Pipe(end) => self.pipe(end.pipe, flags),
            File::Fifo(fifo) => self.fifo(fifo, flags, root),
            File::Eventfd(eventfd) => eventfd::restore(eventfd),
            File::Epoll(epoll) => epoll::restore(epoll),
            File::Timerfd(timerfd) => timerfd::restore(timerfd),
            File::Signalfd(signalfd) => signalfd::restore(signalfd),
            File::Inotify(inotify) => inotify::restore(inotify),
            File::Fanotify(group) => fanotify::restore(group),
            File::Mqueue(queue) => match queue.unlinked {
                Some(id) => self.queues.remove(&file.id).ok_or_else(|| missing(id)),
                None => mqueue::restore(queue, flags, target),
            },
            File::Pidfd(record) => pidfd::restore(record, flags, target, &mut self.graves),
            File::Namespace(one) => namespace::restore(one, target),
            File::Procfile(procfile) => procfile::restore(procfile, flags, root, target),
            File::Tty(tty) => self.terminals.open(tty, flags, root, target),
            File::External(external) => external::restore(external, flags, self.stdio),
            File::Socket(_) => Err(Error::Refused(format!(
                "open file {} is a socket, which is made with all others",
                file.id.0
            ))),
        }
    }

    /// The open file description that made a nameless file shows that in its flags: it is the one we made it by.
    fn deleted(&mut self, id: SharedId, flags: u32, target: &Target) -> Result<OwnedFd> {
        let made = O_TMPFILE_BIT | O_RDWR;
        match target.objects.get(&id) {
            Some(fd) if flags as i32 & made == made && self.given.insert(id) => {
                Ok(descriptor::duplicate(fd.as_fd())?)
            }
            _ => object(id, flags, target),
        }
    }

    fn pipe(&mut self, id: PipeId, flags: u32) -> Result<OwnedFd> {
        let ends = match self.ends.entry(id) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                let record = pipe_record(id, self.record)?;
                let ends = pipe::restore(record)?;
                self.fills.pipe(record, ends.writer())?;
                place.insert(ends)
            }
        };
        ends.open(flags)
    }

    fn fifo(&mut self, fifo: &Fifo, flags: u32, root: &Root) -> Result<OwnedFd> {
        let both = match self.fifos.entry(fifo.pipe) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                let record = pipe_record(fifo.pipe, self.record)?;
                let both = fifo::both(fifo, root)?;
                // Whoever else has it open (the source, left running, or another replica on the same file system) has
                // put, or left, the bytes there: they would be there twice.
                if kernel::pipe::unread(both.as_fd())? == 0 {
                    pipe::prepare(record, both.as_fd())?;
                    self.fills.pipe(record, both.as_fd())?;
                } else if let Store::Blob(id) = record.bytes {
                    self.fills.later(id, Fill::Nowhere)?;
                }
                place.insert(both)
            }
        };
        fifo::restore(flags, both)
    }
}

/// The root directories of mounts over which others lie.
#[derive(Debug)]
pub(crate) struct CoveredRoots(HashMap<MountId, Root>);

impl CoveredRoots {
    /// Of mounts that were made.
    pub fn of(covered: &Covered) -> Result<Self> {
        let root = |(id, fd): (&MountId, &OwnedFd)| {
            let fd = descriptor::duplicate(fd.as_fd())?;
            Ok((*id, Root::from_fd(fd, format!("covered mount {}", id.0))))
        };
        Ok(CoveredRoots(
            covered.iter().map(root).collect::<Result<_>>()?,
        ))
    }

    /// That of one; `otherwise`, where none is named.
    pub fn at<'a>(&'a self, mount: Option<MountId>, otherwise: &'a Root) -> Result<&'a Root> {
        let Some(id) = mount else {
            return Ok(otherwise);
        };
        self.0.get(&id).ok_or_else(|| {
            Error::Refused(format!(
                "the container has a file open on a mount ({}) over which another one lies, and that is not in the new \
                 container; restore it natively (--engine native), where all mounts are made as they were",
                id.0
            ))
        })
    }
}

/// The root directory of a mount namespace.
fn through<'a>(
    namespace: Option<NsId>,
    container: &'a Root,
    inner: &'a HashMap<NsId, Root>,
) -> Result<&'a Root> {
    let Some(id) = namespace else {
        return Ok(container);
    };
    inner.get(&id).ok_or_else(|| {
        Error::Refused(format!(
            "the image speaks of mount namespace {}, which is not in it",
            id.0
        ))
    })
}

fn socket(file: &OpenFile) -> Option<sockets::Listed<'_>> {
    match &file.file {
        File::Socket(socket) => Some((file.id, file.network, socket)),
        _ => None,
    }
}

fn missing(id: SharedId) -> Error {
    Error::Refused(format!(
        "the image speaks of object {}, which is not in it",
        id.0
    ))
}

fn object(id: SharedId, flags: u32, target: &Target) -> Result<OwnedFd> {
    let found = target.objects.get(&id).ok_or_else(|| missing(id))?;
    // By way of /proc: O_NOFOLLOW would stop there, and O_TMPFILE leaves O_DIRECTORY behind.
    let flags = super::reopening(flags) & !(O_NOFOLLOW | O_DIRECTORY);
    Ok(descriptor::reopen(found.as_fd(), flags)?)
}

fn pipe_record(id: PipeId, record: &OpenFiles) -> Result<&Pipe> {
    record.pipes.iter().find(|p| p.id == id).ok_or_else(|| {
        Error::Refused(format!(
            "the image speaks of pipe {}, which is not in it",
            id.0
        ))
    })
}

/// Gives an open file its status flags and its offset.
fn settle(file: &OpenFile, fd: BorrowedFd) -> Result<()> {
    let flags = file.flags as i32;
    if flags & O_PATH != 0 || matches!(file.file, File::External(_)) {
        return Ok(());
    }
    const SET: i32 = O_APPEND | O_DIRECT | O_NONBLOCK;
    if (descriptor::flags(fd)? ^ flags) & SET != 0 {
        descriptor::set_flags(fd, flags & !O_ASYNC)?;
    }
    let sought = match &file.file {
        File::Regular(_) | File::Deleted(_) | File::Memfd(_) => true,
        File::Directory(_) | File::Procfile(_) => file.position != 0,
        _ => false,
    };
    if sought {
        descriptor::seek(fd, file.position)?;
    }
    Ok(())
}

impl Opened {
    /// Message queues that have no name.
    pub fn queues(&self) -> impl Iterator<Item = &image::ipc::Queue> {
        self.record.queues.iter().map(|one| &one.queue)
    }

    /// Takes the contents of a file or pipe, the bulk entry `data/N`.
    pub fn blob(&mut self, path: &str, from: &mut dyn Read) -> Result<()> {
        let number = path.strip_prefix("data/").and_then(|n| n.parse().ok());
        match number.and_then(|n| self.fills.remove(&BlobId(n))) {
            Some(Fill::File { what, fd, extents }) => {
                contents::fill(fd.as_fd(), &extents, from, &what)
            }
            Some(Fill::Pipe { record, writer }) => pipe::fill(&record, writer.as_fd(), from),
            Some(Fill::Nowhere) => std::io::copy(from, &mut std::io::sink())
                .map(drop)
                .map_err(|e| kernel::Error::io(format!("read {path}"), &e).into()),
            None => Err(Error::Refused(format!(
                "{path} belongs to no file of the image, or came twice"
            ))),
        }
    }

    /// Gives a process its descriptors (unless another carries its table), working directory, root and umask.
    pub fn place(
        &mut self,
        target: &mut Target,
        inside: Pid,
        table: Option<&Table>,
        fs: &Fs,
    ) -> Result<()> {
        self.place_table(target, inside, table)?;
        self.place_fs(target, inside, fs)
    }

    /// Gives a thread the descriptors that it does not share.
    pub fn place_table_apart(&mut self, target: &mut Target, thread: &Thread) -> Result<()> {
        match &thread.table {
            Some(Apart::Own(table)) => self.place_table(target, thread.tid, Some(table)),
            _ => Ok(()),
        }
    }

    /// The same of working directory, root and umask.
    pub fn place_fs_apart(&self, target: &mut Target, thread: &Thread) -> Result<()> {
        match &thread.fs {
            Some(Apart::Own(fs)) => self.place_fs(target, thread.tid, fs),
            _ => Ok(()),
        }
    }

    fn place_table(
        &mut self,
        target: &mut Target,
        inside: Pid,
        table: Option<&Table>,
    ) -> Result<()> {
        if let Some(table) = table {
            table::restore(inside, table, target)?;
            self.tables.insert(inside, table.clone());
        }
        Ok(())
    }

    fn place_fs(&self, target: &mut Target, inside: Pid, fs: &Fs) -> Result<()> {
        let root = through(target.inners.mounts_of(inside), &self.root, &self.roots)?;
        let first = target.root_pid;
        let mut task = target.task(inside)?;
        fs::restore(&mut task, fs, root, &self.covered, first)
    }

    /// What is left to do when every process has its table and all contents are in place: seals, interest lists,
    /// watches, timers, owners of signals, locks.
    pub fn resume(&mut self, target: &mut Target) -> Result<()> {
        if let Some(id) = self.fills.keys().next() {
            return Err(Error::Refused(format!("data/{} is missing", id.0)));
        }
        for deleted in &self.record.deleted {
            if let Some(file) = target.objects.get(&deleted.id) {
                deleted::resume(deleted, file.as_fd())?;
            }
        }
        for memfd in &self.record.memfds {
            memfd::resume(memfd, target)?;
        }
        pidfd::resume(&self.record.files, &self.tables, target)?;
        epoll::resume(&self.record, &self.tables, target)?;
        for file in &self.record.files {
            let fd = target.file(file.id)?.as_fd();
            match &file.file {
                File::Inotify(record) => {
                    let root = through(file.mounts, &self.root, &self.roots)?;
                    inotify::resume(record, fd, root, target)?;
                }
                File::Fanotify(record) => {
                    let root = through(file.mounts, &self.root, &self.roots)?;
                    fanotify::resume(record, fd, root, target)?;
                }
                File::Timerfd(record) => timerfd::resume(record, fd)?,
                _ => (),
            }
            if let Some(owner) = &file.owner {
                own(owner, fd, target)?;
            }
            if file.flags as i32 & (O_ASYNC | O_PATH) == O_ASYNC {
                descriptor::set_flags(fd, file.flags as i32)?;
            }
        }
        for (inside, table) in &self.tables {
            locks::resume(table, &mut target.task(*inside)?)?;
        }
        self.waiting.prepare()
    }

    /// Connections that go on when the container runs.
    pub fn waiting(&mut self) -> sockets::tcp::Waiting {
        std::mem::take(&mut self.waiting)
    }
}

fn own(owner: &Owner, fd: BorrowedFd, target: &Target) -> Result<()> {
    descriptor::set_signal(fd, owner.signal)?;
    let kind = match owner.kind {
        None => return Ok(()),
        Some(OwnerKind::Thread) => descriptor::OwnerKind::Thread,
        Some(OwnerKind::Process) => descriptor::OwnerKind::Process,
        Some(OwnerKind::Group) => descriptor::OwnerKind::Group,
    };
    let pid = ours(owner.pid, target)?;
    Ok(descriptor::set_owner(fd, kind, pid)?)
}
