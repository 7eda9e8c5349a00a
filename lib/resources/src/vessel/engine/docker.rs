//! Docker's own container. It has no step between making one and starting it, so its runtime is held at the gate: once
//! the runtime's init waits inside the finished container, it is seized, and taken over at its exec.

use super::gate::Gatekeeper;
use super::{
    Engined, Making, Options, PATIENCE, addresses, at_exec, changed, hinted, named, seize,
};
use crate::engine::{create, docker, podman, text};
use crate::vessel::agent::{Call, Streams};
use crate::{Error, Result};
use image::container::{Container, Engine};
use image::engine::Configuration;
use kernel::Pid;
use kernel::pidfd::PidFd;
use kernel::ptrace::Running;
use nix::sys::signal::Signal;
use std::time::Instant;

const PROGRAM: &str = docker::PROGRAM;

/// Makes it.
pub(super) fn make(
    container: &Container,
    configuration: &Configuration,
    options: &Options,
) -> Result<Engined> {
    docker::answers()?;
    let wishes = options.wishes(container);
    // The runtime is docker's child, not ours: the offsets of a time namespace would reach the client only.
    let own = Options {
        clocks: None,
        ..options.clone()
    };
    let mut making = Making::begin(Engine::Docker, &own)?;
    let image = making.image(configuration)?;
    let mut creation = create::docker(configuration, image.as_deref(), &wishes)?;
    // Said once it runs: docker is not to start it again when we take it back.
    let is_restart = |word: &String| word.starts_with("--restart=");
    let restart: Vec<String> = creation
        .arguments
        .extract_if(.., |word| is_restart(word))
        .collect();
    let policy = making.volumes(configuration, options.volumes)?;
    let undo = Call::new(PROGRAM, ["rm", "-f", "-v", "{}"]);
    let id = making
        .create(&creation, undo)
        .map_err(|e| named(e, Engine::Docker, &wishes.name))?;
    let (pid, tasks) = start(&mut making, &id).map_err(hinted)?;
    let mut made = Engined {
        engine: Engine::Docker,
        name: wishes.name,
        pid,
        pidfd: PidFd::open(pid)?,
        first: None,
        addresses: Vec::new(),
        changed: Vec::new(),
        warnings: creation.warnings,
        agent: None,
        starting: false,
        finally: Vec::new(),
        policy,
        released: false,
        id: id.clone(),
    };
    if options.clocks.is_some() {
        made.warnings.push(
            "CLOCK_MONOTONIC jumps to this host's: docker's containers have no time namespace"
                .into(),
        );
    }
    let agent = made.agent.insert(making.agent);
    made.first = Some(at_exec(pid, tasks, agent)?);
    // Docker answers nothing about the container before it is started, and has given it its addresses then.
    agent.answer()?.printed("docker start")?;
    let inspect = docker::inspect(&id)?.ok_or_else(|| {
        Error::Refused(format!(
            "docker has lost container {} while it was made",
            made.name
        ))
    })?;
    let networks = podman::networks(&inspect);
    made.addresses = addresses(&networks);
    made.changed = changed(&configuration.networks, &networks);
    let update = |word: &String| Call::new(PROGRAM, ["update", word, &*id]);
    made.finally = restart.iter().map(update).collect();
    Ok(made)
}

/// Has it started, and seizes the runtime's init before it may go on.
fn start(making: &mut Making, id: &str) -> Result<(Pid, Vec<Running>)> {
    let made = docker::inspect(id)?.unwrap_or_default();
    let runtime = docker::runtime(text(&made, "/HostConfig/Runtime"))?;
    let mut gate = Gatekeeper::start(&runtime, id)?;
    let start = Call::new(PROGRAM, ["start", id]);
    making.agent.begin(start, None, Streams::Read)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match gate.next(20)? {
            Some(held) => {
                if let Some(init) = held.init {
                    let tasks = seize(init).inspect_err(|_| end(init))?;
                    gate.allow()?;
                    return Ok((init, tasks));
                }
                gate.allow()?;
            }
            None if making.agent.answered() => {
                making.agent.answer()?.printed("docker start")?;
                return Err(Error::Refused(format!(
                    "docker started the container without {}: is that its runtime?",
                    runtime.display()
                )));
            }
            None if Instant::now() > deadline => {
                return Err(Error::Refused(format!(
                    "docker did not start the container within {} s",
                    PATIENCE.as_secs()
                )));
            }
            None => {}
        }
    }
}

/// What we cannot hold is not to run.
fn end(init: Pid) {
    if let Ok(process) = PidFd::open(init) {
        let _ = process.signal(Signal::SIGKILL as i32);
    }
}
