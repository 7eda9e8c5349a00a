//! The terminal that `restore --wait` was called from, for a container whose own was outside: lent to it, where it lives in
//! our session, and else what goes between it and a pair of the container's, as conmon does for an engine.

use super::{FORWARDED, ended, wait_and_forward};
use crate::Result;
use image::files::tty::Termios as Record;
use kernel::pidfd::PidFd;
use kernel::proc::stat;
use kernel::tty::{self, Termios};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpgrp, tcsetpgrp};
use std::os::fd::{AsFd, OwnedFd};

/// Our terminal, and what it is for the container.
#[derive(Debug)]
pub struct Console {
    /// An open file description of our own, which does not block.
    here: OwnedFd,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// By way of a pair, of which this is the master.
    Relayed(OwnedFd),
    /// As it is, with these settings; in its foreground, where it was there.
    Lent {
        termios: Option<Record>,
        foreground: bool,
    },
}

impl Console {
    /// What is typed here goes into the master, and what comes out is shown here.
    pub(crate) fn relayed(here: OwnedFd, master: OwnedFd) -> Self {
        let kind = Kind::Relayed(master);
        Console { here, kind }
    }

    /// The container has it open.
    pub(crate) fn lent(here: OwnedFd, termios: Option<Record>, foreground: bool) -> Self {
        let kind = Kind::Lent {
            termios,
            foreground,
        };
        Console { here, kind }
    }

    /// [`wait_and_forward`], at the terminal. Afterwards it is as it was.
    pub fn attend(self, first: kernel::Pid, root: kernel::Pid) -> Result<i32> {
        let mut held: SigSet = FORWARDED.into_iter().collect();
        for signal in [Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGTTOU] {
            held.add(signal);
        }
        held.thread_block()
            .map_err(|e| kernel::Error::errno("block signals", e as i32))?;
        let before = tty::termios(self.here.as_fd())?;
        let result = match &self.kind {
            Kind::Relayed(master) => self.relay(&before, master, first, root, &held),
            Kind::Lent {
                termios,
                foreground,
            } => self.lend(termios.as_ref(), *foreground, first, root),
        };
        tty::set_termios(self.here.as_fd(), &before)?;
        result
    }

    fn lend(
        &self,
        termios: Option<&Record>,
        foreground: bool,
        first: kernel::Pid,
        root: kernel::Pid,
    ) -> Result<i32> {
        if let Some(termios) = termios {
            tty::set_termios(self.here.as_fd(), &crate::files::termios(termios))?;
        }
        // Where it is not our controlling terminal, its foreground is nothing of ours.
        if foreground && let Ok(found) = stat::read(root) {
            let group = Pid::from_raw(found.pgrp());
            let _ = tcsetpgrp(&self.here, group);
            // It runs already: who has read before it was in the foreground was stopped for that (SIGTTIN).
            let _ = killpg(group, Signal::SIGCONT);
        }
        let result = wait_and_forward(first, root);
        if foreground {
            let _ = tcsetpgrp(&self.here, getpgrp());
        }
        result
    }

    fn relay(
        &self,
        before: &Termios,
        master: &OwnedFd,
        first: kernel::Pid,
        root: kernel::Pid,
        held: &SigSet,
    ) -> Result<i32> {
        let failed = |what: &str, e: Errno| kernel::Error::errno(what, e as i32);
        let signals = SignalFd::with_flags(held, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|e| failed("signalfd", e))?;
        let process = PidFd::open(root)?;
        let here = self.here.as_fd();
        tty::set_termios(here, &before.raw())?;
        tty::set_window(master.as_fd(), &tty::window(here)?)?;
        let mut typing = true;
        loop {
            let mut asked = vec![
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(master.as_fd(), PollFlags::POLLIN),
            ];
            if typing {
                asked.push(PollFd::new(here, PollFlags::POLLIN));
            }
            match poll(&mut asked, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(failed("poll", e).into()),
            }
            while let Ok(Some(signal)) = signals.read_signal() {
                match Signal::try_from(signal.ssi_signo as i32) {
                    Ok(Signal::SIGWINCH) => {
                        tty::set_window(master.as_fd(), &tty::window(here)?)?;
                    }
                    Ok(Signal::SIGCHLD | Signal::SIGTTOU) | Err(_) => {}
                    // It may have ended just now: then there is nobody to tell.
                    Ok(signal) => drop(process.signal(signal as i32)),
                }
            }
            let status = ended(first, Some(nix::sys::wait::WaitPidFlag::WNOHANG))?;
            while let Some(bytes) = tty::take(master.as_fd())? {
                // Nobody may be looking any more.
                let _ = tty::put(here, &bytes);
            }
            if let Some(status) = status {
                return Ok(status);
            }
            if typing && let Some(bytes) = tty::take(here)? {
                match bytes.is_empty() {
                    true => typing = false,
                    false => tty::put(master.as_fd(), &bytes)?,
                }
            }
            if tty::ready(master.as_fd())?.hung_up {
                // All have closed it, and may open it again: do not ask all the time meanwhile.
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}
