//! The agent: a child of `restore` that calls the engine for it, and takes back what was made when `restore` ends before
//! it has said that all is well, however it ends.

use crate::namespaces::time;
use crate::{Error, Result};
use image::namespaces::time::Offsets;
use kernel::namespaces::{Birth, Forked, fork, keep_only, leave};
use kernel::pidfd::PidFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, waitpid};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the engine may take for taking back what it made, milliseconds.
const PATIENCE: u16 = 30_000;

/// How long it may be busy with something else before that.
const BUSY: Duration = Duration::from_secs(10);

/// A program and its arguments. As an undo, `{}` among them stands for what the call it undoes has printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    program: String,
    args: Vec<String>,
    /// What it reads on its standard input, where that is read at all ([`Streams::Read`]).
    input: Option<String>,
}

impl Call {
    /// That program with these arguments.
    pub fn new<S: Into<String>>(program: &str, args: impl IntoIterator<Item = S>) -> Self {
        Call {
            program: program.to_string(),
            args: args.into_iter().map(Into::into).collect(),
            input: None,
        }
    }

    /// The same call, which reads this on its standard input.
    pub fn reading(self, input: Option<String>) -> Self {
        Call { input, ..self }
    }

    fn about(&self, printed: &str) -> Call {
        let args = self.args.iter();
        Call {
            program: self.program.clone(),
            args: args
                .map(|arg| match arg.as_str() {
                    "{}" => printed.to_string(),
                    _ => arg.clone(),
                })
                .collect(),
            input: None,
        }
    }
}

/// What the container's maker does with its standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Streams {
    /// Its output is read; its input is empty.
    Read,
    /// All are `/dev/null`: what it starts keeps them.
    Null,
    /// All are ours.
    Ours,
}

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Call {
        call: Call,
        undo: Option<Call>,
        streams: Streams,
    },
    /// All is well: nothing is taken back.
    Keep,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its exit status; none where it could not be called, or a signal ended it.
    pub status: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Answer {
    /// What it printed, without the newline; what it said as an error where it failed.
    pub fn printed(&self, what: &str) -> Result<&str> {
        if self.status == Some(0) {
            return Ok(self.stdout.trim());
        }
        let why = crate::engine::complaint(self.stderr.as_bytes());
        Err(Error::Refused(format!("{what}: {why}")))
    }
}

/// The agent, as its maker holds it.
#[derive(Debug)]
pub struct Agent {
    process: PidFd,
    line: Option<BufReader<UnixStream>>,
}

impl Agent {
    /// Starts it. What it calls lives in a time namespace with these offsets, where they are given. The calling process
    /// must have one thread.
    pub fn start(offsets: Option<Offsets>) -> Result<Agent> {
        let (line, theirs) = UnixStream::pair().map_err(|e| kernel::Error::io("socketpair", &e))?;
        match fork(&Birth::default())? {
            Forked::Parent(process) => Ok(Agent {
                process,
                line: Some(BufReader::new(line)),
            }),
            Forked::Child => {
                if let Ok(theirs) = keep_only(OwnedFd::from(theirs)) {
                    serve(UnixStream::from(theirs), offsets);
                }
                leave(0)
            }
        }
    }

    /// Calls a program, which has to succeed; gives what it printed. `undo` is called at the end, unless all was well.
    pub fn call(&mut self, call: Call, undo: Option<Call>) -> Result<String> {
        let what = format!("{} {}", call.program, call.args.first().map_or("", |a| a));
        self.begin(call, undo, Streams::Read)?;
        Ok(self.answer()?.printed(&what)?.to_string())
    }

    /// Begins a call; [`Agent::answer`] awaits its end.
    pub fn begin(&mut self, call: Call, undo: Option<Call>, streams: Streams) -> Result<()> {
        self.say(&Request::Call {
            call,
            undo,
            streams,
        })
    }

    /// How the call that was begun has ended.
    pub fn answer(&mut self) -> Result<Answer> {
        let mut text = String::new();
        let line = self.line.as_mut().ok_or_else(dead)?;
        match line.read_line(&mut text) {
            Ok(n) if n > 0 => {}
            _ => return Err(dead()),
        }
        serde_json::from_str(&text).map_err(|e| Error::Refused(e.to_string()))
    }

    /// Whether the call that was begun has ended.
    pub fn answered(&self) -> bool {
        let Some(line) = &self.line else { return true };
        let mut fds = [PollFd::new(line.get_ref().as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// All is well: nothing is taken back, and the agent ends.
    pub fn keep(mut self) -> Result<()> {
        self.say(&Request::Keep)?;
        self.end();
        Ok(())
    }

    fn say(&mut self, request: &Request) -> Result<()> {
        let mut text = serde_json::to_vec(request).map_err(|e| Error::Refused(e.to_string()))?;
        text.push(b'\n');
        let line = self.line.as_mut().ok_or_else(dead)?;
        line.get_mut().write_all(&text).map_err(|_| dead())
    }

    fn end(&mut self) {
        if self.line.take().is_none() {
            return;
        }
        let mut fds = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(PATIENCE));
        let pid = nix::unistd::Pid::from_raw(self.process.pid());
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

fn dead() -> Error {
    Error::Refused("the process that calls the engine has died".into())
}

/// The agent's life.
fn serve(line: UnixStream, offsets: Option<Offsets>) {
    // No Ctrl-C of the terminal `restore` was called from.
    let _ = nix::unistd::setsid();
    super::entitle("engine");
    let mut undos = Vec::new();
    let kept = match offsets.map(time::restore).transpose() {
        Ok(_clocks) => attend(line, &mut undos),
        Err(_) => false,
    };
    if !kept {
        for undo in undos.iter().rev() {
            take_back(undo);
        }
    }
}

/// The engine may be busy with the end of the container's process, and refuses meanwhile.
fn take_back(undo: &Call) {
    let deadline = Instant::now() + BUSY;
    loop {
        let answer = run(undo, Streams::Read);
        // What the engine has taken away itself (`--rm`) is gone.
        let gone = answer.stderr.to_lowercase().contains("no such");
        if answer.status == Some(0) || gone || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Does what it is told, to the end: whether what was made is to be kept.
fn attend(line: UnixStream, undos: &mut Vec<Call>) -> bool {
    let Ok(mut answers) = line.try_clone() else {
        return false;
    };
    let mut requests = BufReader::new(line);
    loop {
        let mut text = String::new();
        match requests.read_line(&mut text) {
            Ok(n) if n > 0 => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            _ => return false,
        }
        match serde_json::from_str(&text) {
            Ok(Request::Keep) => return true,
            Ok(Request::Call {
                call,
                undo,
                streams,
            }) => {
                let answer = run(&call, streams);
                if answer.status == Some(0) {
                    undos.extend(undo.map(|undo| undo.about(answer.stdout.trim())));
                }
                let Ok(mut text) = serde_json::to_vec(&answer) else {
                    return false;
                };
                text.push(b'\n');
                if answers.write_all(&text).is_err() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
}

fn run(call: &Call, streams: Streams) -> Answer {
    let mut command = Command::new(&call.program);
    command.args(&call.args);
    let output = match streams {
        Streams::Read => match &call.input {
            Some(input) => fed(command, input),
            None => command.stdin(Stdio::null()).output(),
        },
        Streams::Null => command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map(silent),
        Streams::Ours => command.status().map(silent),
    };
    match output {
        Ok(output) => Answer {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Err(e) => Answer {
            status: None,
            stdout: String::new(),
            stderr: format!("cannot be called: {e}"),
        },
    }
}

fn fed(mut command: Command, input: &str) -> std::io::Result<std::process::Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    // One that does not want it all has said why, or does without.
    let _ = child
        .stdin
        .take()
        .map(|mut pipe| pipe.write_all(input.as_bytes()));
    child.wait_with_output()
}

fn silent(status: std::process::ExitStatus) -> std::process::Output {
    std::process::Output {
        status,
        stdout: Vec::new(),
        stderr: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undo_is_about_what_was_printed() {
        let undo = Call::new("podman", ["rm", "-f", "{}"]).about("abc");
        assert_eq!(undo, Call::new("podman", ["rm", "-f", "abc"]));
    }

    #[test]
    fn a_call_that_cannot_be_made_says_so() {
        let answer = run(&Call::new("no-such-program", ["x"]), Streams::Read);
        let error = answer.printed("make it").unwrap_err().to_string();
        assert!(error.starts_with("make it: cannot be called"), "{error}");
        assert_eq!(
            run(&Call::new("sh", ["-c", "exit 3"]), Streams::Null).status,
            Some(3)
        );
    }
}
