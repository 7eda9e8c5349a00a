//! Vessels that an engine makes: its own container, complete, whose process 1 is taken over at the instant it execs. What
//! differs between engines is how it is brought there.

use super::Vessel;
use super::agent::{Agent, Call, Streams};
use crate::engine::create::{self, Creation, Wishes};
use crate::namespaces::mount;
use crate::namespaces::time::{self, Clocks};
use crate::rootfs::{Content, Policy};
use crate::{Error, Result};
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
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

mod docker;
pub mod gate;
mod podman;
mod runc;

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
    /// `--bundle`, for runc and crun; none: the one it came from.
    pub bundle: Option<PathBuf>,
    /// `--console-socket`, for runc and crun: who takes the other side of its terminal.
    pub console_socket: Option<PathBuf>,
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
    warnings: Vec<String>,
    /// What of the image's files stays out.
    policy: Policy,
    /// Whether the agent still awaits the end of the engine's `start`.
    starting: bool,
    /// What is left to be said to the engine once all is well.
    finally: Vec<Call>,
    released: bool,
}

/// Has the engine make the container. The calling process must have one thread.
pub fn make(engine: Engine, container: &Container, options: &Options) -> Result<Engined> {
    if container.namespaces.pid.own().is_none() {
        return Err(Error::Refused(format!(
            "the container shares the pids of its host, and {engine} would give its processes others; restore it natively \
             (--engine native)"
        )));
    }
    if let Engine::Runc | Engine::Crun = engine {
        return runc::make(engine, container, options);
    }
    let configuration = container.configuration.as_ref().ok_or_else(|| {
        Error::Refused(format!(
            "the image does not say how {engine} would make this container: it was taken from none; restore it natively \
             (--engine native)"
        ))
    })?;
    let mut made = match engine {
        Engine::Docker => docker::make(container, configuration, options),
        _ => podman::make(container, configuration, options),
    }?;
    // Another engine has mounts of its own.
    if let (true, Some(record)) = (engine == container.engine, container.namespaces.mount.own()) {
        made.warnings.extend(mount::missing(made.pid, record)?);
    }
    Ok(made)
}

/// What is being made, with the agent that takes it back.
struct Making {
    engine: Engine,
    agent: Agent,
}

impl Making {
    fn begin(engine: Engine, options: &Options) -> Result<Self> {
        Ok(Making {
            engine,
            agent: Agent::start(offsets(options)?)?,
        })
    }

    /// Calls the engine.
    fn call<S: Into<String>>(&mut self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.agent.call(Call::new(self.engine.name(), args), None)
    }

    /// What the container's image is called here; none where it was made from none.
    fn image(&self, configuration: &Configuration) -> Result<Option<String>> {
        let program = self.engine.name();
        let id_of = |name: &str| {
            let words = ["image", "inspect", "--format", "{{.Id}}", name];
            let output = crate::engine::call(program, &words)?;
            let id = String::from_utf8_lossy(&output.stdout).trim().to_string();
            let id = id.strip_prefix("sha256:").unwrap_or(&id).to_string();
            if output.status.success() {
                return Ok(Some(id));
            }
            let why = crate::engine::complaint(&output.stderr);
            let none = [
                "no such image",
                "image not known",
                "invalid reference format",
            ];
            match none.iter().any(|none| why.to_lowercase().contains(none)) {
                true => Ok(None),
                false => Err(Error::Refused(format!("{program} image inspect: {why}"))),
            }
        };
        let image = configuration.image.as_ref();
        image
            .map(|image| create::image(image, self.engine, id_of))
            .transpose()
    }

    /// Makes the volumes that have a name; says whose content stays. Those without one are made with the container.
    fn volumes(
        &mut self,
        configuration: &Configuration,
        policy: Option<Volumes>,
    ) -> Result<Policy> {
        let program = self.engine.name();
        let mut taken = Vec::new();
        for volume in configuration.volumes.iter().filter(|v| !v.anonymous) {
            let name = &*volume.name;
            let known = crate::engine::call(program, &["volume", "inspect", name])?;
            if known.status.success() {
                taken.push(name);
                continue;
            }
            self.agent.call(
                Call::new(program, create::volume(volume)),
                Some(Call::new(program, ["volume", "rm", name])),
            )?;
        }
        match policy {
            None if !taken.is_empty() => Err(Error::Name(format!(
                "{program} has a volume {} already; say --volumes keep to leave its content as it is, or --volumes replace",
                taken.join(", and ")
            ))),
            Some(Volumes::Keep) => Ok(Policy {
                volumes: taken
                    .into_iter()
                    .map(|name| (name.to_string(), Content::Kept))
                    .collect(),
                ..Policy::default()
            }),
            _ => Ok(Policy::default()),
        }
    }

    /// Creates the container: its id. `undo` takes it back, by the id.
    fn create(&mut self, creation: &Creation, undo: Call) -> Result<String> {
        let program = self.engine.name();
        let create = Call::new(program, creation.arguments.clone()).reading(creation.input.clone());
        let id = self.agent.call(create, Some(undo))?;
        for words in &creation.afterwards {
            self.call(words.iter().map(String::as_str))?;
        }
        Ok(id)
    }
}

impl Options {
    /// What they ask of `create`.
    fn wishes(&self, container: &Container) -> Wishes {
        Wishes {
            name: self.name.clone().unwrap_or_else(|| container.name.clone()),
            renamed: self.name.is_some(),
            publish: self.publish.clone(),
            pod: self.pod.clone(),
            ip: self.ip,
            ignore_static_ip: self.ignore_static_ip,
            ignore_static_mac: self.ignore_static_mac,
            networks: self.networks.clone(),
        }
    }
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

/// What an engine says where the name is taken, in our words.
fn named(error: Error, engine: Engine, name: &str) -> Error {
    let text = error.to_string();
    // podman and docker; runc and crun. Not a port's address.
    let taken = ["is already in use", "already exists"];
    match text.contains("container") && taken.iter().any(|taken| text.contains(taken)) {
        true => Error::Name(format!(
            "{engine} has a container {name:?} already; choose another name with -n, or remove that one: {engine} {} {name}",
            match engine {
                Engine::Runc | Engine::Crun => "delete",
                _ => "rm",
            }
        )),
        false => error,
    }
}

/// What an engine says where an address or a port is taken, with what the user can do about it.
fn hinted(error: Error) -> Error {
    let text = error.to_string();
    let lower = text.to_lowercase();
    let port = [
        "cannot listen on",
        "port is already allocated",
        "failed: port",
    ];
    let address = ["requested ip address", "ipam", "address already in use"];
    let is = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    match () {
        () if is(&port) => Error::Refused(format!("{text} (publish another port: --publish)")),
        () if is(&address) => Error::Refused(format!(
            "{text} (--ignore-static-ip leaves the address to the engine, --ip chooses one)"
        )),
        () => error,
    }
}

/// All addresses on these networks.
fn addresses(networks: &[Attachment]) -> Vec<IpAddr> {
    networks.iter().flat_map(|n| n.addresses.clone()).collect()
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
            if !poll(&mut ended, PollTimeout::from(1u16)).is_ok_and(|ready| ready > 0) {
                continue;
            }
            // Its own parent hears of its end only once we, who trace it, have.
            match waitpid(nix::unistd::Pid::from_raw(self.pid), any) {
                Ok(WaitStatus::StillAlive) => {}
                _ => return,
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

    fn policy(&self) -> Policy {
        self.policy.clone()
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
        &self.warnings
    }

    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn release(mut self: Box<Self>, _root: kernel::Pid, _init: Option<Stub>) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            if self.starting {
                agent.answer()?.printed("start the container")?;
            }
            for call in std::mem::take(&mut self.finally) {
                agent.call(call, None)?;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_said_with_a_remedy() {
        let refused = |text: &str| Error::Refused(text.into());
        for said in [
            "podman create: creating container storage: the container name \"web\" is already in use by 0123",
            "docker create: Conflict. The container name \"/web\" is already in use by container \"0123\"",
            "runc create: runc create failed: container with given ID already exists",
        ] {
            let error = named(refused(said), Engine::Docker, "web");
            assert_eq!(error.exit_code(), 5, "{said}");
        }
        for (said, remedy) in [
            (
                "docker start: driver failed programming external connectivity on endpoint web: Bind for 0.0.0.0:80 \
                 failed: port is already allocated",
                "--publish",
            ),
            (
                "podman init: cannot listen on the TCP port: listen tcp4 :80: bind: address already in use",
                "--publish",
            ),
            (
                "podman init: netavark: IPAM error: requested ip address 10.88.0.2 is already allocated",
                "--ignore-static-ip",
            ),
            ("docker start: Address already in use", "--ignore-static-ip"),
        ] {
            let error = hinted(named(refused(said), Engine::Docker, "web"));
            assert_eq!(error.exit_code(), 1, "{said}");
            assert!(error.to_string().contains(remedy), "{error}");
        }
        let other = hinted(refused("podman init: no such thing"));
        assert_eq!(other.to_string(), "podman init: no such thing");
    }
}
