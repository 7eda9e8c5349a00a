//! Container engines, called by their programs: finding a running container of theirs, and taking what they need to make
//! it again. Each one's `restore` side is its [`crate::vessel::engine`].

use crate::tree::Frozen;
use crate::{Error, Result, cgroups};
use image::container::Engine;
use image::engine::Configuration;
use kernel::Pid;
use kernel::proc::status;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

pub mod create;
pub mod docker;
pub mod podman;
pub mod runc;

/// A running container of an engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Whose.
    pub engine: Engine,
    /// Its name.
    pub name: String,
    /// Its whole id.
    pub id: String,
    /// Our pid of its process 1.
    pub pid: Pid,
    /// What is needed to make it again.
    pub configuration: Configuration,
}

/// Looks for a container of this name, or with this id, in an engine; `None` where there is none, or no such engine. One
/// that is there and cannot be taken as it is (paused, ended) is an error that says what to do.
pub fn find(engine: Engine, name: &str) -> Result<Option<Owned>> {
    match engine {
        _ if !here(engine) => Ok(None),
        Engine::Native => Ok(None),
        Engine::Podman => podman::find(name),
        Engine::Docker => docker::find(name),
        Engine::Runc | Engine::Crun => runc::find(engine, name),
    }
}

/// Why an engine that is here has no container of a name: an error where it cannot be asked at all.
pub fn answers(engine: Engine) -> Result<()> {
    match engine {
        Engine::Docker => docker::answers(),
        _ => Ok(()),
    }
}

/// Ends a container that stands frozen. Its engine does, so that it knows that this was wanted, and starts it no more.
pub fn stop(owned: &Owned, mut frozen: Frozen) -> Result<()> {
    let mut stopping = Stopping::begin(owned)?;
    // Those that are killed end only once we have looked.
    while !frozen.ended()? {
        if stopping.failed() {
            return frozen.kill();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    stopping.finish(owned)
}

/// Ends a container that was left frozen (`--leave-frozen`) in the same way.
pub fn stop_left_frozen(owned: &Owned, name: &str) -> Result<()> {
    let mut stopping = Stopping::begin(owned)?;
    // Frozen as it is, it dies of the signal only when it thaws: not before the signal is there.
    while !killed(owned.pid) && !stopping.failed() {
        std::thread::sleep(Duration::from_millis(1));
    }
    cgroups::kill(name)?;
    stopping.finish(owned)
}

/// Whether a process is gone, or has been sent SIGKILL.
fn killed(pid: Pid) -> bool {
    let pending = status::read(pid).and_then(|s| Ok(s.mask("ShdPnd")? | s.mask("SigPnd")?));
    pending.map_or(true, |pending| pending & 1 << (libc::SIGKILL - 1) != 0)
}

/// An engine's program that ends a container.
struct Stopping(std::process::Child);

impl Stopping {
    fn begin(owned: &Owned) -> Result<Self> {
        let mut command = match owned.engine {
            Engine::Podman => podman::stop(&owned.id),
            Engine::Docker => docker::stop(&owned.id),
            engine => runc::kill(engine, &owned.id),
        };
        let made = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = made.map_err(|e| kernel::Error::io(format!("call {}", owned.engine), &e))?;
        Ok(Stopping(child))
    }

    fn failed(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(status)) if !status.success())
    }

    fn finish(mut self, owned: &Owned) -> Result<()> {
        let _ = self.0.wait();
        match owned.engine {
            // As `runc checkpoint` does.
            engine @ (Engine::Runc | Engine::Crun) => runc::delete(engine, &owned.id),
            _ => Ok(()),
        }
    }
}

/// Whether an engine's program is on this host.
pub fn here(engine: Engine) -> bool {
    program(engine.name()).is_some()
}

/// A program in PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .map(|dir| dir.join(name))
        .find(|path| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Calls an engine's program and waits for its end.
pub(crate) fn call(program: &str, args: &[&str]) -> Result<Output> {
    let made = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output();
    Ok(made.map_err(|e| kernel::Error::io(format!("call {program}"), &e))?)
}

/// The same where it has to succeed: what it printed.
pub(crate) fn ask(program: &str, args: &[&str]) -> Result<Vec<u8>> {
    let output = call(program, args)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::Refused(format!(
        "{program} {}: {}",
        args.join(" "),
        complaint(&output.stderr)
    )))
}

/// The last line of what a program said about its failure, without the word it begins with.
pub(crate) fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.unwrap_or("it failed without a word").trim();
    last.strip_prefix("Error: ").unwrap_or(last).to_string()
}

/// What a program printed, as JSON.
pub(crate) fn json(what: &str, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::Refused(format!("{what} is not the JSON it should be: {e}")))
}

/// A file of an engine's, as JSON.
pub(crate) fn json_file(path: &Path) -> Result<Value> {
    let what = || path.display().to_string();
    let bytes =
        std::fs::read(path).map_err(|e| kernel::Error::io(format!("read {}", what()), &e))?;
    json(&what(), &bytes)
}

/// The text at a JSON pointer (RFC 6901); empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_failure_is_told() {
        assert_eq!(
            complaint(b"warn\nError: no such thing\n\n"),
            "no such thing"
        );
        assert_eq!(complaint(b""), "it failed without a word");
    }

    #[test]
    fn programs_are_found_in_path() {
        assert!(program("sh").is_some());
        assert!(program("no-such-program-anywhere").is_none());
    }
}
