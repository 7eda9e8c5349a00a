//! The gatekeeper: a small process of its own that holds every execution of the runtime's program, lets those of others
//! pass at once, and those for one container once its maker has said so. It waits for nobody longer than seconds, and
//! ends by an alarm whatever happens; with it the gate opens for good. So a `restore` that hangs, or is stopped, holds
//! no container of anybody else's.

use crate::{Error, Result};
use kernel::Pid;
use kernel::fanotify::{Gate, Waiting};
use kernel::namespaces::{Birth, Forked, fork, keep_only, leave};
use kernel::pidfd::PidFd;
use kernel::proc::{Proc, stat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the container's own runtime may be held.
const HELD: Duration = Duration::from_secs(5);

/// How long the gatekeeper lives at most, seconds.
const LIFE: u32 = 60;

/// The gatekeeper, as its maker holds it.
#[derive(Debug)]
pub struct Gatekeeper {
    process: PidFd,
    line: BufReader<UnixStream>,
}

/// A runtime for the container that is held at the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The process that is about to become it.
    pub pid: Pid,
    /// The runtime's init, which waits inside the finished container for the word to start; none while there is none.
    pub init: Option<Pid>,
}

impl Gatekeeper {
    /// Puts one before the runtime's program, for the container with this id. The calling process must have one thread.
    pub fn start(program: &Path, id: &str) -> Result<Self> {
        let (line, theirs) = UnixStream::pair().map_err(|e| kernel::Error::io("socketpair", &e))?;
        let process = match fork(&Birth::default())? {
            Forked::Parent(process) => process,
            Forked::Child => {
                nix::unistd::alarm::set(LIFE);
                let mut alarm = SigSet::empty();
                alarm.add(Signal::SIGALRM);
                let _ = alarm.thread_unblock();
                if let Ok(theirs) = keep_only(OwnedFd::from(theirs)) {
                    serve(UnixStream::from(theirs), program, id);
                }
                leave(0)
            }
        };
        drop(theirs);
        let mut keeper = Gatekeeper {
            process,
            line: BufReader::new(line),
        };
        match keeper.hear()?.as_str() {
            "ready" => Ok(keeper),
            why => Err(Error::Refused(format!(
                "docker's container cannot be stopped at its start: {why}"
            ))),
        }
    }

    /// Who is held, where somebody comes within that time.
    pub fn next(&mut self, patience: u16) -> Result<Option<Held>> {
        let mut fds = [PollFd::new(self.line.get_ref().as_fd(), PollFlags::POLLIN)];
        if self.line.buffer().is_empty() && poll(&mut fds, PollTimeout::from(patience)) == Ok(0) {
            return Ok(None);
        }
        let text = self.hear()?;
        let mut numbers = text.split(' ').map(str::parse::<Pid>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(pid)), Some(Ok(init))) => Ok(Some(Held {
                pid,
                init: (init != 0).then_some(init),
            })),
            _ => Err(gone()),
        }
    }

    /// Lets the one who is held pass.
    pub fn allow(&mut self) -> Result<()> {
        self.line.get_mut().write_all(b"\n").map_err(|_| gone())
    }

    fn hear(&mut self) -> Result<String> {
        let mut text = String::new();
        match self.line.read_line(&mut text) {
            Ok(length) if length > 0 => Ok(text.trim_end().to_string()),
            _ => Err(gone()),
        }
    }
}

impl Drop for Gatekeeper {
    fn drop(&mut self) {
        let _ = self.process.signal(Signal::SIGKILL as i32);
        let _ = waitpid(nix::unistd::Pid::from_raw(self.process.pid()), None);
    }
}

fn gone() -> Error {
    Error::Refused(format!(
        "the process that holds docker's runtime ended before the container was started ({LIFE} s at most)"
    ))
}

/// The gatekeeper's life.
fn serve(mut line: UnixStream, program: &Path, id: &str) {
    // No Ctrl-C and no Ctrl-Z of the terminal `restore` was called from.
    let _ = nix::unistd::setsid();
    super::super::entitle("gate");
    let mut gate = match Gate::before(program) {
        Ok(gate) => gate,
        Err(e) => {
            let _ = writeln!(line, "{e}");
            return;
        }
    };
    if writeln!(line, "ready").is_err() {
        return;
    }
    // The one of the container, and since when it is held.
    let mut held: Option<(Waiting, Instant)> = None;
    loop {
        let mut fds = [
            PollFd::new(gate.as_fd(), PollFlags::POLLIN),
            PollFd::new(line.as_fd(), PollFlags::POLLIN),
        ];
        let patience = match &held {
            Some((_, since)) => HELD.saturating_sub(since.elapsed()),
            None => Duration::from_secs(LIFE.into()),
        };
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let polled = poll(&mut fds, patience);
        let told = fds[1].revents().is_some_and(|events| !events.is_empty());
        let late = held
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() >= HELD);
        if polled.is_err() || late {
            return;
        }
        if told {
            // Nobody speaks to us unasked, but by going.
            let word = line.read(&mut [0]);
            match held.take() {
                Some((waiting, _)) if word.is_ok_and(|length| length == 1) => {
                    if gate.allow(waiting).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
        while let Ok(Some(waiting)) = gate.who() {
            let pid = waiting.pid();
            if held.is_none() && is_for(pid, id) {
                let init = init(pid).unwrap_or(0);
                if writeln!(line, "{pid} {init}").is_err() {
                    return;
                }
                held = Some((waiting, Instant::now()));
            } else if gate.allow(waiting).is_err() {
                return;
            }
        }
    }
}

/// Whether a process that is about to become the runtime is the shim's, or the runtime's, of this container: it still
/// shows the command of whoever forked it, and that has the id.
fn is_for(pid: Pid, id: &str) -> bool {
    let command = Proc::process(pid).bytes("cmdline").unwrap_or_default();
    command
        .split(|byte| *byte == 0)
        .any(|word| word == id.as_bytes())
}

/// The runtime's init among the children of the shim that forked this process.
fn init(pid: Pid) -> Option<Pid> {
    let shim = stat::read(pid).ok()?.ppid();
    let tasks = Proc::process(shim);
    let children = tasks.numbers("task").ok()?.into_iter().flat_map(|tid| {
        let list = tasks.text(&format!("task/{tid}/children"));
        let list = list.unwrap_or_default();
        let pids = list.split_whitespace().map(str::parse::<Pid>);
        pids.flatten().collect::<Vec<_>>()
    });
    children
        .filter(|child| *child != pid)
        .find(|child| stat::read(*child).is_ok_and(|stat| stat.comm.starts_with("runc:[2:INIT]")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn whoever_was_forked_for_a_container_is_known_by_its_parents_words() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as Pid;
        // For a moment after its exec it has no words at all.
        while Proc::process(pid).bytes("cmdline").unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert!(is_for(pid, "1000"));
        assert!(!is_for(pid, "100"));
        assert_eq!(init(pid), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
