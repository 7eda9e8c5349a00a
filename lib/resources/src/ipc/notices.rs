//! Who is told when a message comes into an empty queue (mq_notify(3)). The kernel shows who, but not what with it: so the
//! program is told once, while it stands still, what it was told is taken from it, and it is registered again.

use crate::namespaces::pid;
use crate::{Blocker, Error, Result, Source, SourceProcess, Target, threads};
use image::ipc::notices::{How, Notice};
use image::path::Name;
use image::signals::Pending;
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
        if noticed.kind == Kind::Signal
            && let Some(why) = may_not_come(process, noticed.signal)?
        {
            return Err(refused(&format!(" by a signal, and {why}")));
        }
        Ok(Waiting {
            process,
            name: name.to_vec(),
            noticed,
            descriptor,
            sockets,
        })
    }

    /// What it is told by a message that comes now; it does not know it any more.
    pub fn told(&mut self, send: impl FnOnce() -> Result<()>) -> Result<Notice> {
        let aside = self.set_aside()?;
        let told = send().and_then(|()| self.learn());
        self.queue_again(&aside)?;
        told
    }

    /// Takes those out that wait already and are of its signal: of a plain one, no second would wait.
    fn set_aside(&mut self) -> Result<Vec<Aside>> {
        let signal = self.noticed.signal;
        if self.noticed.kind != Kind::Signal || signal == 0 {
            return Ok(Vec::new());
        }
        let mut aside = Vec::new();
        let pid = self.process.pid;
        for shared in [false, true] {
            let task = self.process.leader()?.guest.task()?;
            let all = threads::pending(pid, pid, task, shared)?.into_iter();
            let of_it =
                all.filter(|one| one.siginfo.0.first().copied().map(i32::from) == Some(signal));
            aside.extend(of_it.map(|one| Aside { shared, one }));
        }
        // The thread's own come first, each kind in its order (kernel/signal.c, `dequeue_signal`).
        for taken in 0..aside.len() {
            if self.take_one()?.is_none() {
                self.queue_again(aside.get(..taken).unwrap_or_default())?;
                return Err(self.lost());
            }
        }
        Ok(aside)
    }

    fn queue_again(&mut self, aside: &[Aside]) -> Result<()> {
        let own = pid::inside(self.process.pid)? as u64;
        let signal = self.noticed.signal as u64;
        for Aside { shared, one } in aside {
            let guest = &mut self.process.leader()?.guest;
            let at = guest.put(&one.siginfo.0)?;
            let call = match shared {
                true => Call::new(libc::SYS_rt_sigqueueinfo, &[own, signal, at]),
                false => Call::new(libc::SYS_rt_tgsigqueueinfo, &[own, own, signal, at]),
            };
            guest.must("queue a signal again", call)?;
        }
        Ok(())
    }

    fn learn(&mut self) -> Result<Notice> {
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
        let info = self.take_one()?.ok_or_else(|| self.lost())?;
        let (code, value) = (info[8..12].try_into(), info[24..32].try_into());
        match code.map(i32::from_ne_bytes) {
            Ok(SI_MESGQ) => Ok(value.map(u64::from_ne_bytes).unwrap_or_default()),
            _ => Err(self.lost()),
        }
    }

    /// Takes a signal of its number, if one waits: the beginning of its siginfo_t.
    fn take_one(&mut self) -> Result<Option<[u8; 32]>> {
        let signal = self.noticed.signal;
        let guest = &mut self.process.leader()?.guest;
        // Mask, time limit, siginfo_t.
        let mut bytes = (1u64 << (signal - 1)).to_ne_bytes().to_vec();
        bytes.resize(24 + 128, 0);
        let at = guest.put(&bytes)?;
        let call = Call::new(libc::SYS_rt_sigtimedwait, &[at, at + 24, at + 8, 8]);
        if guest.call(call)? != i64::from(signal) {
            return Ok(None);
        }
        let mut info = [0; 32];
        guest.read(at + 24, &mut info)?;
        Ok(Some(info))
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

/// A signal that was taken out for a moment.
struct Aside {
    /// Of the process, not of its first thread alone.
    shared: bool,
    one: Pending,
}

/// `si_code` of what mq_notify(3) sends.
const SI_MESGQ: i32 = -3;
/// The last byte of a cookie, where a message has come (`NOTIFY_WOKENUP`, ipc/mqueue.c).
const WOKEN: u8 = 1;

fn is_netlink(file: &OwnedFd, stat: Stat) -> bool {
    let domain = || socket::number(file.as_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN);
    stat.format() == descriptor::S_IFSOCK && domain().is_ok_and(|domain| domain == AF_NETLINK)
}

/// Why it cannot be told by a signal, in words. One of a timer's must not be taken out: the timer would be set anew.
fn may_not_come(process: &mut SourceProcess, signal: i32) -> Result<Option<&'static str>> {
    if signal == 0 {
        return Ok(None);
    }
    let status = status::read(process.pid)?;
    let queued = status.get("SigQ").and_then(|queue| {
        let (now, most) = queue.split_once('/')?;
        Some((
            now.trim().parse::<u64>().ok()?,
            most.trim().parse::<u64>().ok()?,
        ))
    });
    if queued.is_none_or(|(now, most)| now >= most) {
        return Ok(Some("no more may wait"));
    }
    let pid = process.pid;
    let mut found = Vec::new();
    for shared in [false, true] {
        let task = process.leader()?.guest.task()?;
        found.extend(threads::pending(pid, pid, task, shared)?);
    }
    let is = |one: &Pending, at: usize, wanted: i32| {
        one.siginfo.0.get(at..at + 4) == Some(&wanted.to_ne_bytes())
    };
    let mut found = found.iter();
    let timers = found.any(|one| is(one, 0, signal) && is(one, 8, libc::SI_TIMER));
    Ok(timers.then_some("one of a timer's waits already"))
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
pub fn resume<'a>(
    target: &mut Target,
    queues: impl IntoIterator<Item = &'a image::ipc::Queue>,
) -> Result<()> {
    for notice in queues.into_iter().filter_map(|queue| queue.notice.as_ref()) {
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
