//! Files made again: on our side, before any process has them; then what can only be done once all processes do.

use super::external::Standard;
use super::{contents, deleted, device, directory, epoll, eventfd, external, fifo, inotify, memfd};
use super::{opath, ours, pidfd, pipe, procfile, regular, signalfd, timerfd};
use crate::{Error, Result, Target, locks};
use image::files::contents::{Contents, Extent, Store};
use image::files::pipe::Pipe;
use image::files::table::Table;
use image::files::{File, OpenFile, OpenFiles, Owner, OwnerKind};
use image::ids::{BlobId, PipeId, SharedId};
use image::ids::Pid;
use kernel::descriptor::{self, O_APPEND, O_ASYNC, O_DIRECT, O_NONBLOCK, O_PATH};
use kernel::open::Root;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What making files leaves for later steps.
#[derive(Debug, Default)]
pub struct Opened {
    root: Option<Root>,
    fills: HashMap<BlobId, Fill>,
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
}

impl Opened {
    /// The container's root directory, from before any process of it did chroot(2).
    pub(crate) fn root(&self) -> Result<&Root> {
        self.root
            .as_ref()
            .ok_or_else(|| Error::Refused("files.json comes after a process that needs it".into()))
    }

    fn later(&mut self, id: BlobId, fill: Fill) -> Result<()> {
        match self.fills.insert(id, fill) {
            None => Ok(()),
            Some(_) => Err(Error::Refused(format!(
                "two files have their contents in data/{}",
                id.0
            ))),
        }
    }

    fn contents(&mut self, contents: &Contents, fd: BorrowedFd, what: String) -> Result<()> {
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
}

/// Pipes and fifos while their ends are opened.
#[derive(Default)]
struct Pipes {
    ends: HashMap<PipeId, pipe::Ends>,
    fifos: HashMap<PipeId, OwnedFd>,
}

/// Makes all open files on our side, into `target.files`, and nameless ones into `target.objects`.
pub fn open(record: &OpenFiles, target: &mut Target, standard: Standard) -> Result<()> {
    target.opened.root = Some(Root::of(target.root_pid)?);
    objects(record, target)?;
    let mut pipes = Pipes::default();
    for file in &record.files {
        let fd = make(file, record, &mut pipes, target, standard)?;
        settle(file, fd.as_fd())?;
        if target.files.insert(file.id, fd).is_some() {
            return Err(Error::Refused(format!(
                "open file {} is there twice",
                file.id.0
            )));
        }
    }
    Ok(())
}

fn objects(record: &OpenFiles, target: &mut Target) -> Result<()> {
    let mut made: Vec<(SharedId, OwnedFd, &Contents, String)> = Vec::new();
    let root = target.opened.root()?;
    for file in &record.deleted {
        let what = format!("{} (deleted)", file.path);
        made.push((file.id, deleted::restore(file, root)?, &file.contents, what));
    }
    for file in &record.memfds {
        let what = format!("memfd {}", file.name);
        made.push((file.id, memfd::restore(file)?, &file.contents, what));
    }
    for (id, fd, contents, what) in made {
        target.opened.contents(contents, fd.as_fd(), what)?;
        if target.objects.insert(id, fd).is_some() {
            return Err(Error::Refused(format!("object {} is there twice", id.0)));
        }
    }
    Ok(())
}

fn make(
    file: &OpenFile,
    record: &OpenFiles,
    pipes: &mut Pipes,
    target: &mut Target,
    standard: Standard,
) -> Result<OwnedFd> {
    let (flags, position) = (file.flags, file.position);
    match &file.file {
        File::Pipe(end) => return open_pipe(end.pipe, flags, record, pipes, target),
        File::Fifo(fifo) => return open_fifo(fifo, flags, record, pipes, target),
        _ => (),
    }
    let root = target.opened.root()?;
    match &file.file {
        File::Regular(regular) => regular::restore(regular, flags, position, root),
        File::Deleted(open) => object(open.inode, flags, target),
        File::Memfd(open) => object(open.inode, flags, target),
        File::Directory(directory) => directory::restore(directory, flags, root),
        File::Opath(place) => opath::restore(place, flags, root),
        File::Device(device) => device::restore(device, flags, root),
        File::Eventfd(eventfd) => eventfd::restore(eventfd),
        File::Epoll(epoll) => epoll::restore(epoll),
        File::Timerfd(timerfd) => timerfd::restore(timerfd),
        File::Signalfd(signalfd) => signalfd::restore(signalfd),
        File::Inotify(inotify) => inotify::restore(inotify),
        File::Pidfd(pidfd) => pidfd::restore(pidfd, flags, target),
        File::Procfile(procfile) => procfile::restore(procfile, flags, root),
        File::External(external) => external::restore(external, flags, standard),
        File::Socket(_) => Err(Error::Refused(format!(
            "open file {} is a socket, which this version cannot make",
            file.id.0
        ))),
        File::Pipe(_) | File::Fifo(_) => Err(Error::Refused("unreachable".into())),
    }
}

fn object(id: SharedId, flags: u32, target: &Target) -> Result<OwnedFd> {
    let found = target.objects.get(&id).ok_or_else(|| {
        Error::Refused(format!(
            "the image speaks of object {}, which is not in it",
            id.0
        ))
    })?;
    Ok(descriptor::reopen(found.as_fd(), super::reopening(flags))?)
}

fn pipe_record(id: PipeId, record: &OpenFiles) -> Result<&Pipe> {
    record.pipes.iter().find(|p| p.id == id).ok_or_else(|| {
        Error::Refused(format!(
            "the image speaks of pipe {}, which is not in it",
            id.0
        ))
    })
}

fn open_pipe(
    id: PipeId,
    flags: u32,
    record: &OpenFiles,
    pipes: &mut Pipes,
    target: &mut Target,
) -> Result<OwnedFd> {
    if !pipes.ends.contains_key(&id) {
        let record = pipe_record(id, record)?;
        let ends = pipe::restore(record)?;
        fill_later(record, ends.writer(), target)?;
        pipes.ends.insert(id, ends);
    }
    match pipes.ends.get_mut(&id) {
        Some(ends) => ends.open(flags),
        None => Err(Error::Refused(format!("pipe {} was not made", id.0))),
    }
}

fn open_fifo(
    fifo: &image::files::fifo::Fifo,
    flags: u32,
    record: &OpenFiles,
    pipes: &mut Pipes,
    target: &mut Target,
) -> Result<OwnedFd> {
    if !pipes.fifos.contains_key(&fifo.pipe) {
        let record = pipe_record(fifo.pipe, record)?;
        let both = fifo::both(fifo, target.opened.root()?)?;
        pipe::prepare(record, both.as_fd())?;
        fill_later(record, both.as_fd(), target)?;
        pipes.fifos.insert(fifo.pipe, both);
    }
    match pipes.fifos.get(&fifo.pipe) {
        Some(both) => fifo::restore(flags, both),
        None => Err(Error::Refused(format!("fifo {} was not made", fifo.path))),
    }
}

fn fill_later(record: &Pipe, writer: BorrowedFd, target: &mut Target) -> Result<()> {
    let Store::Blob(id) = record.bytes else {
        return Ok(());
    };
    let fill = Fill::Pipe {
        record: record.clone(),
        writer: descriptor::duplicate(writer)?,
    };
    target.opened.later(id, fill)
}

/// Gives an open file its status flags and its offset.
fn settle(file: &OpenFile, fd: BorrowedFd) -> Result<()> {
    let flags = file.flags as i32;
    if flags & O_PATH != 0 || matches!(file.file, File::External(_) | File::Socket(_)) {
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

/// Takes the contents of a file or pipe out of the stream.
pub fn blob(id: BlobId, from: &mut dyn Read, target: &mut Target) -> Result<()> {
    match target.opened.fills.remove(&id) {
        Some(Fill::File { what, fd, extents }) => {
            contents::fill(fd.as_fd(), &extents, from, &what)
        }
        Some(Fill::Pipe { record, writer }) => pipe::fill(&record, writer.as_fd(), from),
        None => Err(Error::Refused(format!(
            "data/{} belongs to no file of the image, or came twice",
            id.0
        ))),
    }
}

/// What is left to do when every process has its table and all contents are in place: seals, timers, interest lists,
/// watches, owners of signals, locks.
pub fn resume(
    record: &OpenFiles,
    tables: &BTreeMap<Pid, Table>,
    target: &mut Target,
) -> Result<()> {
    if let Some(id) = target.opened.fills.keys().next() {
        return Err(Error::Refused(format!("data/{} is missing", id.0)));
    }
    for memfd in &record.memfds {
        memfd::resume(memfd, target)?;
    }
    epoll::resume(record, tables, target)?;
    for file in &record.files {
        let fd = target.file(file.id)?.as_fd();
        match &file.file {
            File::Inotify(record) => inotify::resume(record, fd, target.opened.root()?)?,
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
    for (inside, table) in tables {
        locks::resume(table, target.process(*inside)?)?;
    }
    Ok(())
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
