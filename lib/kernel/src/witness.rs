//! A process of ours with ids of our choice and nothing else: whether a task may look at it shows what restricts that task
//! besides ids and capabilities (ptrace(2), "Ptrace access mode checking").

use crate::error::{Named, check};
use crate::{Error, Namespace, Pid, Result, proc::status, within};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use nix::sys::wait::{WaitPidFlag, waitpid};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Lives as long as this value, and no longer than we do.
#[derive(Debug)]
pub struct Witness {
    /// None once it is to end.
    socket: Option<OwnedFd>,
    child: Pid,
    inside: Pid,
}

impl Witness {
    /// One in the pid namespace of process `pid`, with these ids, no groups, no capabilities.
    pub fn beside(pid: Pid, uid: u32, gid: u32) -> Result<Self> {
        let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
        let pair = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.named(|| "socketpair".into())?;
        let child = within(pid, &[Namespace::Pid], || fork(uid, gid, &theirs))??;
        drop(theirs);
        let mut witness = Witness {
            socket: Some(ours),
            child,
            inside: child,
        };
        witness.settled()?;
        let names = status::read(child)?.numbers("NSpid")?;
        witness.inside = names.last().map_or(child, |name| *name as Pid);
        Ok(witness)
    }

    /// Its pid in that namespace.
    pub fn inside(&self) -> Pid {
        self.inside
    }

    fn settled(&self) -> Result<()> {
        let what = || "become a process with other ids".to_owned();
        let socket = self.socket.as_ref().map_or(-1, OwnedFd::as_raw_fd);
        let mut answer = [0; 4];
        let len = recv(socket, &mut answer, MsgFlags::empty()).named(what)?;
        match (len, i32::from_ne_bytes(answer)) {
            (4, 0) => Ok(()),
            (4, errno) => Err(Error::errno(what(), errno)),
            _ => Err(Error::Gone { pid: self.child }),
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        drop(self.socket.take());
        let child = nix::unistd::Pid::from_raw(self.child);
        while waitpid(child, Some(WaitPidFlag::__WALL)) == Err(nix::errno::Errno::EINTR) {}
    }
}

fn fork(uid: u32, gid: u32, socket: &OwnedFd) -> Result<Pid> {
    let socket = socket.as_raw_fd();
    // SAFETY: the child of a process with other threads makes only calls that are safe in a signal handler (fork(2),
    // signal-safety(7)).
    let child = unsafe { libc::fork() };
    if child == 0 {
        live(uid, gid, socket)
    }
    check(child.into(), || "fork a process into the container".into())?;
    Ok(child)
}

/// The child: no memory is allocated and no lock taken in it.
fn live(uid: u32, gid: u32, socket: RawFd) -> ! {
    let header = [CAPABILITY_VERSION, 0];
    let none = [0u32; 6];
    // SAFETY: all calls are system calls (signal-safety(7)) on descriptors of the child's own copy of the table, with
    // buffers of this function that are as long as said. By number: the C library's own would tell its other threads.
    unsafe {
        libc::dup2(socket, 0);
        libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
        let done = libc::syscall(libc::SYS_setgroups, 0, 0) == 0
            && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
            && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
            && libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) == 0
            && libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) == 0;
        let errno = if done { 0 } else { *libc::__errno_location() };
        libc::send(0, (&raw const errno).cast(), 4, libc::MSG_NOSIGNAL);
        let mut end = 0u8;
        libc::recv(0, (&raw mut end).cast(), 1, 0);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_somebody_with_no_rights_and_ends_with_its_value() {
        let witness = Witness::beside(std::process::id() as Pid, 1234, 4321).unwrap();
        let status = status::read(witness.child).unwrap();
        assert_eq!(status.numbers("Uid").unwrap(), [1234; 4]);
        assert_eq!(status.numbers("Gid").unwrap(), [4321; 4]);
        assert_eq!(status.mask("CapPrm").unwrap(), 0);
        assert_eq!(witness.inside(), witness.child);
        let child = witness.child;
        drop(witness);
        assert!(!crate::proc::Proc::process(child).path("stat").exists());
    }
}
