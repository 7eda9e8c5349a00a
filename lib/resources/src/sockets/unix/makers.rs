//! Who makes a socket listen or connect: `SO_PEERCRED` shows that process (unix(7)), so the processes of the container do
//! it, one call each. They can only be driven by the thread that traces them, while sockets are made by one that is in
//! their network: that one asks.
//!
//! Where the process that made the original is none of the container's, or in another network, our own process does it, with
//! that user and group: the pid is lost then.

use super::made::type_of;
use crate::files::table;
use crate::namespaces::user;
use crate::target::{TargetProcess, TargetTask};
use crate::{Error, Result};
use image::ids::Pid;
use image::sockets::unix::{Credentials, Kind};
use kernel::descriptor::duplicate;
use kernel::namespaces::{Kind as Namespace, identity};
use kernel::open::Root;
use kernel::remote::{Call, Caller, Plant, plant};
use kernel::socket::root;
use kernel::socket::{self, AF_UNIX};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};

/// Whoever asks the thread that traces the processes.
#[derive(Debug)]
pub(in crate::sockets) struct Makers(Sender<Asked>);

/// What is to be done by which process.
#[derive(Debug)]
struct Asked {
    who: Credentials,
    deed: Deed,
    answer: SyncSender<Result<Done>>,
}

#[derive(Debug)]
enum Deed {
    Listen { fd: OwnedFd, backlog: u32 },
    Connect { fd: OwnedFd, to: To },
    Pair { kind: Kind },
}

/// A socket's address, and the directory at which it starts.
#[derive(Debug)]
struct To {
    directory: OwnedFd,
    address: Vec<u8>,
}

#[derive(Debug)]
enum Done {
    /// No process can.
    Not,
    Yes,
    Pair(OwnedFd, OwnedFd),
}

impl Makers {
    /// Makes a bound socket listen.
    pub(super) fn listen(
        &self,
        who: Option<Credentials>,
        fd: BorrowedFd,
        backlog: u32,
    ) -> Result<()> {
        let deed = || {
            let fd = duplicate(fd)?;
            Ok(Deed::Listen { fd, backlog })
        };
        match self.ask(who, deed)? {
            Done::Not => shown_as(who, || socket::listen(fd, backlog)),
            _ => Ok(()),
        }
    }

    /// Connects a socket to an address, which is looked up beneath this thread's root directory.
    pub(super) fn connect(
        &self,
        who: Option<Credentials>,
        fd: BorrowedFd,
        address: &[u8],
    ) -> Result<()> {
        let deed = || {
            let (fd, to) = (duplicate(fd)?, To::of(address)?);
            Ok(Deed::Connect { fd, to })
        };
        match self.ask(who, deed)? {
            Done::Not => shown_as(who, || socket::connect(fd, address)),
            _ => Ok(()),
        }
    }

    /// Two connected sockets.
    pub(super) fn pair(&self, who: Option<Credentials>, kind: Kind) -> Result<(OwnedFd, OwnedFd)> {
        match self.ask(who, || Ok(Deed::Pair { kind }))? {
            Done::Pair(one, two) => Ok((one, two)),
            _ => shown_as(who, || socket::pair(AF_UNIX, type_of(kind))),
        }
    }

    fn ask(&self, who: Option<Credentials>, deed: impl FnOnce() -> Result<Deed>) -> Result<Done> {
        let Some(who) = who.filter(|who| who.pid != 0) else {
            return Ok(Done::Not);
        };
        let (answer, answered) = sync_channel(1);
        let deed = deed()?;
        let gone = || Error::Refused("nobody drives the processes any more".into());
        self.0
            .send(Asked { who, deed, answer })
            .map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

impl To {
    /// In the words of whoever works in that directory, of which no other need be in reach.
    fn of(address: &[u8]) -> Result<Self> {
        let at = |path: &Path| {
            let directory = Root::at(path)?;
            duplicate(directory.fd())
        };
        let path = socket::address::parse_unix(address).filter(|name| name.first() != Some(&0));
        let named = path.map(|path| Path::new(OsStr::from_bytes(path)));
        let Some((path, name)) = named.and_then(|path| Some((path, path.file_name()?))) else {
            let (directory, address) = (at(Path::new("."))?, address.to_vec());
            return Ok(To { directory, address });
        };
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let short = socket::address::unix(name.as_bytes());
        Ok(To {
            directory: at(parent.unwrap_or(Path::new(".")))?,
            address: short.unwrap_or_else(|| address.to_vec()),
        })
    }
}

/// Runs `work` on another thread, and meanwhile has those of the container's processes that are in this network do what it
/// asks.
pub(in crate::sockets) fn with<T: Send>(
    processes: &mut BTreeMap<Pid, TargetProcess>,
    network: u64,
    work: impl FnOnce(Makers) -> T + Send,
) -> T {
    kernel::attended(
        |ask| work(Makers(ask)),
        |asked: Asked| {
            let done = act(processes, network, asked.who, asked.deed);
            // Whoever asked waits for it, unless it has failed.
            let _ = asked.answer.send(done);
        },
    )
}

fn act(
    processes: &mut BTreeMap<Pid, TargetProcess>,
    network: u64,
    who: Credentials,
    deed: Deed,
) -> Result<Done> {
    let Some(process) = processes.get_mut(&who.pid) else {
        return Ok(Done::Not);
    };
    let is_there = identity(process.pid, Namespace::Network)? == network;
    let who_there = within(process.pid, who)?.filter(|_| is_there);
    match who_there.zip(process.task(who.pid)) {
        Some((who, mut task)) => as_user(&mut task, who, |task| match deed {
            Deed::Listen { fd, backlog } => listen(task, &fd, backlog),
            Deed::Connect { fd, to } => connect(task, &fd, &to),
            Deed::Pair { kind } => pair(task, kind),
        }),
        None => Ok(Done::Not),
    }
}

/// Whom the user namespace of a process knows as that user and group.
fn within(pid: kernel::Pid, who: Credentials) -> Result<Option<Credentials>> {
    let Some(maps) = user::around(pid)? else {
        return Ok(Some(who));
    };
    let ids = user::inside(&maps.uids, who.uid).zip(user::inside(&maps.gids, who.gid));
    Ok(ids.map(|(uid, gid)| Credentials { uid, gid, ..who }))
}

/// With that effective user and group, where the task may take them.
fn as_user(
    task: &mut TargetTask,
    who: Credentials,
    work: impl FnOnce(&mut TargetTask) -> Result<Done>,
) -> Result<Done> {
    let effective = |nr, id: u32| {
        let keep = u64::from(u32::MAX);
        Call::new(nr, &[keep, id.into(), keep])
    };
    let group = |id| effective(libc::SYS_setresgid, id);
    let user = |id| effective(libc::SYS_setresuid, id);
    let now = |task: &mut TargetTask, nr| task.stub.must("ask for ids", Call::new(nr, &[]));
    let uid = now(task, libc::SYS_geteuid)? as u32;
    let gid = now(task, libc::SYS_getegid)? as u32;
    if gid != who.gid && task.stub.call(group(who.gid))? < 0 {
        return Ok(Done::Not);
    }
    let is_user = uid == who.uid || task.stub.call(user(who.uid))? >= 0;
    let done = match is_user {
        true => work(task),
        false => Ok(Done::Not),
    };
    if is_user && uid != who.uid {
        task.stub.must("take the user back", user(uid))?;
    }
    if gid != who.gid {
        task.stub.must("take the group back", group(gid))?;
    }
    done
}

/// Lends descriptors of ours to a task for some calls.
fn lent<T>(
    task: &mut TargetTask,
    fds: &[BorrowedFd],
    work: impl FnOnce(&mut TargetTask, u64) -> Result<T>,
) -> Result<T> {
    let first = task.proc.numbers("fd")?.last().map_or(3, |last| last + 1);
    let plants: Vec<Plant> = (first..)
        .zip(fds)
        .map(|(number, fd)| Plant {
            fd: *fd,
            number,
            close_on_exec: true,
        })
        .collect();
    plant(task.stub, task.pidfd, &plants)?;
    let result = work(task, first as u64);
    for plant in &plants {
        table::close(task, plant.number)?;
    }
    result
}

fn done(result: i64) -> Done {
    if result < 0 { Done::Not } else { Done::Yes }
}

fn listen(task: &mut TargetTask, fd: &OwnedFd, backlog: u32) -> Result<Done> {
    lent(task, &[fd.as_fd()], |task, fd| {
        let call = Call::new(libc::SYS_listen, &[fd, backlog.into()]);
        Ok(done(task.stub.call(call)?))
    })
}

fn connect(task: &mut TargetTask, fd: &OwnedFd, to: &To) -> Result<Done> {
    let back = Root::at(&task.proc.path("cwd"))?;
    let fds = [fd.as_fd(), to.directory.as_fd(), back.fd()];
    lent(task, &fds, |task, fd| {
        let change = |number| Call::new(libc::SYS_fchdir, &[number]);
        if task.stub.call(change(fd + 1))? < 0 {
            return Ok(Done::Not);
        }
        let at = task.stub.put(&to.address)?;
        let call = Call::new(libc::SYS_connect, &[fd, at, to.address.len() as u64]);
        let result = task.stub.call(call)?;
        task.stub.must("go back to its directory", change(fd + 2))?;
        Ok(done(result))
    })
}

fn pair(task: &mut TargetTask, kind: Kind) -> Result<Done> {
    let (at, _) = task.stub.scratch()?;
    let (family, kind) = (AF_UNIX as u64, type_of(kind) as u64);
    let call = Call::new(libc::SYS_socketpair, &[family, kind, 0, at]);
    if task.stub.call(call)? < 0 {
        return Ok(Done::Not);
    }
    let mut numbers = [[0; 4]; 2];
    for (at, number) in (at..).step_by(4).zip(&mut numbers) {
        task.stub.read(at, number)?;
    }
    let numbers = numbers.map(i32::from_ne_bytes);
    let ours = numbers.map(|number| task.pidfd.borrow(number));
    for number in numbers {
        table::close(task, number)?;
    }
    let [one, two] = ours;
    Ok(Done::Pair(one?, two?))
}

/// Runs `work` so that the socket it makes shows this user and group to its peer.
fn shown_as<T>(who: Option<Credentials>, work: impl FnOnce() -> kernel::Result<T>) -> Result<T> {
    match who {
        None => Ok(work()?),
        Some(who) => Ok(root::as_user(who.uid, who.gid, work)??),
    }
}
