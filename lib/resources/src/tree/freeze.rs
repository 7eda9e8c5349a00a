//! Stops every task of a container by ptrace, until no new one appears. The stops end with us: whatever happens to
//! `checkpoint`, the container runs on.

use super::Sharing;
use super::waits::{self, Shortened, Watch};
use crate::threads::Apart;
use crate::{Blocker, Error, Result, Source, SourceProcess, SourceThread};
use image::sockets::tcp::Connections;
use kernel::arch;
use kernel::kcmp;
use kernel::pidfd::PidFd;
use kernel::proc::{Proc, family, stat, status};
use kernel::ptrace::{self, Event, Polled, Running, Stopped, options};
use kernel::remote::{Gates, Guest};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// The process is no more.
const ESRCH: i32 = 3;
const ECHILD: i32 = 10;

/// A container at rest.
#[derive(Debug)]
pub struct Frozen {
    /// Its live processes.
    pub source: Source,
    /// What its processes share, by their places in the source.
    pub sharing: Sharing,
    /// Its zombies, by our pid.
    pub zombies: Vec<stat::Stat>,
    /// Processes that were stopped by a signal.
    pub stopped: HashSet<kernel::Pid>,
    /// In how many pid namespaces its root process is seen, ours first: the last is the container's.
    pub depth: usize,
    /// Calls that are to be executed again for what remained of their time.
    shortened: HashMap<kernel::Pid, Shortened>,
}

/// How long a task may take to stop. One that takes longer waits for a child made by vfork, which is stopped itself.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long the next one waits for it.
const AT_ONCE: Duration = Duration::from_millis(5);
/// How often a task that is to stop is looked at before we sleep meanwhile: most stop within microseconds.
const GLANCES: usize = 50;
/// How often a container is let go again, for such a child to get on.
const ATTEMPTS: usize = 50;

/// Stops `root`, its descendants, and (with `namespace`) all else in that pid namespace, except `spared`: our own
/// init, which is no part of the container.
pub fn freeze(
    root: kernel::Pid,
    namespace: Option<&Path>,
    spared: Option<kernel::Pid>,
) -> Result<Frozen> {
    let mut late = Vec::new();
    for _ in 0..ATTEMPTS {
        let mut pass = Pass::default();
        pass.go_on_with(late)?;
        match pass.stop_all(root, namespace, spared)? {
            Some(family) => return pass.assemble(root, family),
            None => late = pass.let_go()?,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Those that are still asked to stop are let go of by the kernel when we end.
    let late = late.first().map_or(root, |(_, running)| running.tid());
    let (what, remedy) = match vforked(late) {
        Some(child) => (
            format!(
                "it waits for its child {child}, made by vfork, which neither executes a program nor ends"
            ),
            "try again when it has",
        ),
        None => (
            "it waits in the kernel without a break".into(),
            "try again later",
        ),
    };
    Err(Error::Blocked(vec![Blocker {
        pid: late,
        place: String::new(),
        what,
        remedy: remedy.into(),
    }]))
}

/// The child that a task has given its memory for a while, and waits for.
fn vforked(tid: kernel::Pid) -> Option<kernel::Pid> {
    let children = Proc::thread(tid, tid).text("children").ok()?;
    let mut children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    children.find(|child| kcmp::same_memory(tid, *child).unwrap_or(false))
}

/// A stopped thread, and what remained of the time it waited for.
type Held = (Stopped, Option<image::threads::Wait>);

/// How many waits are looked at: the list of all timers of the host takes its time. Further ones begin anew.
const WATCHED: usize = 128;

/// One attempt at stopping everything.
#[derive(Default)]
struct Pass {
    held: HashMap<kernel::Pid, HashMap<kernel::Pid, Held>>,
    /// Those that did not stop at once, each with its process.
    late: Vec<(kernel::Pid, Running, Option<Watch>)>,
    /// How many waits were looked at while they ended.
    watched: usize,
    /// Calls that are to be executed again for what remained of their time.
    shortened: HashMap<kernel::Pid, Shortened>,
    known: HashSet<kernel::Pid>,
    stopped: HashSet<kernel::Pid>,
}

impl Pass {
    /// `None` where a task does not stop in time.
    fn stop_all(
        &mut self,
        root: kernel::Pid,
        namespace: Option<&Path>,
        spared: Option<kernel::Pid>,
    ) -> Result<Option<Vec<stat::Stat>>> {
        loop {
            let mut family = family::family(root, namespace)?;
            family.retain(|process| Some(process.pid) != spared);
            let mut found = false;
            for process in &family {
                for tid in threads(process) {
                    if self.known.contains(&tid) {
                        continue;
                    }
                    let watch = Watch::begin(process.pid, tid, self.watched < WATCHED);
                    self.watched += usize::from(watch.as_ref().is_some_and(Watch::has_timers));
                    if let Some(running) = seize(process.pid, tid)? {
                        self.known.insert(tid);
                        found = true;
                        let deadline = Instant::now() + AT_ONCE;
                        self.hold(process.pid, running, watch, deadline)?;
                    }
                }
            }
            if !found && self.late.is_empty() {
                return Ok(Some(family));
            }
            let deadline = Instant::now() + PATIENCE;
            for (pid, running, watch) in std::mem::take(&mut self.late) {
                self.hold(pid, running, watch, deadline)?;
            }
            if !self.late.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Waits for a task to stop, and hides from it at once that it did: killed from here on, we leave no EINTR behind.
    /// One task after the other, so that none stands stopped while we are busy with others.
    fn hold(
        &mut self,
        pid: kernel::Pid,
        running: Running,
        watch: Option<Watch>,
        deadline: Instant,
    ) -> Result<()> {
        match until_stopped(running, Some(deadline))? {
            Wait::Stopped(mut task, by_signal) => {
                if by_signal {
                    self.stopped.insert(pid);
                }
                let tid = task.tid();
                let before = task.registers()?;
                hide(&mut task)?;
                let wait = waits::remembered(tid, &before, watch.as_ref());
                if let Some(watch) = watch {
                    let shortened = waits::shorten(&mut task, &before, &watch)?;
                    self.shortened.extend(shortened.map(|call| (tid, call)));
                }
                self.held.entry(pid).or_default().insert(tid, (task, wait));
            }
            Wait::Late(running) => self.late.push((pid, running, watch)),
            Wait::Gone => (),
        }
        Ok(())
    }

    /// Begins with tasks that were asked to stop before.
    fn go_on_with(&mut self, late: Vec<(kernel::Pid, Running)>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for (pid, running) in late {
            self.known.insert(running.tid());
            self.hold(pid, running, None, deadline)?;
        }
        Ok(())
    }

    /// Lets all tasks go on, but for those that even now do not stop to be let go.
    fn let_go(self) -> Result<Vec<(kernel::Pid, Running)>> {
        for (task, _) in self.held.into_values().flat_map(HashMap::into_values) {
            release(task)?;
        }
        let (mut still, deadline) = (Vec::new(), Instant::now() + PATIENCE / 4);
        for (pid, running, _) in self.late {
            match until_stopped(running, Some(deadline))? {
                Wait::Stopped(task, _) => release(task)?,
                Wait::Late(running) => still.push((pid, running)),
                Wait::Gone => (),
            }
        }
        Ok(still)
    }

    fn assemble(mut self, root: kernel::Pid, family: Vec<stat::Stat>) -> Result<Frozen> {
        let (mut processes, mut zombies, mut inside) = (Vec::new(), Vec::new(), HashMap::new());
        let depth = status::read(root)?.numbers("NSpid")?.len().max(1);
        for process in family {
            if let Some(tasks) = self.held.remove(&process.pid) {
                processes.push(assemble(process.pid, tasks, &mut inside, depth)?);
            } else if let Ok(now) = stat::read(process.pid) {
                // Its state may have changed since the scan that found it: read again, now that nothing moves.
                let names = status::read(now.pid)?.numbers("NSpid")?;
                let name = names.get(depth - 1).copied().unwrap_or(now.pid.into());
                inside.insert(now.pid, name as image::ids::Pid);
                zombies.push(now);
            }
        }
        let pids: Vec<kernel::Pid> = processes.iter().map(|process| process.pid).collect();
        let tids = |process: &SourceProcess| process.threads.iter().map(|t| t.tid).collect();
        let tasks: Vec<_> = processes.iter().map(|p| (p.pid, tids(p))).collect();
        let apart = Apart::of(&tasks)?;
        let crossing = apart.blockers();
        if !crossing.is_empty() {
            return Err(Error::Blocked(crossing));
        }
        Ok(Frozen {
            sharing: Sharing::of(&pids)?,
            source: Source {
                processes,
                inside,
                objects: HashMap::new(),
                connections: Connections::None,
                clients: Default::default(),
                ext_unix: false,
                apart,
                sights: Default::default(),
            },
            zombies,
            stopped: self.stopped,
            shortened: self.shortened,
            depth,
        })
    }
}

/// Lets a task go in which no call was made.
fn release(mut task: Stopped) -> kernel::Result<()> {
    hide(&mut task)?;
    task.detach(0)
}

/// Lets a task that was stopped in a call go on as if it had not been.
fn hide(task: &mut Stopped) -> kernel::Result<()> {
    let before = task.registers()?;
    let mut registers = before;
    arch::hide_stop(&mut registers);
    if registers != before {
        task.set_registers(&registers)?;
    }
    Ok(())
}

/// The threads of a process that can be stopped: those that live.
fn threads(process: &stat::Stat) -> Vec<kernel::Pid> {
    let dead = process.state == 'Z' || process.state == 'X';
    let mut tids = Proc::process(process.pid)
        .numbers("task")
        .unwrap_or_default();
    tids.retain(|tid| !dead || *tid != process.pid);
    tids
}

/// A task that shows what a process has: its first thread, or where that has ended another. `None` of a zombie.
pub fn living(process: &stat::Stat) -> Option<kernel::Pid> {
    threads(process)
        .into_iter()
        .min_by_key(|tid| (*tid != process.pid, *tid))
}

/// `None` for a task that ended before it could be stopped.
fn seize(pid: kernel::Pid, tid: kernel::Pid) -> Result<Option<Running>> {
    let filtered = status::read_thread(pid, tid)
        .ok()
        .and_then(|s| s.number("Seccomp").ok())
        .is_some_and(|mode| mode != 0);
    let suspend = if filtered {
        options::SUSPEND_SECCOMP
    } else {
        0
    };
    match ptrace::seize(tid, options::SYSGOOD | suspend) {
        Ok(running) => {
            // ESRCH: it ended in between; the wait says so.
            let _ = running.interrupt();
            Ok(Some(running))
        }
        Err(e) => {
            let gone = stat::read(tid).is_ok_and(|s| s.state == 'Z')
                || !Path::new(&format!("/proc/{tid}")).exists();
            if gone { Ok(None) } else { Err(e.into()) }
        }
    }
}

enum Wait {
    /// It stands; `true` where a signal had stopped it already.
    Stopped(Stopped, bool),
    Late(Running),
    Gone,
}

/// Waits for the stop that was asked for, letting signals on their way be delivered first.
fn until_stopped(mut running: Running, deadline: Option<Instant>) -> Result<Wait> {
    let mut glances = 0;
    loop {
        let event = match deadline {
            None => running.wait()?,
            Some(deadline) => match running.poll()? {
                Polled::Event(event) => event,
                Polled::Still(still) if Instant::now() > deadline => return Ok(Wait::Late(still)),
                Polled::Still(still) => {
                    running = still;
                    glances += 1;
                    match glances < GLANCES {
                        true => std::thread::yield_now(),
                        false => std::thread::sleep(Duration::from_micros(20)),
                    }
                    continue;
                }
            },
        };
        running = match event {
            Event::Stop(task) => return Ok(Wait::Stopped(task, false)),
            Event::GroupStop(task, _) => return Ok(Wait::Stopped(task, true)),
            Event::Signal(task, signal) => task.resume(signal)?,
            Event::Syscall(task) | Event::Traced(task, ..) => task.resume(0)?,
            Event::Gone(_) => return Ok(Wait::Gone),
        };
    }
}

fn assemble(
    pid: kernel::Pid,
    mut tasks: HashMap<kernel::Pid, Held>,
    inside: &mut HashMap<kernel::Pid, image::ids::Pid>,
    depth: usize,
) -> Result<SourceProcess> {
    let mut tids: Vec<_> = tasks.keys().copied().collect();
    tids.sort_unstable_by_key(|tid| (*tid != pid, *tid));
    let first = tids.first().copied().unwrap_or(pid);
    let names = status::read(pid)?.numbers("NSpid")?;
    let name = names.get(depth - 1).copied().unwrap_or(pid.into()) as image::ids::Pid;
    inside.insert(pid, name);
    let ended = match first == pid {
        true => None,
        false => Some(stat::read(pid)?),
    };
    let mut gates = Gates::find(first)?;
    if let (Some(found), Some((task, _))) = (gates, tasks.get(&first)) {
        gates = Some(found.with_room(task)?);
    }
    let mut threads = Vec::with_capacity(tids.len());
    for tid in tids {
        let names = status::read_thread(pid, tid)?.numbers("NSpid")?;
        let name = names.get(depth - 1).copied().unwrap_or(tid.into()) as image::ids::Pid;
        inside.insert(tid, name);
        if let Some((task, wait)) = tasks.remove(&tid) {
            threads.push(SourceThread {
                tid,
                wait,
                inside: name,
                guest: Guest::new(task, gates)?,
            });
        }
    }
    Ok(SourceProcess {
        pid: first,
        inside: name,
        ended,
        proc: Proc::process(first),
        pidfd: PidFd::task(first)?,
        threads,
    })
}

impl Frozen {
    /// Lets everything run on as if nothing had happened.
    pub fn thaw(self) -> Result<()> {
        let mut first_error = None;
        let threads = self.source.processes.into_iter().flat_map(|p| p.threads);
        let shortened = self.shortened;
        let let_go = |mut task: Stopped| {
            if let Some(call) = shortened.get(&task.tid()) {
                call.apply(&mut task)?;
            }
            release(task)
        };
        for thread in threads {
            // One task that died must not keep the others stopped.
            if let Err(e) = thread.guest.finish().and_then(let_go) {
                first_error.get_or_insert(e);
            }
        }
        match first_error {
            Some(e) if e.raw() != Some(ESRCH) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Whether all of it has ended, killed by somebody else.
    pub fn ended(&mut self) -> Result<bool> {
        let mut all = true;
        for process in &mut self.source.processes {
            // All are asked each time: the last thread to end in a process 1 waits for those before it to be waited for
            // (kernel/pid_namespace.c, `zap_pid_ns_processes`).
            for thread in std::mem::take(&mut process.threads) {
                match Running::known(thread.tid).poll() {
                    Ok(Polled::Event(Event::Gone(_))) => {}
                    Err(e) if e.raw() == Some(ECHILD) => {}
                    Err(e) => return Err(e.into()),
                    Ok(_) => {
                        all = false;
                        process.threads.push(thread);
                    }
                }
            }
        }
        Ok(all)
    }

    /// Ends the container: every process is killed, children last, and their end awaited.
    pub fn kill(self) -> Result<()> {
        for process in &self.source.processes {
            match process.pidfd.signal(9) {
                Err(e) if e.raw() != Some(ESRCH) => return Err(e.into()),
                _ => (),
            }
        }
        while let Ok(Some(_)) = ptrace::wait_any() {}
        Ok(())
    }
}
