//! fanotify(7): groups as they were made; and a gate of our own, at which executions of one file wait until they are allowed
//! (`FAN_OPEN_EXEC_PERM`). Whoever holds a gate holds all who come; it opens for good when the process that made it ends.

use crate::error::{Named, check};
use crate::{Pid, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags,
    Response,
};
use nix::sys::stat::Mode;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// `FAN_MARK_MOUNT`.
pub const MOUNT: u32 = libc::FAN_MARK_MOUNT;
/// `FAN_MARK_FILESYSTEM`.
pub const FILESYSTEM: u32 = libc::FAN_MARK_FILESYSTEM;
/// Events that wait for an answer: `FAN_OPEN_PERM`, `FAN_ACCESS_PERM`, `FAN_OPEN_EXEC_PERM`, `FAN_PRE_ACCESS`.
pub const DECIDES: u64 = 0x17_0000;
/// `FAN_MARK_IGNORE` (since 6.0), as opposed to `FAN_MARK_IGNORED_MASK`.
const IGNORE: u32 = 0x400;
/// `FAN_MARK_EVICTABLE`.
const EVICTABLE: u32 = 0x200;

/// A group without marks.
pub fn group(flags: u32, event_flags: u32) -> Result<OwnedFd> {
    // SAFETY: numbers only; a result that is not negative is a new descriptor.
    unsafe {
        let made = libc::fanotify_init(flags, event_flags);
        let raw = check(made.into(), || {
            format!("fanotify_init with flags {flags:#x}")
        })?;
        let made = OwnedFd::from_raw_fd(raw as i32);
        // Of ours, whatever the program's was: that does not become a flag of the group's.
        libc::fcntl(made.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC);
        Ok(made)
    }
}

/// Adds a mark on an open file (any, also `O_PATH`), or with `scope` on what it is in; `flags` as fdinfo shows them.
pub fn mark(
    group: BorrowedFd,
    file: BorrowedFd,
    scope: u32,
    flags: u32,
    mask: u64,
    ignored: u64,
) -> Result<()> {
    let path = format!("/proc/thread-self/fd/{}\0", file.as_raw_fd());
    let add = |more: u32, mask: u64| {
        let flags = libc::FAN_MARK_ADD | scope | more;
        let (group, here) = (group.as_raw_fd(), libc::AT_FDCWD);
        // SAFETY: `path` ends with NUL and outlives the call.
        let result = unsafe { libc::fanotify_mark(group, flags, mask, here, path.as_ptr().cast()) };
        check(result.into(), || {
            format!("fanotify_mark with flags {flags:#x}, mask {mask:#x}")
        })
    };
    if mask != 0 {
        add(flags & EVICTABLE, mask)?;
    }
    if ignored != 0 {
        let kind = match flags & IGNORE {
            0 => libc::FAN_MARK_IGNORED_MASK,
            ignore => ignore,
        };
        let kept = flags & (EVICTABLE | libc::FAN_MARK_IGNORED_SURV_MODIFY);
        add(kind | kept, ignored)?;
    }
    Ok(())
}

/// `FAN_UNLIMITED_QUEUE`, which never overflows, and `FAN_REPORT_PIDFD`, whose events bring descriptors of processes.
const UNTOLD: u32 = libc::FAN_UNLIMITED_QUEUE | 0x80;
/// Events caused between two looks, and most of all: `/proc/sys/fs/fanotify/max_queued_events` is 16384 unless raised.
const AT_ONCE: usize = 1024;
const MOST_EVENTS: usize = 1 << 20;

/// Has a group without marks tell its program that events were lost (`FAN_Q_OVERFLOW`): its queue is filled by files of ours
/// until the kernel says so, and emptied of all else. Whether that can be said by a group with these flags.
pub fn overflow(group: BorrowedFd, flags: u32) -> Result<bool> {
    if flags & UNTOLD != 0 {
        return Ok(false);
    }
    let (mut before, mut caused) = (0, 0);
    loop {
        // Each of a file of its own: those of the same become one.
        for _ in 0..AT_ONCE {
            let Some(file) = nameless() else {
                return Ok(false);
            };
            mark(group, file.as_fd(), 0, 0, libc::FAN_MODIFY, 0)?;
            crate::descriptor::write_at(file.as_fd(), 0, b"x")?;
        }
        caused += AT_ONCE;
        let now = waiting(group)?;
        if now - before < AT_ONCE {
            break;
        }
        if caused > MOST_EVENTS {
            return Ok(false);
        }
        before = now;
    }
    // SAFETY: no path is given.
    let flushed = unsafe {
        let (flush, here) = (libc::FAN_MARK_FLUSH, libc::AT_FDCWD);
        libc::fanotify_mark(group.as_raw_fd(), flush, 0, here, std::ptr::null())
    };
    check(flushed.into(), || "end marks of ours".into())?;
    // All but the last, which is that word.
    let mut left = waiting(group)?;
    let mut bytes = vec![0; EVENT * 128];
    let mut length = bytes.len();
    while left > 1 {
        // One at a time where it might come along.
        let room = if left > 128 { bytes.len() } else { length };
        let part = bytes.get_mut(..room).unwrap_or_default();
        let read = nix::unistd::read(group, part).named(|| "empty a fanotify group".into())?;
        let (count, last) = close_all(part.get(..read).unwrap_or_default());
        left = left.saturating_sub(count.max(1));
        length = last.clamp(EVENT, bytes.len());
    }
    Ok(true)
}

/// A file without a name, in a file system that has names for files without one: of a memory file nobody is told by name.
fn nameless() -> Option<OwnedFd> {
    let (flags, mode) = (
        OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC,
        Mode::S_IRUSR,
    );
    let places = ["/dev/shm", "/tmp", "/run"];
    places
        .into_iter()
        .find_map(|place| open(place, flags, mode).ok())
}

/// Events in the queue: what `FIONREAD` says counts each as if nothing more were said of it.
fn waiting(group: BorrowedFd) -> Result<usize> {
    Ok(crate::pipe::unread(group)? as usize / EVENT)
}

/// `sizeof(struct fanotify_event_metadata)`; what says more of an event follows it.
const EVENT: usize = 24;

/// Closes the descriptors that came with events. How many these were, and the length of the last.
fn close_all(mut events: &[u8]) -> (usize, usize) {
    let word = |events: &[u8], at: usize| {
        let word = events.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map_or(-1, i32::from_ne_bytes)
    };
    let (mut count, mut length) = (0, 0);
    while events.len() >= EVENT {
        length = word(events, 0).max(EVENT as i32) as usize;
        let fd = word(events, 16);
        if fd >= 0 {
            // SAFETY: the kernel has just made it for us, and nobody else knows its number.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        events = events.get(length..).unwrap_or_default();
        count += 1;
    }
    (count, length)
}

/// The gate before a file. Held by a process that forks no other: a child that waits at the gate itself would hold it too.
#[derive(Debug)]
pub struct Gate {
    group: Fanotify,
    come: VecDeque<FanotifyEvent>,
}

/// Who waits at it.
#[derive(Debug)]
pub struct Waiting(FanotifyEvent);

impl Waiting {
    /// The process that is about to become the file's program, and is not yet.
    pub fn pid(&self) -> Pid {
        self.0.pid()
    }
}

impl Gate {
    /// Before the file of this path. Needs CAP_SYS_ADMIN.
    pub fn before(path: &Path) -> Result<Self> {
        let what = || format!("watch the executions of {}", path.display());
        let group = Fanotify::init(
            InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK,
            EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC,
        )
        .named(what)?;
        let (add, executed) = (MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_OPEN_EXEC_PERM);
        let file = std::fs::File::open(path).named(what)?;
        group
            .mark(add, executed, &file, None::<&Path>)
            .named(what)?;
        Ok(Gate {
            group,
            come: VecDeque::new(),
        })
    }

    /// The next who waits, where there is one.
    pub fn who(&mut self) -> Result<Option<Waiting>> {
        if self.come.is_empty() {
            match self.group.read_events() {
                Ok(events) => self.come.extend(events),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(crate::Error::errno("read fanotify events", e as i32)),
            }
        }
        Ok(self.come.pop_front().map(Waiting))
    }

    /// Lets one pass.
    pub fn allow(&self, waiting: Waiting) -> Result<()> {
        let Some(fd) = waiting.0.fd() else {
            return Ok(());
        };
        let response = FanotifyResponse::new(fd, Response::FAN_ALLOW);
        self.group
            .write_response(response)
            .named(|| format!("allow process {} its execution", waiting.pid()))
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::process::Command;

    #[test]
    fn a_loss_is_told_and_nothing_else() {
        let names = libc::FAN_REPORT_DFID_NAME;
        for flags in [0, names] {
            let group = group(flags | libc::FAN_NONBLOCK, 0).unwrap();
            assert!(overflow(group.as_fd(), flags).unwrap());
            let mut event = [0; 256];
            let read = nix::unistd::read(&group, &mut event).unwrap();
            let mask = u64::from_ne_bytes(event[8..16].try_into().unwrap());
            assert_eq!((read, mask), (EVENT, libc::FAN_Q_OVERFLOW));
        }
        let endless = group(libc::FAN_UNLIMITED_QUEUE, 0).unwrap();
        assert!(!overflow(endless.as_fd(), libc::FAN_UNLIMITED_QUEUE).unwrap());
    }

    #[test]
    fn an_execution_waits_until_it_is_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("true");
        std::fs::copy("/bin/true", &program).unwrap();
        let mut gate = Gate::before(&program).unwrap();
        assert!(gate.who().unwrap().is_none());
        // The one who starts it waits for the execution as well.
        let start = std::thread::spawn(move || Command::new(&program).status());
        let mut fds = [PollFd::new(gate.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)), Ok(1));
        let waiting = gate.who().unwrap().unwrap();
        assert_ne!(waiting.pid(), std::process::id() as Pid);
        assert!(!start.is_finished());
        gate.allow(waiting).unwrap();
        assert!(start.join().unwrap().unwrap().success());
    }
}
