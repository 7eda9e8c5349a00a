//! Pids by counting, for tasks that may not choose them (`set_tid` of clone3 wants CAP_CHECKPOINT_RESTORE of the one who
//! forks): the next pid given out in a namespace is the one after `ns_last_pid` (pid_namespaces(7)), which only a
//! privileged process in that namespace may write. So one of ours lives there for a while.

use crate::error::Named;
use crate::{Error, Namespace, Pid, Result, within};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::wait::{WaitPidFlag, waitpid};
use std::mem::zeroed;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Said instead of a pid: give up all capabilities.
const WEAKEN: i32 = -1;
/// `struct __user_cap_header_struct` of version 3 (capset(2)), for the caller itself.
const NO_CAPABILITIES: [u32; 2] = [0x2008_0522, 0];

/// A process of ours in a pid namespace. It ends with this value, and with us.
#[derive(Debug)]
pub struct LastPid {
    /// None once it is to end.
    socket: Option<OwnedFd>,
    child: Pid,
}

impl LastPid {
    /// One in the namespace of process `pid`, itself with these pids there and in those around it, innermost first; `EEXIST`
    /// where one is taken.
    pub fn of(pid: Pid, own: &[Pid]) -> Result<Self> {
        let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
        let pair = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.named(|| "socketpair".into())?;
        let child = within(pid, &[Namespace::Pid], || fork(own, &theirs))??;
        Ok(LastPid {
            socket: Some(ours),
            child,
        })
    }

    /// The next pid given out there will be the one after `last`, where that is free.
    pub fn set(&mut self, last: Pid) -> Result<()> {
        self.tell(last, || {
            format!("set the last pid of the container to {last}")
        })
    }

    /// It gives up all it may do, so that everybody of its user may look at it (ptrace(2), "access mode checking"). That is the
    /// last that is done with it.
    pub fn weaken(&mut self) -> Result<()> {
        self.tell(WEAKEN, || {
            "give up the capabilities of a process of ours".into()
        })
    }

    fn tell(&mut self, number: i32, what: impl Fn() -> String) -> Result<()> {
        let socket = self.socket.as_ref().map_or(-1, OwnedFd::as_raw_fd);
        send(socket, &number.to_ne_bytes(), MsgFlags::MSG_NOSIGNAL).named(&what)?;
        let mut answer = [0; 4];
        let len = loop {
            match recv(socket, &mut answer, MsgFlags::empty()) {
                Err(nix::errno::Errno::EINTR) => {}
                len => break len.named(&what)?,
            }
        };
        match (len, i32::from_ne_bytes(answer)) {
            (4, 0) => Ok(()),
            (4, errno) => Err(Error::errno(what(), errno)),
            _ => Err(Error::Gone { pid: self.child }),
        }
    }
}

impl Drop for LastPid {
    fn drop(&mut self) {
        drop(self.socket.take());
        let child = nix::unistd::Pid::from_raw(self.child);
        while waitpid(child, Some(WaitPidFlag::__WALL)) == Err(nix::errno::Errno::EINTR) {}
    }
}

/// Forks from a thread that will fork into the namespace.
fn fork(own: &[Pid], socket: &OwnedFd) -> Result<Pid> {
    let socket = socket.as_raw_fd();
    // SAFETY: the struct is plain integers, for which zero means "not given".
    let mut args: libc::clone_args = unsafe { zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    args.set_tid = own.as_ptr() as u64;
    args.set_tid_size = own.len() as u64;
    // SAFETY: no CLONE_VM, so the child runs on a copy of this stack; `args` and `own` outlive the call. The child of a
    // process with other threads makes only calls that are safe in a signal handler (fork(2), signal-safety(7)).
    let child =
        unsafe { libc::syscall(libc::SYS_clone3, &mut args, size_of::<libc::clone_args>()) };
    if child == 0 {
        live(socket)
    }
    let child = crate::error::check(child, || {
        format!("fork a process with the pids {own:?} into the container")
    })?;
    Ok(child as Pid)
}

/// The child: no memory is allocated and no lock taken in it.
fn live(socket: RawFd) -> ! {
    // SAFETY: all calls are system calls (signal-safety(7)) on descriptors of the child's own copy of the table, with
    // buffers of this function that are as long as said.
    unsafe {
        libc::dup2(socket, 0);
        libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
        let file = libc::open(c"/proc/sys/kernel/ns_last_pid".as_ptr(), libc::O_WRONLY);
        let mut number = [0u8; 4];
        while libc::recv(0, number.as_mut_ptr().cast(), 4, 0) == 4 {
            let mut text = [0u8; 12];
            let number = i32::from_ne_bytes(number);
            let digits = decimal(number, &mut text);
            let done = match number {
                WEAKEN => libc::syscall(
                    libc::SYS_capset,
                    NO_CAPABILITIES.as_ptr(),
                    [0u32; 6].as_ptr(),
                ) as isize,
                _ => libc::pwrite(file, digits.as_ptr().cast(), digits.len(), 0),
            };
            let errno = if done < 0 {
                *libc::__errno_location()
            } else {
                0
            };
            libc::send(0, (&raw const errno).cast(), 4, libc::MSG_NOSIGNAL);
        }
        libc::_exit(0)
    }
}

/// A number's digits, without the allocation that formatting would need.
fn decimal(number: i32, text: &mut [u8; 12]) -> &[u8] {
    let mut rest = number.unsigned_abs();
    let mut at = text.len();
    loop {
        at -= 1;
        if let Some(digit) = text.get_mut(at) {
            *digit = b'0' + (rest % 10) as u8;
        }
        rest /= 10;
        if rest == 0 || at == 0 {
            return text.get(at..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    #[test]
    fn numbers_are_written_as_the_kernel_reads_them() {
        for number in [0, 7, 10, 4_194_303, i32::MAX] {
            let mut text = [0; 12];
            assert_eq!(decimal(number, &mut text), number.to_string().as_bytes());
        }
    }

    #[test]
    fn the_next_process_there_has_the_next_number_and_nothing_of_ours_stays() {
        let mut shell = Command::new("unshare")
            .args(["-p", "-f", "--kill-child", "--mount-proc", "sh", "-c"])
            .arg("while read -r _; do sh -c 'echo $$'; done; ls /proc | grep -c '^[0-9]'")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut say = shell.stdin.take().unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let mut next = || -> Pid {
            writeln!(say).unwrap();
            lines.next().unwrap().unwrap().parse().unwrap()
        };
        next();
        let unshare = shell.id();
        let inside = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
        let inside: Pid = inside.unwrap().trim().parse().unwrap();
        let mut counter = LastPid::of(inside, &[32_000]).unwrap();
        assert!(LastPid::of(inside, &[32_000]).is_err_and(|e| e.raw() == Some(libc::EEXIST)));
        for number in [700, 20_000, 55] {
            counter.set(number - 1).unwrap();
            assert_eq!(next(), number);
        }
        counter.weaken().unwrap();
        assert!(counter.set(60).is_err_and(|e| e.raw() == Some(libc::EPERM)));
        drop(counter);
        drop(say);
        // The shell itself, ls and grep.
        assert_eq!(lines.next().unwrap().unwrap(), "3");
        shell.wait().unwrap();
    }
}
