//! A container of runc's or crun's alone, from a bundle: `create`, and `start`, at whose exec it is taken over.

use super::{Engined, Making, Options, named};
use crate::engine::{json_file, runc, text};
use crate::rootfs::Policy;
use crate::vessel::agent::{Call, Streams};
use crate::{Error, Result};
use image::container::{Container, Engine};
use kernel::pidfd::PidFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

/// Makes it.
pub(super) fn make(engine: Engine, container: &Container, options: &Options) -> Result<Engined> {
    let wishes = options.wishes(container);
    let others = [
        ("--publish", !wishes.publish.is_empty()),
        ("--pod", wishes.pod.is_some()),
        ("--ip", wishes.ip.is_some()),
        ("--network", !wishes.networks.is_empty()),
        ("--volumes", options.volumes.is_some()),
    ];
    if let Some((option, _)) = others.iter().find(|(_, given)| *given) {
        return Err(Error::Refused(format!(
            "{option}: {engine} knows no such thing; the bundle's config.json says what its container gets"
        )));
    }
    let bundle = bundle(engine, container, options)?;
    let spec = json_file(&bundle.join("config.json"))?;
    if runc::is_terminal(&spec) != options.console_socket.is_some() {
        return Err(Error::Refused(match options.console_socket {
            Some(_) => format!(
                "--console-socket: {} asks for no terminal",
                bundle.join("config.json").display()
            ),
            None => format!(
                "{} asks for a terminal: say who takes its other side (--console-socket SOCKET, as {engine} has it), or set \
                 process.terminal to false there",
                bundle.join("config.json").display()
            ),
        }));
    }
    let id = wishes.name;
    let mut making = Making::begin(engine, options)?;
    let mut log = Log::new()?;
    let mut words = vec!["--log".to_string(), log.path(), "create".into()];
    words.extend(["--bundle".into(), bundle.display().to_string()]);
    if let Some(socket) = &options.console_socket {
        words.extend(["--console-socket".into(), socket.display().to_string()]);
    }
    words.push(id.clone());
    let undo = Call::new(engine.name(), ["delete", "--force", &*id]);
    let create = Call::new(engine.name(), words);
    // The container's standard streams are the runtime's.
    making.agent.begin(create, Some(undo), Streams::Null)?;
    let created = making.agent.answer()?;
    if created.status != Some(0) {
        let why = log.last();
        let error = Error::Refused(format!("{engine} create: {why}"));
        return Err(named(error, engine, &id));
    }
    let state = runc::state(engine, &id)?.ok_or_else(|| {
        Error::Refused(format!(
            "{engine} has lost container {id} while it was made"
        ))
    })?;
    let pid = state.pointer("/pid").and_then(Value::as_i64);
    let pid = pid.unwrap_or(0) as kernel::Pid;
    let mut made = Engined {
        engine,
        name: id.clone(),
        pid,
        pidfd: PidFd::open(pid)?,
        first: None,
        addresses: Vec::new(),
        changed: Vec::new(),
        warnings: Vec::new(),
        agent: Some(making.agent),
        starting: true,
        finally: Vec::new(),
        policy: Policy::default(),
        released: false,
        id: id.clone(),
    };
    made.take_over(Call::new(engine.name(), ["start", &*id]))?;
    Ok(made)
}

/// The bundle that was asked for, else the one that the container came from.
fn bundle(engine: Engine, container: &Container, options: &Options) -> Result<PathBuf> {
    let recorded = container.configuration.as_ref();
    let recorded = recorded.filter(|c| matches!(c.engine, Engine::Runc | Engine::Crun));
    let recorded = recorded.map(|c| PathBuf::from(text(&c.inspect, "/bundle")));
    match (&options.bundle, recorded) {
        (Some(bundle), _) => std::path::absolute(bundle)
            .map_err(|e| kernel::Error::io(format!("find {}", bundle.display()), &e).into()),
        (None, Some(bundle)) if bundle.join("config.json").exists() => Ok(bundle),
        (None, Some(bundle)) => Err(Error::Refused(format!(
            "the bundle {} that the container came from is not here: name one (--bundle DIR)",
            bundle.display()
        ))),
        (None, None) => Err(Error::Refused(format!(
            "{engine} makes a container from a bundle: name one (--bundle DIR)"
        ))),
    }
}

/// Where the runtime writes what goes wrong: its standard error is to be the container's.
struct Log(File);

impl Log {
    fn new() -> Result<Self> {
        let made = memfd_create(c"log", MFdFlags::MFD_CLOEXEC);
        let made: OwnedFd = made.map_err(|e| kernel::Error::errno("memfd_create", e as i32))?;
        Ok(Log(File::from(made)))
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The last thing it said.
    fn last(&mut self) -> String {
        let mut text = String::new();
        let _ = self.0.rewind();
        let _ = self.0.by_ref().take(65536).read_to_string(&mut text);
        let last = text.lines().last().unwrap_or("it failed without a word");
        let quoted = last.split_once("msg=\"").map_or(last, |(_, said)| said);
        quoted.trim_end_matches('"').replace("\\\"", "\"")
    }
}
