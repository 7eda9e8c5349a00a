//! Who is told when a message comes into an empty queue (mq_notify(3)). The kernel shows who, but not what with it: so the
//! program is told once, while it stands still, what it was told is taken from it, and it is registered again.

use crate::{Blocker, Error, Result, Source, SourceProcess, Target};
use image::ipc::notices::{How, Notice};
use image::path::Name;
use kernel::Pid;
use kernel::descriptor::{self, Stat};
use kernel::mqueue::{self, COOKIE, Kind, Noticed};
use kernel::proc::status;
use kernel::remote::{Call, Caller};
use kernel::socket::{self, AF_NETLINK};
use nix::sys::socket::{MsgFlags, recv};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Signals that do more than wait until they are taken, also in a program that stands still (signal(7)).
const AT_ONCE: [i32; 6] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

fn blocked(pid: Pid, name: &[u8], what: &str) -> Blocker {
    Blocker {
        pid,
        place: format!("message queue /{}", Name(name.to_vec())),
        what: format!("it waits to be told of the next message (mq_notify){what}"),
        remedy: "take the container when it has been told, or have it wait in mq_receive".into(),
    }
}

/// In words: that somebody waits.
pub(super) fn waits(noticed: &Noticed, name: &[u8]) -> Blocker {
    blocked(noticed.pid, name, "")
}

/// Whether one of these processes waits, and can be asked for what.
pub(super) fn judge(noticed: &Noticed, name: &[u8], processes: &[Pid]) -> Option<Blocker> {
    if !processes.contains(&noticed.pid) {
        return Some(blocked(noticed.pid, name, ", and is outside the container"));
    }
    let at_once = noticed.kind == Kind::Signal && AT_ONCE.contains(&noticed.signal);
    at_once.then(|| blocked(noticed.pid, name, " by a signal that cannot be put off"))
}

/// A frozen process that waits to be told.
pub(super) struct Waiting<'a> {
    process: &'a mut SourceProcess,
    name: Vec<u8>,
    noticed: Noticed,
    descriptor: i32,
    /// Its netlink sockets, where it is one of these that is told.
    sockets: Vec<(i32, OwnedFd)>,
}

impl<'a> Waiting<'a> {
    /// The one that waits at this queue, if it can be told once without harm.
    pub fn find(
        source: &'a mut Source,
        queue: BorrowedFd,
        name: &[u8],
        noticed: Noticed,
    ) -> Result<Self> {
        let refused = |what: &str| Error::Blocked(vec![blocked(noticed.pid, name, what)]);
        let pids: Vec<Pid> = source.processes.iter().map(|p| p.pid).collect();
        if let Some(blocker) = judge(&noticed, name, &pids) {
            return Err(Error::Blocked(vec![blocker]));
        }
        let mut processes = source.processes.iter_mut();
        let process = processes.find(|process| process.pid == noticed.pid);
        let process = process.filter(|process| process.ended.is_none());
        let process = process.ok_or_else(|| refused(", and its first thread has ended"))?;
        let key = |stat: Stat| (stat.device, stat.inode);
        let wanted = key(descriptor::stat(queue)?);
        let (mut descriptor, mut sockets) = (None, Vec::new());
        for number in process.proc.numbers("fd")? {
            let file = process.pidfd.borrow(number)?;
            let stat = descriptor::stat(file.as_fd())?;
            if key(stat) == wanted && descriptor::flags(file.as_fd())? & descriptor::O_PATH == 0 {
                descriptor = Some(number);
            } else if noticed.kind == Kind::Thread && is_netlink(&file, stat) {
                sockets.push((number, file));
            }
        }
        let descriptor = descriptor.ok_or_else(|| refused(", which it has not open any more"))?;
        if noticed.kind == Kind::Signal && may_not_come(process, noticed.signal)? {
            return Err(refused(" by a signal, and there is one already"));
        }
        Ok(Waiting {
            process,
            name: name.to_vec(),
            noticed,
            descriptor,
            sockets,
        })
    }

    /// What it was told by the message that has just come; it does not know it any more.
    pub fn learn(&mut self) -> Result<Notice> {
        let how = match self.noticed.kind {
            Kind::Nothing => How::Nothing {},
            Kind::Signal => How::Signal {
                signal: self.noticed.signal,
                value: self.value()?,
            },
            Kind::Thread => self.cookie()?,
        };
        Ok(Notice {
            pid: self.process.inside,
            descriptor: self.descriptor,
            how,
        })
    }

    fn lost(&self) -> Error {
        let name = Name(self.name.clone());
        let pid = self.noticed.pid;
        Error::Refused(format!(
            "process {pid} was not told of a message in the queue /{name}, as it had asked to be (mq_notify)"
        ))
    }

    fn value(&mut self) -> Result<u64> {
        let signal = self.noticed.signal;
        if signal == 0 {
            // Which nobody is sent.
            return Ok(0);
        }
        let guest = &mut self.process.leader()?.guest;
        // Mask, time limit, siginfo_t.
        let mut bytes = (1u64 << (signal - 1)).to_ne_bytes().to_vec();
        bytes.resize(24 + 128, 0);
        let at = guest.put(&bytes)?;
        let call = Call::new(libc::SYS_rt_sigtimedwait, &[at, at + 24, at + 8, 8]);
        if guest.call(call)? != i64::from(signal) {
            return Err(self.lost());
        }
        let mut info = [0; 32];
        guest.read(at + 24, &mut info)?;
        let (code, value) = (info[8..12].try_into(), info[24..32].try_into());
        match code.map(i32::from_ne_bytes) {
            Ok(SI_MESGQ) => Ok(value.map(u64::from_ne_bytes).unwrap_or_default()),
            _ => Err(self.lost()),
        }
    }

    fn cookie(&mut self) -> Result<How> {
        for (number, socket) in &self.sockets {
            let found = socket::peek(socket.as_fd(), COOKIE)?;
            let found = found.filter(|found| found.bytes.len() == COOKIE && found.len == COOKIE);
            let Some(found) = found.filter(|found| found.bytes.ends_with(&[WOKEN])) else {
                continue;
            };
            let mut bytes = [0; COOKIE];
            recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT)
                .map_err(|e| kernel::Error::errno("recv of a notice", e as i32))?;
            return Ok(How::Thread {
                socket: *number,
                cookie: found.bytes.into(),
            });
        }
        Err(self.lost())
    }

    /// Registers it again.
    pub fn again(&mut self, notice: &Notice) -> Result<()> {
        register(&mut self.process.leader()?.guest, notice)?;
        self.process.rest()
    }
}

/// `si_code` of what mq_notify(3) sends.
const SI_MESGQ: i32 = -3;
/// The last byte of a cookie, where a message has come (`NOTIFY_WOKENUP`, ipc/mqueue.c).
const WOKEN: u8 = 1;

fn is_netlink(file: &OwnedFd, stat: Stat) -> bool {
    let domain = || socket::number(file.as_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN);
    stat.format() == descriptor::S_IFSOCK && domain().is_ok_and(|domain| domain == AF_NETLINK)
}

/// Whether such a signal waits already, so that another might be lost or come behind it, or no more may wait at all.
fn may_not_come(process: &mut SourceProcess, signal: i32) -> Result<bool> {
    if signal == 0 {
        return Ok(false);
    }
    let status = status::read(process.pid)?;
    let bit = 1u64 << (signal - 1);
    let queued = status.get("SigQ").and_then(|queue| {
        let (now, most) = queue.split_once('/')?;
        Some((
            now.trim().parse::<u64>().ok()?,
            most.trim().parse::<u64>().ok()?,
        ))
    });
    let full = queued.is_none_or(|(now, most)| now >= most);
    Ok(full || (status.mask("SigPnd")? | status.mask("ShdPnd")?) & bit != 0)
}

fn register(task: &mut dyn Caller, notice: &Notice) -> Result<()> {
    let (address, _) = task.scratch()?;
    let (event, cookie) = match &notice.how {
        How::Nothing {} => (mqueue::event(0, 0, Kind::Nothing), &[][..]),
        How::Signal { signal, value } => (mqueue::event(*value, *signal, Kind::Signal), &[][..]),
        How::Thread { socket, cookie } => {
            let at = address + mqueue::EVENT as u64;
            (mqueue::event(at, *socket, Kind::Thread), &cookie.0[..])
        }
    };
    let at = task.put(&[&event, cookie].concat())?;
    let call = Call::new(libc::SYS_mq_notify, &[notice.descriptor as u64, at]);
    Ok(task.must("mq_notify", call).map(drop)?)
}

/// Registers all again: once the processes have their descriptors, and the queues their messages.
pub fn resume(target: &mut Target, record: &image::ipc::Queues) -> Result<()> {
    let notices = record
        .queues
        .iter()
        .filter_map(|queue| queue.notice.as_ref());
    for notice in notices {
        if let How::Thread { cookie, .. } = &notice.how
            && cookie.0.len() != COOKIE
        {
            let what = "a notice of a message queue that is not 32 bytes long";
            return Err(Error::Refused(format!("the image has {what}")));
        }
        register(&mut target.process(notice.pid)?.leader, notice)?;
    }
    Ok(())
}
