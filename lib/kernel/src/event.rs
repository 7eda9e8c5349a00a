//! Descriptors that stand for events: eventfd(2), timerfd_create(2), signalfd(2), epoll(7), inotify(7), pidfd_open(2).

use crate::error::{Named, check};
use crate::{Error, Pid, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `TFD_TIMER_ABSTIME`.
pub const TIMER_ABSTIME: u32 = libc::TFD_TIMER_ABSTIME as u32;
/// `TFD_TIMER_CANCEL_ON_SET`.
pub const TIMER_CANCEL_ON_SET: u32 = libc::TFD_TIMER_CANCEL_ON_SET as u32;
/// `CLOCK_REALTIME`.
pub const CLOCK_REALTIME: i32 = libc::CLOCK_REALTIME;
/// `CLOCK_REALTIME_ALARM`.
pub const CLOCK_REALTIME_ALARM: i32 = libc::CLOCK_REALTIME_ALARM;
/// `PIDFD_THREAD` in the flags of a process descriptor.
pub const PIDFD_THREAD: i32 = libc::O_EXCL;

/// `_IOW('T', 0, u64)` (include/linux/timerfd.h).
const TFD_IOC_SET_TICKS: libc::c_ulong = 0x4008_5400;
/// `_IOW('I', 0, s32)` (include/uapi/linux/inotify.h).
const INOTIFY_IOC_SETNEXTWD: libc::c_ulong = 0x4004_4900;

/// # Safety
/// `raw` must be the result of a call that gives a new descriptor which nobody else owns.
unsafe fn new(raw: i64, what: &str) -> Result<OwnedFd> {
    let raw = check(raw, || what.into())?;
    // SAFETY: not negative, so by the caller's word a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// An event counter.
pub fn eventfd(count: u64, semaphore: bool) -> Result<OwnedFd> {
    let flags = libc::EFD_CLOEXEC | if semaphore { libc::EFD_SEMAPHORE } else { 0 };
    // SAFETY: no pointers; a new descriptor.
    let fd = unsafe { new(libc::eventfd(0, flags).into(), "eventfd")? };
    if count > 0 {
        // u64::MAX is beyond what a program can write, but not beyond what the kernel itself counts to (eventfd(2)).
        for part in [count.min(u64::MAX - 1), count - count.min(u64::MAX - 1)] {
            if part > 0 {
                nix::unistd::write(&fd, &part.to_ne_bytes())
                    .named(|| format!("set an eventfd to {count}"))?;
            }
        }
    }
    Ok(fd)
}

/// A timer that is not armed.
pub fn timerfd(clock: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers; a new descriptor.
    unsafe {
        new(
            libc::timerfd_create(clock, libc::TFD_CLOEXEC).into(),
            &format!("timerfd_create for clock {clock}"),
        )
    }
}

fn timespec(nanoseconds: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    }
}

/// Arms a timer: `TFD_TIMER_*` flags, first expiration and interval in nanoseconds (timerfd_settime(2)).
pub fn arm(fd: BorrowedFd, flags: u32, first: u64, interval: u64) -> Result<()> {
    let new = libc::itimerspec {
        it_interval: timespec(interval),
        it_value: timespec(first),
    };
    // SAFETY: `new` outlives the call; a null old value is allowed.
    let result = unsafe {
        libc::timerfd_settime(
            fd.as_raw_fd(),
            flags as i32,
            &raw const new,
            std::ptr::null_mut(),
        )
    };
    check(result.into(), || "timerfd_settime".into()).map(drop)
}

/// Lets a timer that has expired count what it has missed since and go on (timerfd_gettime(2); fs/timerfd.c,
/// `do_timerfd_gettime`): one with an interval else waits to be read.
pub fn count(fd: BorrowedFd) -> Result<()> {
    let mut left = libc::itimerspec {
        it_interval: timespec(0),
        it_value: timespec(0),
    };
    // SAFETY: `left` outlives the call.
    let result = unsafe { libc::timerfd_gettime(fd.as_raw_fd(), &raw mut left) };
    check(result.into(), || "timerfd_gettime".into()).map(drop)
}

/// Says how many expirations have not been read; not 0 (`TFD_IOC_SET_TICKS`).
pub fn set_ticks(fd: BorrowedFd, ticks: u64) -> Result<()> {
    // SAFETY: the request reads one u64, which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) };
    check(result.into(), || format!("set {ticks} ticks of a timerfd")).map(drop)
}

/// What a clock shows, in nanoseconds.
pub fn now(clock: i32) -> Result<u64> {
    let mut time = timespec(0);
    // SAFETY: `time` outlives the call.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    check(result.into(), || format!("clock_gettime of clock {clock}"))?;
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A signal descriptor; bit N−1 of the mask stands for signal N.
pub fn signalfd(mask: u64) -> Result<OwnedFd> {
    // SAFETY: the kernel reads 8 bytes of mask, which outlives the call; -1 asks for a new descriptor.
    unsafe {
        new(
            libc::syscall(
                libc::SYS_signalfd4,
                -1,
                &raw const mask,
                8,
                libc::SFD_CLOEXEC,
            ),
            "signalfd",
        )
    }
}

/// An empty interest list.
pub fn epoll() -> Result<OwnedFd> {
    // SAFETY: no pointers; a new descriptor.
    unsafe {
        new(
            libc::epoll_create1(libc::EPOLL_CLOEXEC).into(),
            "epoll_create",
        )
    }
}

/// One registration in an interest list.
#[derive(Debug, Clone, Copy)]
pub struct Registration<'a> {
    /// The interest list.
    pub epoll: BorrowedFd<'a>,
    /// What is to be watched.
    pub target: BorrowedFd<'a>,
    /// The number it is to be registered under, whatever has that number in our own table.
    pub number: RawFd,
    /// `EPOLL*`.
    pub events: u32,
    /// `epoll_data`.
    pub data: u64,
}

impl Registration<'_> {
    /// One of `EPOLLONESHOT` that has reported: of its events only those bits are left that are about the registration itself
    /// (fs/eventpoll.c, `EP_PRIVATE_BITS`), and it does not hear of a hang-up either.
    fn is_disarmed(&self) -> bool {
        const PRIVATE: u32 = 0xf << 28;
        self.events & !PRIVATE == 0 && self.events & libc::EPOLLONESHOT as u32 != 0
    }
}

/// Adds registrations. The kernel keys them by number too, so the work is done by a thread with a descriptor table of
/// its own, in which each target is put at its number for a moment: an interest list survives the closing of a duplicate.
pub fn register(registrations: &[Registration]) -> Result<()> {
    let Some(high) = registrations.iter().map(|r| r.number).max() else {
        return Ok(());
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)
                .named(|| "unshare the descriptors of a thread".into())?;
            // While there is nothing else in a list that could be reported in their place.
            let disarmed = registrations.iter().filter(|r| r.is_disarmed());
            let armed = registrations.iter().filter(|r| !r.is_disarmed());
            disarmed.chain(armed).try_for_each(|r| add(r, high))
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The kernel has no call for it: it is to report whatever there is, and is disarmed by that. What cannot be read or written
/// at the moment stays armed for errors and hang-ups.
fn disarm(epoll: &OwnedFd, events: u32, control: impl Fn(i32, u32) -> Result<()>) -> Result<()> {
    let any = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLPRI | libc::EPOLLRDHUP;
    control(libc::EPOLL_CTL_ADD, events | any as u32)?;
    let mut reported = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one event, which outlives the call.
    let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), &raw mut reported, 1, 0) };
    match check(count.into(), || "ask an interest list".into())? {
        0 => control(libc::EPOLL_CTL_MOD, events),
        _ => Ok(()),
    }
}

/// In a table of our own: both are moved above all numbers wanted, then the target to its number; what stood there
/// comes back afterwards, for it may be part of a later registration.
fn add(registration: &Registration, high: RawFd) -> Result<()> {
    let number = registration.number;
    let away = |fd: RawFd| {
        // SAFETY: no pointers; F_DUPFD_CLOEXEC gives a new descriptor, which nobody else owns.
        unsafe {
            new(
                libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, high + 1).into(),
                &format!("move a descriptor above {high} (raise the limit of open files)"),
            )
        }
    };
    let place = |fd: &OwnedFd| {
        // SAFETY: numbers only; this thread's table is its own, and `number` gets back what it had.
        let placed = unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) };
        check(placed.into(), || format!("place descriptor {number}")).map(drop)
    };
    let epoll = away(registration.epoll.as_raw_fd())?;
    let target = away(registration.target.as_raw_fd())?;
    let before = match away(number) {
        Err(e) if e.raw() == Some(libc::EBADF) => None,
        before => Some(before?),
    };
    place(&target)?;
    let control = |operation, events| {
        let mut event = libc::epoll_event {
            events,
            u64: registration.data,
        };
        // SAFETY: `event` outlives the call.
        let result =
            unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, number, &raw mut event) };
        check(result.into(), || format!("watch descriptor {number}")).map(drop)
    };
    let events = registration.events;
    let added = match registration.is_disarmed() {
        false => control(libc::EPOLL_CTL_ADD, events),
        true => disarm(&epoll, events, control),
    };
    match before {
        Some(before) => place(&before)?,
        // SAFETY: nothing had this number before `place`, and this thread's table is its own.
        None => drop(unsafe { OwnedFd::from_raw_fd(number) }),
    }
    added
}

/// An instance without watches.
pub fn inotify() -> Result<OwnedFd> {
    // SAFETY: no pointers; a new descriptor.
    unsafe { new(libc::inotify_init1(libc::IN_CLOEXEC).into(), "inotify_init") }
}

/// Watches an open file (any, also `O_PATH`) under the watch descriptor wanted: in rising order only.
pub fn watch(fd: BorrowedFd, target: BorrowedFd, mask: u32, descriptor: i32) -> Result<()> {
    let what = || format!("watch {descriptor} of an inotify");
    // SAFETY: the request takes its number by value (fs/notify/inotify/inotify_user.c).
    let result = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            INOTIFY_IOC_SETNEXTWD,
            libc::c_long::from(descriptor),
        )
    };
    // Kernels without CONFIG_CHECKPOINT_RESTORE number them themselves, which may be just the number wanted.
    let chosen = check(result.into(), what).map(drop);
    let path = format!("/proc/thread-self/fd/{}\0", target.as_raw_fd());
    // SAFETY: `path` ends with NUL and outlives the call.
    let result = unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr().cast(), mask) };
    let got = check(result.into(), what)? as i32;
    if got != descriptor {
        chosen?;
        return Err(Error::unreadable(
            what(),
            format!("the kernel made it {got}"),
        ));
    }
    Ok(())
}

/// Bytes of events that can be read from an inotify instance (`FIONREAD`).
pub fn unread(fd: BorrowedFd) -> Result<u32> {
    crate::pipe::unread(fd)
}

/// The most events that are caused to make an instance overflow: `/proc/sys/fs/inotify/max_queued_events` is 16384 unless
/// raised.
const MOST_EVENTS: usize = 1 << 22;

/// Has an inotify instance without watches tell its program that events were lost (`IN_Q_OVERFLOW`): its queue is filled by
/// a file of ours until the kernel says so, and emptied of all else.
pub fn overflow(fd: BorrowedFd) -> Result<()> {
    let file = crate::descriptor::memfd(c"inotify")?;
    let path = format!("/proc/thread-self/fd/{}\0", file.as_raw_fd());
    let mask = libc::IN_MODIFY | libc::IN_ATTRIB;
    // SAFETY: `path` ends with NUL and outlives the call.
    let added = unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr().cast(), mask) };
    let watch = check(added.into(), || "watch a file of ours".into())? as i32;
    let (mut before, mut caused) = (0, 0);
    loop {
        // Two kinds in turn: equal neighbours are made one.
        for _ in 0..1024 {
            crate::descriptor::chmod(file.as_fd(), 0o600)?;
            crate::descriptor::truncate(file.as_fd(), 0)?;
        }
        caused += 2048;
        let now = unread(fd)?;
        if now == before || caused > MOST_EVENTS {
            break;
        }
        before = now;
    }
    // While the queue is full the end of the watch is not told either.
    // SAFETY: numbers only.
    let removed = unsafe { libc::inotify_rm_watch(fd.as_raw_fd(), watch) };
    check(removed.into(), || "end a watch of ours".into())?;
    let mut left = (unread(fd)? as usize).saturating_sub(EVENT);
    let mut bytes = vec![0; EVENT * 1024];
    while left > 0 {
        let length = left.min(bytes.len());
        let part = bytes.get_mut(..length).unwrap_or_default();
        left -= nix::unistd::read(fd, part)
            .named(|| "empty an inotify".into())?
            .min(left);
    }
    Ok(())
}

/// `sizeof(struct inotify_event)`: an event without a name.
const EVENT: usize = size_of::<libc::inotify_event>();

/// A process descriptor as a program has one; `thread` for `PIDFD_THREAD` (pidfd_open(2)).
pub fn pidfd(pid: Pid, thread: bool) -> Result<OwnedFd> {
    let flags = if thread { PIDFD_THREAD } else { 0 };
    // SAFETY: no pointers; a new descriptor.
    unsafe {
        new(
            libc::syscall(libc::SYS_pidfd_open, pid, flags),
            &format!("pidfd_open of {pid}"),
        )
    }
}

/// `struct pidfd_info` as of Linux 6.15, and what is asked of it (include/uapi/linux/pidfd.h).
#[repr(C)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}
const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// The wait status of a process that was waited for, by a descriptor of it; kernels before 6.15 do not keep it.
pub fn exit_status(pidfd: BorrowedFd) -> Option<i32> {
    let mut info = Info {
        mask: PIDFD_INFO_EXIT,
        cgroup: 0,
        ids: [0; 11],
        exit_code: 0,
    };
    // SAFETY: the request's number holds the size of `Info`, which the kernel fills and which outlives the call.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// A process that is dead. Process descriptors of it can be made as long as this lives; then it is waited for.
#[derive(Debug)]
pub struct Dead(Pid);

impl Dead {
    /// One with this wait status, in the pid namespace of process `near`.
    pub fn with(status: i32, near: Pid) -> Result<Self> {
        let what = || format!("enter the pid namespace of process {near}");
        let namespace = std::fs::File::open(format!("/proc/{near}/ns/pid")).named(what)?;
        let own = std::fs::File::open("/proc/self/ns/pid").named(what)?;
        let inode = |file: &std::fs::File| crate::descriptor::stat(file.as_fd()).map(|s| s.inode);
        if inode(&namespace)? == inode(&own)? {
            return Dead::fork(status);
        }
        // It counts for the children of a thread (setns(2)), so that one of its own is taken.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWPID).named(what)?;
                Dead::fork(status)
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn fork(status: i32) -> Result<Self> {
        let signal = status & 0x7f;
        // SAFETY: the child makes none but the calls below, which are all safe after fork in a program with threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: numbers only but for the limit, which is the child's own; each of the calls ends the child or is
            // without effect on anybody else. No core file is written for a death that is only repeated.
            unsafe {
                libc::prctl(libc::PR_SET_DUMPABLE, 0);
                if signal != 0 {
                    libc::signal(signal, libc::SIG_DFL);
                    libc::kill(libc::getpid(), signal);
                }
                libc::_exit(status >> 8 & 0xff);
            }
        }
        Ok(Dead(check(child.into(), || "fork".into())? as Pid))
    }

    /// A descriptor of it; `thread` for `PIDFD_THREAD`.
    pub fn pidfd(&self, thread: bool) -> Result<OwnedFd> {
        pidfd(self.0, thread)
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.0), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::fdinfo;

    fn fdinfo(fd: &OwnedFd) -> fdinfo::FdInfo {
        let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
        fdinfo::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn counters_stand_where_they_are_set() {
        for count in [0, 1, 1 << 40, u64::MAX - 1] {
            let fd = eventfd(count, true).unwrap();
            assert_eq!(fdinfo(&fd).eventfd().unwrap(), (count, Some(true)));
        }
    }

    #[test]
    fn a_timer_has_its_ticks_and_what_remains() {
        let fd = timerfd(libc::CLOCK_MONOTONIC).unwrap();
        arm(fd.as_fd(), 0, 50_000_000_000, 7).unwrap();
        set_ticks(fd.as_fd(), 3).unwrap();
        let timer = fdinfo(&fd).timerfd().unwrap();
        assert_eq!((timer.ticks, timer.interval, timer.clock), (3, 7, 1));
        assert!(timer.remaining > 49_000_000_000);
    }

    #[test]
    fn a_registration_has_the_number_wanted_also_where_that_is_taken() {
        let list = epoll().unwrap();
        let target = eventfd(1, false).unwrap();
        let wanted = [list.as_raw_fd(), 0, target.as_raw_fd(), 900];
        let all: Vec<_> = wanted
            .iter()
            .map(|number| Registration {
                epoll: list.as_fd(),
                target: target.as_fd(),
                number: *number,
                events: libc::EPOLLIN as u32,
                data: u64::MAX - *number as u64,
            })
            .collect();
        register(&all).unwrap();
        let mut found: Vec<_> = fdinfo(&list)
            .epoll()
            .unwrap()
            .iter()
            .map(|t| (t.number, t.data))
            .collect();
        found.sort_unstable();
        let mut expected: Vec<_> = all.iter().map(|r| (r.number, r.data)).collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn watches_get_their_numbers_back() {
        let fd = inotify().unwrap();
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for (dir, number) in dirs.iter().zip([3, 17]) {
            let target = std::fs::File::open(dir.path()).unwrap();
            watch(fd.as_fd(), target.as_fd(), libc::IN_CREATE, number).unwrap();
        }
        let mut found: Vec<_> = fdinfo(&fd)
            .inotify()
            .unwrap()
            .iter()
            .map(|w| w.descriptor)
            .collect();
        found.sort_unstable();
        assert_eq!(found, [3, 17]);
    }

    #[test]
    fn an_overflow_is_all_there_is_to_read() {
        let fd = inotify().unwrap();
        overflow(fd.as_fd()).unwrap();
        let mut bytes = [0; 4 * EVENT];
        assert_eq!(nix::unistd::read(&fd, &mut bytes), Ok(EVENT));
        assert_eq!(bytes[..4], (-1i32).to_ne_bytes());
        assert_eq!(bytes[4..8], libc::IN_Q_OVERFLOW.to_ne_bytes());
        assert_eq!(unread(fd.as_fd()).unwrap(), 0);
        assert!(fdinfo(&fd).inotify().unwrap().is_empty());
    }

    #[test]
    fn the_living_and_the_dead_are_held() {
        let me = std::process::id() as Pid;
        assert_eq!(
            fdinfo(&pidfd(me, false).unwrap()).pidfd().unwrap(),
            Some(me)
        );
        for status in [0, 7 << 8, libc::SIGTERM] {
            let dead = Dead::with(status, std::process::id() as Pid).unwrap();
            let held = [dead.pidfd(false).unwrap(), dead.pidfd(false).unwrap()];
            drop(dead);
            for held in held {
                assert_eq!(fdinfo(&held).pidfd().unwrap(), None);
                let found = exit_status(held.as_fd());
                assert!(found.is_none_or(|found| found == status), "{found:?}");
            }
        }
        let mask = signalfd(0x202).unwrap();
        assert_eq!(fdinfo(&mask).signalfd().unwrap(), 0x202);
    }
}
