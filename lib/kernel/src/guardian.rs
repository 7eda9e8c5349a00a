//! The work on a container is done by a child, the guardian, so that a kill of the tool itself kills nobody who holds
//! a task stopped: the guardian hears of it, finds its output broken, and undoes what it began, as after any failure.
//! What it cannot undo because it is killed itself is left to what heals by itself (see [`crate::remote::Guest`]).

use crate::error::{Named, check};
use crate::{Result, own::child};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// What the output becomes when the work is to end: a pipe that nobody reads.
static BROKEN: AtomicI32 = AtomicI32::new(-1);
/// The output.
static OUTPUT: AtomicI32 = AtomicI32::new(-1);

/// Runs `work` in a guardian and gives the exit status it ends with. The calling process must have one thread.
///
/// A signal that ends either of the two makes every later write to the descriptor `output` fail with `EPIPE`, also one
/// that waits.
pub fn guarded(output: RawFd, work: impl FnOnce() -> u8) -> Result<u8> {
    let parent = nix::unistd::getpid();
    let pid = child::fork(|| match watch(parent, output) {
        Ok(()) => i32::from(work()),
        Err(_) => 1,
    })?;
    loop {
        match waitpid(nix::unistd::Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, status)) => return Ok(status as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as u8),
            Ok(_) | Err(nix::errno::Errno::EINTR) => (),
            Err(e) => return Err(crate::Error::errno("wait for the guardian", e as i32)),
        }
    }
}

fn watch(parent: nix::unistd::Pid, output: RawFd) -> Result<()> {
    let (reader, writer) = nix::unistd::pipe().named(|| "pipe".into())?;
    drop(reader);
    BROKEN.store(writer.into_raw_fd(), Ordering::Relaxed);
    OUTPUT.store(output, Ordering::Relaxed);
    // Without SA_RESTART, so that a write that waits ends, is tried again, and fails.
    let action = SigAction::new(
        SigHandler::Handler(break_output),
        SaFlags::empty(),
        SigSet::empty(),
    );
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: the handler makes one async-signal-safe call (dup2(2)) and touches atomics only.
        unsafe { sigaction(signal, &action) }.named(|| format!("handle {signal}"))?;
    }
    // SAFETY: the call takes numbers only.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
    check(set.into(), || "PR_SET_PDEATHSIG".into())?;
    if nix::unistd::getppid() != parent {
        return Err(crate::Error::Gone {
            pid: parent.as_raw(),
        });
    }
    Ok(())
}

extern "C" fn break_output(_: libc::c_int) {
    let (broken, output) = (
        BROKEN.load(Ordering::Relaxed),
        OUTPUT.load(Ordering::Relaxed),
    );
    // SAFETY: dup2 takes numbers only and is async-signal-safe (signal-safety(7)); what was interrupted has its
    // own errno already or gets it after this returns.
    unsafe { libc::dup2(broken, output) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_has_no_guardian() {
        assert!(guarded(1, || 0).is_err());
    }
}
