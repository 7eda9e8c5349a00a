//! fanotify(7): groups as they were made; and a gate of our own, at which executions of one file wait until they are allowed
//! (`FAN_OPEN_EXEC_PERM`). Whoever holds a gate holds all who come; it opens for good when the process that made it ends.

use crate::error::{Named, check};
use crate::{Pid, Result};
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags,
    Response,
};
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
