//! Open files: every open file description once, whoever has it by descriptor. Taken from outside alone (descriptors are
//! borrowed), made on our side, and planted.

pub(crate) mod borrowed;
mod collect;
mod contents;
mod deleted;
mod departed;
mod device;
mod directory;
mod epoll;
mod eventfd;
pub mod external;
mod fanotify;
mod fifo;
mod fs;
mod inotify;
mod kind;
mod memfd;
mod mqueue;
mod namespace;
mod opath;
mod opened;
mod pidfd;
mod pipe;
mod procfile;
mod regular;
pub(crate) mod search;
mod signalfd;
mod surroundings;
pub(crate) mod table;
mod timerfd;
mod tty;
mod tun;
mod view;

pub use collect::Collector;
pub use external::Stdio;
pub(crate) use opened::CoveredRoots;
pub use opened::{Opened, open};
pub use tty::Terminals;
pub(crate) use tty::of_record as termios;

use crate::namespaces::nested::Sights;
use crate::sockets::{self, Outside};
use crate::{Blocker, Error, Result, Source, Target, threads};
use borrowed::{Borrowed, Holder};
use image::files::OpenFiles;
use image::files::fs::Fs;
use image::files::table::Table;
use image::files::tty::Terminal;
use image::ids::{BlobId, Pid, SharedId, TableId};
use image::threads::Apart;
use kernel::descriptor::{
    O_ASYNC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_PATH, O_TMPFILE_BIT, O_TRUNC,
};
use kernel::error::{EBADF, EEXIST, ENOENT, ESRCH};
use kernel::kcmp::{Kind, Sharers};
use kernel::open::Root;
use kernel::pidfd::PidFd;
use kernel::proc::{Proc, status};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use surroundings::Surroundings;

/// All open files of a container.
#[derive(Debug)]
pub struct Taken {
    /// `files.json`.
    pub record: OpenFiles,
    /// Terminals, for `tree.json`.
    pub terminals: Vec<Terminal>,
    /// Nameless files that it has, by device and inode: areas that map one refer to it.
    pub inodes: HashMap<(u64, u64), SharedId>,
    tables: HashMap<TableId, Table>,
    fs: HashMap<kernel::Pid, Fs>,
    apart: (
        HashMap<kernel::Pid, Apart<Table>>,
        HashMap<kernel::Pid, Apart<Fs>>,
    ),
    blobs: Vec<Blob>,
    /// Message queues without a name, for `crate::ipc`.
    pub(crate) queues: Vec<mqueue::Nameless>,
}

/// A bulk entry `data/N`, not read yet.
#[derive(Debug)]
pub(crate) struct Blob {
    id: BlobId,
    source: contents::Bulk,
}

impl Taken {
    /// The descriptors of the process that comes at this place in the source; `None` where it shares those of an earlier one.
    pub fn table(&self, id: TableId) -> Option<Table> {
        self.tables.get(&id).cloned()
    }

    /// What a thread (our id) does not share with the first of its process.
    pub fn apart(&self, tid: kernel::Pid) -> (Option<Apart<Table>>, Option<Apart<Fs>>) {
        let (tables, fs) = &self.apart;
        (tables.get(&tid).cloned(), fs.get(&tid).cloned())
    }

    /// Working directory, root and umask of a process (our pid).
    pub fn fs(&self, pid: kernel::Pid) -> Result<Fs> {
        let fs = self.fs.get(&pid).cloned();
        fs.ok_or_else(|| kernel::Error::Gone { pid }.into())
    }

    /// Streams what follows `files.json`.
    pub fn write_blobs<W: Write>(&self, writer: &mut image::Writer<W>) -> Result<()> {
        for blob in &self.blobs {
            let path = format!("data/{}", blob.id.0);
            let mut entry = writer.blob(&path, blob.source.length())?;
            blob.source.copy(&mut |bytes| Ok(entry.put(bytes)?))?;
            entry.finish()?;
        }
        Ok(())
    }
}

/// What stands in the way of taking the files of these processes (our pids, the root of the tree first), which run:
/// descriptors of all kinds, sockets among them, and how they are shared. `outside` is what becomes of those whose other
/// end is not theirs.
pub fn blockers(pids: &[kernel::Pid], outside: impl Into<Outside>) -> Result<Vec<Blocker>> {
    let root = pids.first().copied().unwrap_or(0);
    let sights = Sights::of(root, pids)?;
    let mut around = Surroundings::of(pids, &sights)?;
    let mut seen = Vec::new();
    let apart = threads::Apart::running(pids)?;
    let holders: Vec<kernel::Pid> = pids.iter().copied().chain(apart.holders()).collect();
    let mut found = apart.blockers();
    if !found.is_empty() {
        return Ok(found);
    }
    for pid in &holders {
        match running(*pid, &mut around) {
            Err(Error::Kernel(e)) if is_gone(&e) => continue,
            files => seen.extend(files?),
        }
    }
    found.extend(sockets::blockers(&holders, outside.into(), &sights)?);
    for file in seen {
        if let Err(obstacle) = kind::kind(&file, &around)
            && !around.may_be_in_flight(&file)
        {
            found.push(Surroundings::blocker(file.holder, obstacle));
        }
    }
    Ok(found)
}

fn is_gone(error: &kernel::Error) -> bool {
    matches!(error.raw(), Some(ENOENT | ESRCH | EBADF))
}

/// The descriptors of a process that runs: those that vanish while we look are nobody's.
fn running(pid: kernel::Pid, around: &mut Surroundings) -> Result<Vec<borrowed::Seen>> {
    let pidfd = PidFd::task(pid)?;
    let mut seen = Vec::new();
    for number in Proc::process(pid).numbers("fd")? {
        let looked = pidfd
            .borrow(number)
            .map_err(Error::from)
            .and_then(|fd| Borrowed::look(Holder { pid, number }, fd));
        match looked {
            Err(Error::Kernel(e)) if is_gone(&e) => continue,
            file => {
                let file = file?;
                around.note(&file)?;
                seen.push(file.seen);
            }
        }
    }
    Ok(seen)
}

/// Takes all open files. What has no name any more is noted in `source.objects`, for the memory that maps it.
pub fn dump(source: &mut Source) -> Result<Taken> {
    let pids: Vec<kernel::Pid> = source.processes.iter().map(|p| p.pid).collect();
    let mut around = Surroundings::of(&pids, &source.sights)?;
    let mut owners = Vec::new();
    let mut tables_met = Sharers::of(Kind::Table);
    let holders = source.holders();
    for pid in &holders {
        if tables_met.meet(*pid)?.is_some() {
            owners.push(None);
            continue;
        }
        let mut seen = Vec::new();
        for number in Proc::process(*pid).numbers("fd")? {
            let holder = Holder { pid: *pid, number };
            let file = Borrowed::look(holder, source.borrow(*pid, number)?)?;
            around.note(&file)?;
            seen.push(file.seen);
        }
        owners.push(Some(seen));
    }
    let mut fs = HashMap::new();
    for pid in pids.iter().copied().chain(source.apart.first_fs()) {
        fs.insert(pid, fs::dump(pid, &around)?);
    }
    let mut collector = Collector::new(source, around);
    let mut tables = HashMap::new();
    for (i, seen) in owners.iter().enumerate() {
        if let Some(seen) = seen {
            let id = TableId(i as u32);
            tables.insert(id, table::dump(id, seen, &mut collector)?);
        }
    }
    collector.take_all()?;
    let terminals = tty::terminals(&mut collector)?;
    let Collector {
        record,
        blobs,
        objects,
        queues,
        ..
    } = collector;
    source.objects = objects.clone();
    let places = holders.iter().zip(0..);
    let by_holder: HashMap<kernel::Pid, TableId> =
        places.map(|(pid, i)| (*pid, TableId(i))).collect();
    let table = |tid: &kernel::Pid| by_holder.get(tid).and_then(|id| tables.get(id).cloned());
    let apart = (
        of_threads(&source.apart.tables, table, source),
        of_threads(&source.apart.fs, |tid| fs.get(tid).cloned(), source),
    );
    Ok(Taken {
        record,
        terminals,
        inodes: objects,
        tables,
        fs,
        apart,
        blobs,
        queues,
    })
}

/// What threads have that do not share it with the first of their process: `first` gives that of the first of them.
fn of_threads<T>(
    apart: &BTreeMap<kernel::Pid, kernel::Pid>,
    first: impl Fn(&kernel::Pid) -> Option<T>,
    source: &Source,
) -> HashMap<kernel::Pid, Apart<T>> {
    let has = |(tid, owner): (&kernel::Pid, &kernel::Pid)| {
        let has = match tid == owner {
            true => Apart::Own(first(tid)?),
            false => Apart::With(source.inside(*owner)?),
        };
        Some((*tid, has))
    };
    apart.iter().filter_map(has).collect()
}

/// The flags to open something again with.
fn reopening(flags: u32) -> i32 {
    // openat2(2) refuses what plain open(2) ignores.
    if flags as i32 & O_PATH != 0 {
        return flags as i32 & (O_PATH | O_DIRECTORY | O_NOFOLLOW);
    }
    let never = O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_ASYNC | O_TMPFILE_BIT;
    (flags as i32 & !never) | O_NOCTTY
}

/// Refuses to open what is not of the type it was: opening a device or a fifo has effects.
fn expect(root: &Root, path: &Path, format: u32, what: &str) -> Result<()> {
    let place = path.display();
    match root.stat(path) {
        Ok(found) if found.format() == format => Ok(()),
        Ok(_) => Err(Error::Refused(format!(
            "{place}: is not {what} here; the container has it open"
        ))),
        Err(e) if e.raw() == Some(ENOENT) => Err(Error::Refused(format!(
            "{place}: is missing here, and the container has it open; bring it to this host, or let the root file system travel in the image"
        ))),
        Err(e) => Err(e.into()),
    }
}

/// Makes something at a path that is to vanish again: beside it where the name is taken, above it where its directory is
/// gone.
fn spare_name<T>(path: &Path, make: impl Fn(&Path) -> kernel::Result<T>) -> Result<(PathBuf, T)> {
    let name = path.file_name().unwrap_or_default().to_os_string();
    let mut directory = path.parent().unwrap_or(Path::new("/"));
    let mut attempt = 0;
    loop {
        let mut name = name.clone();
        if attempt > 0 {
            name.push(format!(".{attempt}"));
        }
        let tried = directory.join(name);
        match make(&tried) {
            Err(e) if e.raw() == Some(EEXIST) && attempt < 1000 => attempt += 1,
            Err(e) if e.raw() == Some(ENOENT) && directory.parent().is_some() => {
                directory = directory.parent().unwrap_or(Path::new("/"));
            }
            made => return Ok((tried, made?)),
        }
    }
}

/// Our pid of a task of the container being rebuilt.
fn ours(inside: Pid, target: &Target) -> Result<kernel::Pid> {
    if let Some(process) = target.processes.get(&inside) {
        return Ok(process.pid);
    }
    let threads = target
        .processes
        .values()
        .find_map(|p| p.threads.get(&inside));
    if let Some(thread) = threads {
        return Ok(kernel::remote::Caller::tid(thread));
    }
    // A zombie: not among what is poured into, but in the same pid namespace.
    let namespace = |pid: kernel::Pid| Proc::process(pid).link("ns/pid").ok();
    let wanted = namespace(target.root_pid);
    let all = kernel::proc::numbers(Path::new("/proc"))?;
    let found = all.into_iter().find(|pid| {
        let name = status::read(*pid).and_then(|s| s.numbers("NSpid"));
        name.is_ok_and(|names| names.last() == Some(&inside.into())) && namespace(*pid) == wanted
    });
    found.ok_or_else(|| {
        Error::Refused(format!(
            "the image speaks of process {inside}, which is not in its tree"
        ))
    })
}
