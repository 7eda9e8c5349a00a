//! Forking without an exec: a child that shares descriptors and memory as the kernel's fork leaves them.

use crate::error::Named;
use crate::{Error, Pid, Result};
use nix::unistd::ForkResult;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Forks; the child runs `play` and exits with what it returns, the parent gets the child's pid.
///
/// Only a process with a single thread may do this: a lock that another thread holds would never be released in the child.
pub fn fork(play: impl FnOnce() -> i32) -> Result<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").named(|| "list /proc/self/task".into())?;
    if threads.count() != 1 {
        return Err(Error::Unsupported {
            what: "fork from a process with several threads: fork before making them".into(),
        });
    }
    // SAFETY: this process has one thread, checked above, so that no lock is held by a thread the child would not have.
    match unsafe { nix::unistd::fork() }.named(|| "fork".into())? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            let code = play();
            // SAFETY: _exit(2) ends the process at once and touches nothing of the parent's buffers.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Ends the calling thread alone, without a word to the C library: the first one leaves its process to the others.
pub fn end_this_thread(status: i32) -> ! {
    loop {
        // SAFETY: a number only; nothing of this thread runs afterwards, and its stack stays where it is.
        unsafe { libc::syscall(libc::SYS_exit, status) };
    }
}

/// Makes a command end with the thread of ours that starts it, however that ends.
pub fn bound(command: &mut Command) -> &mut Command {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only prctl(2) and getppid(2) are called, which are async-signal-safe and take
    // numbers only.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            match nix::unistd::getppid() == parent {
                true => Ok(()),
                // It ended before the call: nobody would tell us.
                false => Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        // The test runner itself has a second thread: the one this test runs in.
        let refused = fork(|| 0).expect_err("several threads");
        assert!(refused.to_string().contains("several threads"));
    }
}
