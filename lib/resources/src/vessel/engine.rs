//! Vessels that an engine makes: its own container, complete, whose process 1 is taken over at the instant it execs. What
//! differs between engines is how it is brought there.

use super::Vessel;
use super::agent::{Agent, Call, Streams};
use crate::engine::podman;
use crate::namespaces::time::{self, Clocks};
use crate::{Blocker, Error, Result};
use image::container::{Container, Engine};
use image::engine::{Attachment, Configuration};
use image::namespaces::time::Offsets;
use kernel::pidfd::PidFd;
use kernel::ptrace::{self, Event, Polled, Running, Stopped, options};
use kernel::remote::Stub;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::Value;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long an engine may take from being asked to start a container to its process's exec.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long its processes may take to end once they are killed.
const REAPED: Duration = Duration::from_secs(10);

/// What the user asks of an engine's container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `-n`; none: the name it had.
    pub name: Option<String>,
    /// `-p`, instead of the ports it had.
    pub publish: Vec<String>,
    /// `--pod`.
    pub pod: Option<String>,
    /// `--ip`.
    pub ip: Option<IpAddr>,
    /// `--ignore-static-ip`.
    pub ignore_static_ip: bool,
    /// `--ignore-static-mac`.
    pub ignore_static_mac: bool,
    /// `--network`, instead of those it had.
    pub networks: Vec<String>,
    /// `--volumes`: what becomes of volumes that are here already; none: that is an error.
    pub volumes: Option<Volumes>,
    /// What its clocks are to show; none: the host's.
    pub clocks: Option<Clocks>,
}

/// What becomes of a volume that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volumes {
    /// It keeps its content.
    Keep,
    /// It gets that of the image.
    Replace,
}

/// A container that an engine has made, and that we hold.
#[derive(Debug)]
pub struct Engined {
    engine: Engine,
    name: String,
    id: String,
    pid: kernel::Pid,
    pidfd: PidFd,
    first: Option<Stopped>,
    agent: Option<Agent>,
    addresses: Vec<IpAddr>,
    changed: Vec<(IpAddr, IpAddr)>,
    released: bool,
}

/// Has the engine make the container. The calling process must have one thread.
pub fn make(engine: Engine, container: &Container, options: &Options) -> Result<Engined> {
    let configuration = container.configuration.as_ref().ok_or_else(|| {
        Error::Refused(format!(
            "the image does not say how {engine} would make this container: it was taken from none; restore it natively \
             (--engine native)"
        ))
    })?;
    match engine {
        Engine::Podman => of_podman(container, configuration, options),
        _ => Err(Error::Refused(format!(
            "containers of {engine} cannot be restored yet"
        ))),
    }
}

fn of_podman(
    container: &Container,
    configuration: &Configuration,
    options: &Options,
) -> Result<Engined> {
    const PROGRAM: &str = podman::PROGRAM;
    let name = options
        .name
        .clone()
        .unwrap_or_else(|| container.name.clone());
    let mut agent = Agent::start(offsets(options)?)?;
    volumes(&mut agent, configuration, options.volumes)?;
    let args = arguments(configuration, &name);
    let id = agent
        .call(
            Call::new(PROGRAM, args),
            Some(Call::new(PROGRAM, ["rm", "-f", "-t", "0", "-v", "{}"])),
        )
        .map_err(|e| explain(e, &name))?;
    agent.call(Call::new(PROGRAM, ["init", &*id]), None)?;
    let inspect = podman::inspect(&id)?.ok_or_else(|| {
        Error::Refused(format!(
            "podman has lost container {name} while it was made"
        ))
    })?;
    let pid = inspect.pointer("/State/Pid").and_then(Value::as_i64);
    let pid = pid.unwrap_or(0) as kernel::Pid;
    let networks = podman::networks(&inspect);
    let start = Call::new(PROGRAM, ["start", &*id]);
    let mut made = Engined {
        engine: Engine::Podman,
        name,
        id,
        pid,
        pidfd: PidFd::open(pid)?,
        first: None,
        agent: Some(agent),
        addresses: networks.iter().flat_map(|n| n.addresses.clone()).collect(),
        changed: changed(&configuration.networks, &networks),
        released: false,
    };
    made.take_over(start)?;
    Ok(made)
}

/// Makes the volumes that have a name. Those without one are made with the container.
fn volumes(
    agent: &mut Agent,
    configuration: &Configuration,
    policy: Option<Volumes>,
) -> Result<()> {
    const PROGRAM: &str = podman::PROGRAM;
    let mut taken = Vec::new();
    for volume in configuration.volumes.iter().filter(|v| !v.anonymous) {
        let name = &*volume.name;
        if crate::engine::call(PROGRAM, &["volume", "exists", name])?
            .status
            .success()
        {
            taken.push(name);
            continue;
        }
        let mut args: Vec<String> = ["volume", "create", "--driver", &volume.driver]
            .map(String::from)
            .into();
        for (option, all) in [("--opt", &volume.options), ("--label", &volume.labels)] {
            args.extend(
                all.iter()
                    .map(|(key, value)| format!("{option}={key}={value}")),
            );
        }
        args.push(name.to_string());
        agent.call(
            Call::new(PROGRAM, args),
            Some(Call::new(PROGRAM, ["volume", "rm", name])),
        )?;
    }
    match policy {
        None if !taken.is_empty() => Err(Error::Name(format!(
            "podman has a volume {} already; say --volumes keep to leave its content as it is, or --volumes replace",
            taken.join(", and ")
        ))),
        _ => Ok(()),
    }
}

fn arguments(configuration: &Configuration, name: &str) -> Vec<String> {
    let image = configuration.image.as_ref().map(|i| i.name.clone());
    let mut args: Vec<String> = ["create", "--pull=never", "--name", name]
        .map(String::from)
        .into();
    args.extend(image);
    let command = configuration
        .inspect
        .pointer("/Config/Cmd")
        .and_then(Value::as_array);
    args.extend(
        command
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(String::from),
    );
    args
}

/// Only the monotonic clock: with another boot time runc takes its container for another, and for stopped.
fn offsets(options: &Options) -> Result<Option<Offsets>> {
    let Some(clocks) = options.clocks else {
        return Ok(None);
    };
    let own = time::dump(std::process::id() as kernel::Pid)?;
    Ok(Some(Offsets {
        boottime: own.boottime,
        ..time::offsets(clocks)?
    }))
}

/// Which addresses have become which, network by network, as they stood.
fn changed(old: &[Attachment], new: &[Attachment]) -> Vec<(IpAddr, IpAddr)> {
    let pairs = old.iter().zip(new);
    pairs
        .flat_map(|(old, new)| {
            old.addresses.iter().filter_map(|was| {
                let is = new
                    .addresses
                    .iter()
                    .find(|is| is.is_ipv4() == was.is_ipv4())?;
                (was != is).then_some((*was, *is))
            })
        })
        .collect()
}

/// What podman says where the name is taken or the image missing, in our words.
fn explain(error: Error, name: &str) -> Error {
    let text = error.to_string();
    if text.contains("already in use") && text.contains("name") {
        return Error::Name(format!(
            "podman has a container {name:?} already; choose another name with -n, or remove that one: podman rm {name}"
        ));
    }
    if text.contains("image not known") || text.contains("no such image") {
        return Error::Blocked(vec![Blocker {
            pid: 0,
            place: "podman".into(),
            what: text,
            remedy: "bring the image here: podman save IMAGE | ssh HOST podman load".into(),
        }]);
    }
    error
}

/// Seizes all threads of the runtime's process that waits inside the new container.
pub(super) fn seize(pid: kernel::Pid) -> Result<Vec<Running>> {
    const WANTED: i32 = options::EXITKILL | options::EXEC | options::SUSPEND_SECCOMP;
    let mut tasks: Vec<Running> = Vec::new();
    loop {
        let all = kernel::proc::Proc::process(pid).numbers("task")?;
        let before = tasks.len();
        for tid in all {
            if !tasks.iter().any(|task| task.tid() == tid) {
                tasks.push(ptrace::seize(tid, WANTED)?);
            }
        }
        if tasks.len() == before {
            return Ok(tasks);
        }
    }
}

/// Waits until the process execs its program: it stands at the end of that system call, before the program's first
/// instruction. Its other threads end on the way, and are reaped.
pub(super) fn at_exec(
    pid: kernel::Pid,
    mut tasks: Vec<Running>,
    agent: &mut Agent,
) -> Result<Stopped> {
    let deadline = Instant::now() + PATIENCE;
    let failed = |agent: &mut Agent| -> Error {
        let said = agent.answer();
        match said.and_then(|answer| answer.printed("start the container").map(drop)) {
            Err(e) => e,
            Ok(()) => Error::Refused("the container's process ended while it was started".into()),
        }
    };
    loop {
        for task in std::mem::take(&mut tasks) {
            let tid = task.tid();
            let event = match task.poll() {
                Ok(Polled::Still(task)) => {
                    tasks.push(task);
                    continue;
                }
                Ok(Polled::Event(event)) => event,
                Err(e) if e.raw() == Some(Errno::ECHILD as i32) => Event::Gone(0),
                Err(e) => return Err(e.into()),
            };
            match event {
                Event::Traced(task, libc::PTRACE_EVENT_EXEC, _) => return past_exec(task),
                Event::Signal(task, signal) => tasks.push(task.resume(signal)?),
                Event::Stop(task)
                | Event::GroupStop(task, _)
                | Event::Syscall(task)
                | Event::Traced(task, ..) => tasks.push(task.resume(0)?),
                Event::Gone(_) if tid == pid => return Err(failed(agent)),
                Event::Gone(_) => {}
            }
        }
        if agent.answered() && !tasks.iter().any(|task| task.tid() == pid) {
            return Err(failed(agent));
        }
        if Instant::now() > deadline {
            return Err(Error::Refused(format!(
                "the engine did not start process {pid} of the new container within {} s",
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// execve still overwrites the result register: on to its end.
fn past_exec(task: Stopped) -> Result<Stopped> {
    let mut running = task.to_syscall(0)?;
    loop {
        running = match running.wait()? {
            Event::Syscall(task) => return Ok(task),
            // Without SYSGOOD the end of a system call is a trap.
            Event::Signal(task, libc::SIGTRAP) => return Ok(task),
            Event::Signal(task, signal) => task.to_syscall(signal)?,
            Event::Stop(task) | Event::GroupStop(task, _) | Event::Traced(task, ..) => {
                task.to_syscall(0)?
            }
            Event::Gone(_) => {
                return Err(Error::Refused(
                    "the container's process ended at its start".into(),
                ));
            }
        };
    }
}

impl Engined {
    /// Holds its process 1, has it started by `start`, and stops it at its exec.
    fn take_over(&mut self, start: Call) -> Result<()> {
        let tasks = seize(self.pid)?;
        let agent = self
            .agent
            .as_mut()
            .ok_or(kernel::Error::Gone { pid: self.pid })?;
        agent.begin(start, None, Streams::Read)?;
        self.first = Some(at_exec(self.pid, tasks, agent)?);
        Ok(())
    }

    /// Waits for the end of its processes, which have been killed: those we trace wait for us.
    fn reap(&self) {
        let deadline = Instant::now() + REAPED;
        while Instant::now() < deadline {
            let any = Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG);
            match waitpid(None, any) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => {}
                _ => continue,
            }
            let mut ended = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ended, PollTimeout::from(1u16)).is_ok_and(|ready| ready > 0) {
                return;
            }
        }
    }
}

impl Vessel for Engined {
    fn first(&mut self) -> Result<Stopped> {
        self.first
            .take()
            .ok_or_else(|| kernel::Error::Gone { pid: self.pid }.into())
    }

    fn pid(&self) -> kernel::Pid {
        self.pid
    }

    fn is_init(&self) -> bool {
        false
    }

    fn engine(&self) -> Engine {
        self.engine
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn id(&self) -> String {
        self.id.clone()
    }

    fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    fn changed(&self) -> &[(IpAddr, IpAddr)] {
        &self.changed
    }

    fn warnings(&self) -> &[String] {
        &[]
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn release(mut self: Box<Self>, _root: kernel::Pid, _init: Option<Stub>) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            let started = agent.answer()?;
            started.printed("start the container")?;
            agent.keep()?;
        }
        self.released = true;
        Ok(())
    }
}

impl Drop for Engined {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        // The engine can take away only what has ended and been reaped.
        let _ = self.pidfd.signal(Signal::SIGKILL as i32);
        self.reap();
        drop(self.agent.take());
    }
}
