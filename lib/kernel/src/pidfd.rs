//! Process descriptors: signals that cannot hit the wrong process, and descriptors borrowed from a task (`pidfd_getfd(2)`).

use crate::{Pid, Result, error::check};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A process, held by descriptor.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: Pid,
}

impl PidFd {
    /// Opens the process (not a mere thread) `pid` (`pidfd_open(2)`).
    pub fn open(pid: Pid) -> Result<Self> {
        PidFd::with(pid, 0)
    }

    /// Opens a thread, also one that is not the leader (Linux 6.9).
    pub fn thread(tid: Pid) -> Result<Self> {
        const PIDFD_THREAD: i32 = libc::O_EXCL;
        PidFd::with(tid, PIDFD_THREAD)
    }

    /// Opens whichever it is.
    pub fn task(tid: Pid) -> Result<Self> {
        PidFd::open(tid).or_else(|_| PidFd::thread(tid))
    }

    fn with(pid: Pid, flags: i32) -> Result<Self> {
        // SAFETY: the call takes no pointers; a result that is not negative is a new descriptor that nobody else owns.
        let fd = unsafe {
            let raw = check(libc::syscall(libc::SYS_pidfd_open, pid, flags), || {
                format!("pidfd_open of process {pid}")
            })?;
            OwnedFd::from_raw_fd(raw as RawFd)
        };
        Ok(PidFd { fd, pid })
    }

    /// Whose it is.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Our own duplicate of the task's descriptor `number` (`pidfd_getfd(2)`): the same open file description.
    pub fn borrow(&self, number: RawFd) -> Result<OwnedFd> {
        // SAFETY: the call takes no pointers; a result that is not negative is a new descriptor that nobody else owns.
        unsafe {
            let raw = check(
                libc::syscall(libc::SYS_pidfd_getfd, self.fd.as_raw_fd(), number, 0),
                || format!("pidfd_getfd of descriptor {number} of process {}", self.pid),
            )?;
            Ok(OwnedFd::from_raw_fd(raw as RawFd))
        }
    }

    /// Sends a signal (`pidfd_send_signal(2)`).
    pub fn signal(&self, signal: i32) -> Result<()> {
        let none = std::ptr::null::<libc::siginfo_t>();
        let fd = self.fd.as_raw_fd();
        // SAFETY: a null siginfo is allowed and means "as kill(2) would".
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
        check(result, || {
            format!("signal {signal} to process {}", self.pid)
        })?;
        Ok(())
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
