//! Terminals made again, before any open file of theirs is: pairs with their numbers, and what was in them. The tree grows
//! with them, for it is by fork that processes come by the terminal of their session.

use super::contents::{self, Contents};
use super::of_record;
use super::sides::directory_of;
use crate::files::external::{self, Stdio};
use crate::files::kind::is_terminal;
use crate::files::{reopening, table};
use crate::tree::OUTSIDE;
use crate::vessel::Console;
use crate::{Error, Result, Target, TargetProcess};
use image::files::tty::{Pair, Terminal, Tty};
use image::ids::{Pid, TerminalId};
use image::path::Name;
use image::tree::Tree;
use kernel::descriptor::{self, O_LARGEFILE_BIT, O_NOCTTY, O_NONBLOCK, O_RDWR, S_IFCHR};
use kernel::namespaces::{Kind, identity, own};
use kernel::open::Root;
use kernel::pidfd::PidFd;
use kernel::proc::{Proc, stat};
use kernel::remote::{Call, Caller, Plant, Stub, call, plant};
use kernel::tty::{self, Window};
use kernel::{Namespace, within};
use nix::mount::{MsFlags, mount};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Terminals on their way.
#[derive(Debug, Default)]
pub struct Terminals {
    all: BTreeMap<TerminalId, Made>,
    /// Masters that are closed in the end, by where their slaves were.
    dead: HashMap<Name, OwnedFd>,
    console: Option<Console>,
}

#[derive(Debug)]
struct Made {
    record: Terminal,
    master: Option<OwnedFd>,
    /// Ours, and closed in the end: of a pair whose slave nobody ever opened there is none. For a terminal from outside,
    /// what stands for it.
    slave: Option<OwnedFd>,
    /// Who makes it the terminal of its session: its leader, or, for one from outside, an init of ours.
    leader: Option<Pid>,
}

impl Terminals {
    /// Makes all of them, in the container whose first process this is.
    pub fn make(records: &[Terminal], first: kernel::Pid, stdio: &Stdio) -> Result<Self> {
        let mut made = Terminals::default();
        let root = Root::of(first)?;
        made.pairs(records, &root, first)?;
        for terminal in records.iter().filter(|t| t.pair.is_none()) {
            made.outside(terminal, stdio, &root, first)?;
        }
        Ok(made)
    }

    fn add(&mut self, made: Made) -> Result<()> {
        let id = made.record.id;
        match self.all.insert(id, made) {
            None => Ok(()),
            Some(_) => Err(Error::Refused(format!("terminal {} is there twice", id.0))),
        }
    }

    fn find(&self, id: TerminalId) -> Result<&Made> {
        self.all.get(&id).ok_or_else(|| {
            Error::Refused(format!(
                "the image speaks of terminal {}, which is not in it",
                id.0
            ))
        })
    }

    /// Pairs get the number they had: the kernel gives the lowest that is free, so those below are taken meanwhile.
    fn pairs(&mut self, records: &[Terminal], root: &Root, first: kernel::Pid) -> Result<()> {
        let mut wanted: BTreeMap<PathBuf, BTreeMap<u32, (&Terminal, &Pair)>> = BTreeMap::new();
        for terminal in records {
            if let Some(pair) = &terminal.pair {
                let all = wanted.entry(directory_of(pair.ptmx.as_path())).or_default();
                if all.insert(pair.index, (terminal, pair)).is_some() {
                    return Err(Error::Refused(format!(
                        "the image has two terminals with number {}",
                        pair.index
                    )));
                }
            }
        }
        for (directory, wanted) in wanted {
            own_devpts(&directory, root, first)?;
            let mut spare = Vec::new();
            for (index, (terminal, pair)) in wanted {
                let ptmx = pair.ptmx.as_path();
                let (master, number) = numbered(ptmx, index, root, &mut spare)?;
                if number != index {
                    return Err(Error::Name(format!(
                        "terminal {} is taken on this host: give the container mounts of its own with -n NAME",
                        directory.join(index.to_string()).display()
                    )));
                }
                self.add(pair_of(terminal, pair, master)?)?;
            }
        }
        Ok(())
    }

    /// Makes its terminal that of a new session, which the leader itself has to do.
    pub(crate) fn control(&self, leader: Pid, stub: &mut Stub) -> Result<()> {
        // Process 1 of an engine has its own from the start.
        if stat::read(stub.tid())?.terminal().is_some() {
            return Ok(());
        }
        let of_leader = |made: &&Made| made.leader == Some(leader);
        let Some(made) = self.all.values().find(of_leader) else {
            return Ok(());
        };
        let what = format!(
            "make terminal {} that of session {leader}",
            made.record.id.0
        );
        with(made, stub, |stub, number| {
            stub.must(&what, tty::take_control(number))?;
            Ok(())
        })
    }

    /// When the tree is grown: who has no terminal of those in a session that has one, and the foreground groups. The
    /// leader is in the foreground until then, so that it is not stopped for it (tty_ioctl(4), SIGTTOU).
    pub(crate) fn settle(
        &self,
        tree: &Tree,
        init: Option<&mut Stub>,
        processes: &mut BTreeMap<Pid, TargetProcess>,
    ) -> Result<()> {
        let mut init = init;
        for made in self.all.values() {
            let Some(leader) = made.leader else {
                continue;
            };
            let members = tree
                .processes
                .iter()
                .filter(|process| process.sid == leader);
            for without in members.filter(|process| !process.terminal) {
                if let Some(process) = processes.get_mut(&without.pid)
                    && without.pid != leader
                {
                    let what = format!("take process {} off its terminal", without.pid);
                    with(made, &mut process.leader, |stub, number| {
                        stub.must(&what, tty::give_up_control(number))?;
                        Ok(())
                    })?;
                }
            }
            let Some(group) = made.record.foreground else {
                continue;
            };
            let stub = match (leader, &mut init) {
                (OUTSIDE, Some(init)) => Some(&mut **init),
                _ => processes
                    .get_mut(&leader)
                    .map(|process| &mut process.leader),
            };
            let stub = stub.ok_or_else(|| {
                Error::Refused(format!(
                    "terminal {} is that of session {leader}, whose leader the image does not have",
                    made.record.id.0
                ))
            })?;
            with(made, stub, |stub, number| {
                let at = stub.put(&group.to_ne_bytes())?;
                let what = format!("bring group {group} to the foreground");
                stub.must(&what, tty::to_foreground(number, at))?;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// What stands for a terminal from outside.
    fn outside(
        &mut self,
        terminal: &Terminal,
        stdio: &Stdio,
        root: &Root,
        first: kernel::Pid,
    ) -> Result<()> {
        let ours = match stdio {
            Stdio::Ours => first_terminal(&[
                Some(std::io::stdin().as_fd()),
                Some(std::io::stdout().as_fd()),
                Some(std::io::stderr().as_fd()),
            ])?,
            Stdio::Null | Stdio::Vessel(_) => None,
        };
        let given = match stdio {
            Stdio::Null | Stdio::Ours if terminal.session.is_some() && ours.is_none() => {
                return Err(Error::Refused(
                    "the container has a terminal whose other side was outside, and here is none for it: restore it \
                     from a terminal with --tty, or into an engine"
                        .into(),
                ));
            }
            Stdio::Null => None,
            Stdio::Ours => match ours {
                Some(here) => return self.console(terminal, &here, root, first),
                None => None,
            },
            Stdio::Vessel(streams) => {
                let streams: Vec<_> = streams
                    .iter()
                    .map(|fd| fd.as_ref().map(|fd| fd.as_fd()))
                    .collect();
                let given = first_terminal(&streams)?;
                if given.is_none() && terminal.session.is_some() {
                    return Err(Error::Refused(
                        "the container has a terminal, and its new one has none: make it with -t"
                            .into(),
                    ));
                }
                given
            }
        };
        if let (Some(given), Stdio::Vessel(_)) = (&given, stdio) {
            let own = descriptor::reopen(given.as_fd(), O_RDWR | O_NONBLOCK | O_NOCTTY)?;
            settle(own.as_fd(), None, terminal, Vec::new())?;
        }
        self.add(Made {
            record: terminal.clone(),
            master: None,
            slave: given,
            leader: terminal.session,
        })
    }

    /// The terminal we were called from stands for one from outside: by way of a pair of the container's, unless its
    /// session is ours.
    fn console(
        &mut self,
        terminal: &Terminal,
        here: &OwnedFd,
        root: &Root,
        first: kernel::Pid,
    ) -> Result<()> {
        let own = descriptor::reopen(here.as_fd(), O_RDWR | O_NONBLOCK | O_NOCTTY)?;
        let us = std::process::id() as kernel::Pid;
        let is_our_session = stat::read(first)?.session() == stat::read(us)?.session();
        if terminal.session.is_none() && is_our_session {
            let foreground = terminal.foreground.is_some();
            self.console = Some(Console::lent(own, terminal.termios.clone(), foreground));
            return self.add(Made {
                record: terminal.clone(),
                master: None,
                slave: Some(descriptor::duplicate(here.as_fd())?),
                leader: None,
            });
        }
        let is_one = |path: &&str| {
            root.stat(Path::new(path))
                .is_ok_and(|s| s.node == tty::PTMX)
        };
        let ptmx = ["/dev/pts/ptmx", "/dev/ptmx"].into_iter().find(is_one);
        let ptmx = ptmx.map(Path::new).ok_or_else(|| {
            Error::Refused(
                "the container has a terminal and no devpts to make another in: mount one at /dev/pts"
                    .into(),
            )
        })?;
        own_devpts(&directory_of(ptmx), root, first)?;
        let master = root.open(ptmx, O_RDWR | O_NOCTTY | O_NONBLOCK)?;
        tty::lock(master.as_fd(), false)?;
        let slave = tty::peer(master.as_fd(), O_RDWR | O_NONBLOCK)?;
        settle(slave.as_fd(), Some(master.as_fd()), terminal, Vec::new())?;
        self.console = Some(Console::relayed(own, master));
        self.add(Made {
            record: terminal.clone(),
            master: None,
            slave: Some(slave),
            leader: Some(terminal.session.unwrap_or(OUTSIDE)),
        })
    }

    /// What is to be attended to as long as the container runs.
    pub fn take_console(&mut self) -> Option<Console> {
        self.console.take()
    }

    /// Opens a terminal.
    pub(crate) fn open(
        &mut self,
        record: &Tty,
        flags: u32,
        root: &Root,
        target: &mut Target,
    ) -> Result<OwnedFd> {
        match record {
            Tty::Master { terminal } => match &self.find(*terminal)?.master {
                Some(master) => Ok(descriptor::duplicate(master.as_fd())?),
                None => Err(Error::Refused(format!(
                    "the image has a master of terminal {}, which is none of its own",
                    terminal.0
                ))),
            },
            Tty::Slave { terminal, path } => {
                let made = self.find(*terminal)?;
                match (&made.slave, &made.master) {
                    // By its master, as openpty(3) does: who opens it by path has O_LARGEFILE.
                    (Some(_), Some(master)) if flags as i32 & O_LARGEFILE_BIT == 0 => {
                        Ok(tty::peer(master.as_fd(), reopening(flags))?)
                    }
                    (Some(slave), _) => open_slave(slave.as_fd(), path, flags, root),
                    (None, _) => external::null(flags),
                }
            }
            Tty::Controlling { terminal, path } => {
                let made = self.find(*terminal)?;
                match (&made.slave, made.leader) {
                    (None, _) => external::null(flags),
                    (Some(_), None) => Ok(root.open(path.as_path(), reopening(flags))?),
                    (Some(_), Some(OUTSIDE)) => {
                        let member = member(target)?;
                        controlling(member, path, flags, root, target)
                    }
                    (Some(_), Some(leader)) => controlling(leader, path, flags, root, target),
                }
            }
            Tty::Dead { path, index } => self.dead(path, *index, flags, root),
        }
    }

    /// A slave that loses its master in the end. Its number does not matter if it is taken.
    fn dead(&mut self, path: &Name, index: u32, flags: u32, root: &Root) -> Result<OwnedFd> {
        if !self.dead.contains_key(path) {
            let directory = path.as_path().parent().unwrap_or(Path::new("/"));
            let ptmx = directory.join("ptmx");
            let (master, _) = numbered(&ptmx, index, root, &mut Vec::new())?;
            tty::lock(master.as_fd(), false)?;
            self.dead.insert(path.clone(), master);
        }
        let master = self
            .dead
            .get(path)
            .ok_or_else(|| Error::Refused(format!("the image has no closed terminal {path}")))?;
        Ok(tty::peer(master.as_fd(), reopening(flags))?)
    }

    /// All are open: what would have stood in the way comes last, and what nobody has open is closed.
    pub(crate) fn finish(&mut self) -> Result<()> {
        for made in std::mem::take(&mut self.all).into_values() {
            let (Some(pair), Some(master)) = (&made.record.pair, &made.master) else {
                continue;
            };
            if let (true, Some(slave)) = (pair.exclusive, &made.slave) {
                tty::set_exclusive(slave.as_fd())?;
            }
            tty::lock(master.as_fd(), pair.locked)?;
            if pair.packets {
                tty::set_packets(master.as_fd(), true)?;
            }
        }
        self.dead.clear();
        Ok(())
    }
}

/// Where a container has mounts of its own and the host's terminals, it gets terminals of its own: their numbers would be
/// taken again and again.
fn own_devpts(directory: &Path, root: &Root, first: kernel::Pid) -> Result<()> {
    let host = Root::at(Path::new("/"))?;
    let (Ok(there), Ok(here)) = (root.stat(directory), host.stat(Path::new("/dev/pts"))) else {
        return Ok(());
    };
    let shared = identity(first, Kind::Mount)? == own(Kind::Mount)?;
    if shared || there.device != here.device {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = Some("gid=5,mode=620,ptmxmode=666");
    within(first, &[Namespace::Mount], || {
        mount(Some("devpts"), directory, Some("devpts"), flags, options)
    })?
    .map_err(|e| {
        let what = format!("mount devpts at {}", directory.display());
        kernel::Error::errno(what, e as i32).into()
    })
}

/// A master with this number, or with a higher one if it is taken.
fn numbered(
    ptmx: &Path,
    index: u32,
    root: &Root,
    spare: &mut Vec<OwnedFd>,
) -> Result<(OwnedFd, u32)> {
    loop {
        if root
            .stat(ptmx)
            .is_ok_and(|found| found.format() == S_IFCHR && found.node != tty::PTMX)
        {
            return Err(Error::Refused(format!(
                "{} makes no terminals here, and the container had one from it; mount devpts there",
                ptmx.display()
            )));
        }
        let master = root.open(ptmx, O_RDWR | O_NOCTTY)?;
        let number = tty::index(master.as_fd())?;
        if number >= index {
            return Ok((master, number));
        }
        spare.push(master);
    }
}

fn pair_of(terminal: &Terminal, pair: &Pair, master: OwnedFd) -> Result<Made> {
    let side = master.as_fd();
    tty::lock(side, false)?;
    let slave = if pair.opened || pair.hung_up {
        Some(tty::peer(side, O_RDWR | O_NONBLOCK)?)
    } else {
        None
    };
    match &slave {
        Some(slave) => {
            descriptor::chown(slave.as_fd(), pair.uid, pair.gid)?;
            descriptor::chmod(slave.as_fd(), pair.mode)?;
            settle(slave.as_fd(), Some(side), terminal, pair.output.0.clone())?;
        }
        None => settings(side, terminal)?,
    }
    Ok(Made {
        record: terminal.clone(),
        master: Some(master),
        slave,
        leader: terminal.session,
    })
}

fn settings(side: BorrowedFd, terminal: &Terminal) -> Result<()> {
    if let Some(termios) = &terminal.termios {
        tty::set_termios(side, &of_record(termios))?;
        let [rows, columns, width, height] = terminal.window;
        let window = Window {
            rows,
            columns,
            width,
            height,
        };
        tty::set_window(side, &window)?;
    }
    Ok(())
}

/// Settings, size, and what was on its way. The slave does not block.
fn settle(
    slave: BorrowedFd,
    master: Option<BorrowedFd>,
    terminal: &Terminal,
    output: Vec<u8>,
) -> Result<()> {
    settings(slave, terminal)?;
    let contents = Contents {
        input: terminal.input.clone(),
        output,
        stopped: terminal.stopped,
    };
    contents::put(slave, master, &tty::termios(slave)?, &contents)
}

fn first_terminal(streams: &[Option<BorrowedFd>]) -> Result<Option<OwnedFd>> {
    for fd in streams.iter().flatten() {
        let found = descriptor::stat(*fd)?;
        if found.format() == S_IFCHR && is_terminal(found.node) {
            return Ok(Some(descriptor::duplicate(*fd)?));
        }
    }
    Ok(None)
}

/// Work of a task with a descriptor of its own for a terminal.
fn with(
    made: &Made,
    stub: &mut Stub,
    work: impl FnOnce(&mut Stub, i32) -> Result<()>,
) -> Result<()> {
    let Some(slave) = &made.slave else {
        return Err(Error::Refused(format!(
            "terminal {} is that of a session, and nobody has it open",
            made.record.id.0
        )));
    };
    let pid = stub.tid();
    let number = 1 + Proc::process(pid)
        .numbers("fd")?
        .last()
        .copied()
        .unwrap_or(2);
    let plants = [Plant {
        fd: slave.as_fd(),
        number,
        close_on_exec: true,
    }];
    plant(stub, &PidFd::open(pid)?, &plants)?;
    work(stub, number)?;
    stub.must("close", call::close(number))?;
    Ok(())
}

/// A process whose session is that of our init, and so its terminal.
fn member(target: &Target) -> Result<Pid> {
    for (inside, process) in &target.processes {
        let stat = stat::read(process.pid)?;
        if stat.terminal().is_some() && stat.session() != process.pid {
            return Ok(*inside);
        }
    }
    Err(Error::Refused(
        "the image has /dev/tty open, and no process with a controlling terminal".into(),
    ))
}

fn open_slave(slave: BorrowedFd, path: &Name, flags: u32, root: &Root) -> Result<OwnedFd> {
    let flags = reopening(flags);
    let wanted = descriptor::stat(slave)?;
    let by_path = root.stat(path.as_path());
    if by_path.is_ok_and(|found| (found.device, found.inode) == (wanted.device, wanted.inode)) {
        return Ok(root.open(path.as_path(), flags)?);
    }
    Ok(descriptor::reopen(slave, flags)?)
}

/// `/dev/tty`, opened by the leader of the session: it leads to the terminal of whoever opens it.
fn controlling(
    leader: Pid,
    path: &Name,
    flags: u32,
    root: &Root,
    target: &mut Target,
) -> Result<OwnedFd> {
    let node = root.stat(path.as_path())?.node;
    if node != tty::CONTROLLING {
        return Err(Error::Refused(format!(
            "{path}: is not the device 5:0 here, which the container has open; make it with mknod"
        )));
    }
    let mut task = target.task(leader)?;
    let mut text = path.0.clone();
    text.push(0);
    let at = task.stub.put(&text)?;
    let flags = (reopening(flags) | descriptor::O_CLOEXEC) as u64;
    let call = Call::new(libc::SYS_openat, &[libc::AT_FDCWD as u64, at, flags, 0]);
    let number = task.stub.must(&format!("open {path}"), call)? as i32;
    let fd = task.pidfd.borrow(number)?;
    table::close(&mut task, number)?;
    Ok(fd)
}
