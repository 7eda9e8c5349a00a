//! Forking without an exec: a child that shares descriptors and memory as the kernel's fork leaves them.

use crate::error::Named;
use crate::{Error, Pid, Result};
use nix::unistd::ForkResult;

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
