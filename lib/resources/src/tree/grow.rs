//! The tree grows again: every step of the plan made by remote calls in the task that has to make it.

use super::numbers::{Born, Numbers, Patience};
use super::pids;
use super::plan::{OUTSIDE, Step, plan};
use crate::files::Terminals;
use crate::{Error, Result, TargetProcess, memory};
use image::ids::Pid;
use image::tree::{State, Tree};
use kernel::pidfd::PidFd;
use kernel::proc::Proc;
use kernel::remote::{Call, Caller, Plant, Stub, call, plant};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;

/// A tree as high as it was.
#[derive(Debug)]
pub struct Grown {
    /// Its live processes, each with one thread, the memory of the first, and a stub in it.
    pub processes: BTreeMap<Pid, TargetProcess>,
    /// The first process, where it is our own init and no part of the image.
    pub init: Option<Stub>,
    /// How its threads will come by their ids; to be finished after the last of them.
    pub numbers: Numbers,
}

/// A tree that grows, and stops where memory has to be placed before it goes on.
#[derive(Debug)]
pub struct Growth {
    steps: VecDeque<Step>,
    tasks: Tasks,
    depths: BTreeMap<Pid, usize>,
    numbers: Numbers,
    first_is_root: bool,
}

/// Grows `tree` from its first process: the root itself, or our own init. Sessions get their terminals before they have
/// members, who inherit them.
pub fn grow(tree: &Tree, first: Stub, first_is_root: bool, terminals: &Terminals) -> Result<Grown> {
    Growth::begin(tree, first, first_is_root, terminals)?.finish(tree, terminals)
}

impl Growth {
    /// Begins as [`grow`] does.
    pub fn begin(
        tree: &Tree,
        mut first: Stub,
        first_is_root: bool,
        terminals: &Terminals,
    ) -> Result<Self> {
        let start = if first_is_root { tree.root } else { OUTSIDE };
        // Numbers of ours may be theirs, where they live among us.
        let taken = |pid| std::path::Path::new(&format!("/proc/{pid}")).exists();
        let steps = plan(tree, start, &taken).map_err(Error::Refused)?;
        let numbers = Numbers::of(first.tid(), tree)?;
        if first_is_root {
            memory::empty(&mut first)?;
        }
        let mut tasks = BTreeMap::from([(start, first)]);
        if !first_is_root {
            terminals.control(OUTSIDE, task(&mut tasks, OUTSIDE)?)?;
        }
        Ok(Growth {
            steps: steps.into(),
            tasks,
            depths: BTreeMap::new(),
            numbers,
            first_is_root,
        })
    }

    fn step(&mut self, step: Step, tree: &Tree, terminals: &Terminals) -> Result<()> {
        make(
            &mut self.tasks,
            &mut self.depths,
            &mut self.numbers,
            tree,
            step,
        )?;
        if let Step::Setsid { pid } = step {
            terminals.control(pid, task(&mut self.tasks, pid)?)?;
        }
        Ok(())
    }

    /// Goes on until a process is about to fork, and hands it out.
    pub fn until_fork(
        &mut self,
        pid: Pid,
        tree: &Tree,
        terminals: &Terminals,
    ) -> Result<TargetProcess> {
        let forks = |step: &Step| matches!(step, Step::Fork { creator, .. } if *creator == pid);
        while let Some(step) = self.steps.pop_front() {
            if forks(&step) {
                self.steps.push_front(step);
                return process(pid, take(&mut self.tasks, pid)?);
            }
            self.step(step, tree, terminals)?;
        }
        Err(Error::Refused(format!(
            "process {pid} was to have memory in common with those forked from it, and forks no more"
        )))
    }

    /// Takes it back.
    pub fn go_on_with(&mut self, process: TargetProcess) {
        self.tasks.insert(process.inside, process.leader);
    }

    /// Goes on to the end.
    pub fn finish(mut self, tree: &Tree, terminals: &Terminals) -> Result<Grown> {
        while let Some(step) = self.steps.pop_front() {
            self.step(step, tree, terminals)?;
        }
        let mut init = match self.first_is_root {
            true => None,
            false => self.tasks.remove(&OUTSIDE),
        };
        let mut processes = BTreeMap::new();
        for (inside, leader) in self.tasks {
            processes.insert(inside, process(inside, leader)?);
        }
        terminals.settle(tree, init.as_mut(), &mut processes)?;
        if let (Some(last), Some(root)) = (tree.last_pid, processes.get_mut(&tree.root))
            && self.numbers.are_chosen()
        {
            go_on_after(last, root)?;
        }
        Ok(Grown {
            processes,
            init,
            numbers: self.numbers,
        })
    }
}

fn process(inside: Pid, leader: Stub) -> Result<TargetProcess> {
    let pid = leader.tid();
    Ok(TargetProcess {
        pid,
        inside,
        proc: Proc::process(pid),
        pidfd: PidFd::open(pid)?,
        leader,
        threads: BTreeMap::new(),
        pidfds: BTreeMap::new(),
    })
}

/// The next pid in the container's namespace is a new one there (`ns_last_pid`, pid_namespaces(7)). The file is about the
/// namespace of whoever writes it, so a task of the container does, with a descriptor of ours.
fn go_on_after(last: Pid, root: &mut TargetProcess) -> Result<()> {
    let path = "/proc/sys/kernel/ns_last_pid";
    let file = std::fs::File::options().write(true).open(path);
    let file = file.map_err(|e| kernel::Error::io(format!("open {path}"), &e))?;
    let number = 1 + root.proc.numbers("fd")?.last().copied().unwrap_or(2);
    let plants = [Plant {
        fd: file.as_fd(),
        number,
        close_on_exec: true,
    }];
    plant(&mut root.leader, &root.pidfd, &plants)?;
    let text = last.to_string();
    let at = root.leader.put(text.as_bytes())?;
    // Where this host counts less far, or the root does not live in an own namespace, any free pid will do.
    root.leader
        .call(call::write(number, at, text.len() as u64))?;
    root.leader.must("close", call::close(number))?;
    Ok(())
}

pub(super) type Tasks = BTreeMap<Pid, Stub>;

/// The kernel keeps account of the ancestors that a private page was inherited from (mm/rmap.c, `anon_vma_fork`): after
/// so many generations a stub is made anew.
const GENERATIONS: usize = 16;

fn make(
    tasks: &mut Tasks,
    depths: &mut BTreeMap<Pid, usize>,
    numbers: &mut Numbers,
    tree: &Tree,
    step: Step,
) -> Result<()> {
    match step {
        Step::Fork {
            creator,
            child,
            sibling,
            exit_signal,
            shares,
        } => {
            // The kernel takes a sibling's exit signal from its creator, and wants none given (kernel/fork.c).
            let (flags, exit_signal) = if sibling {
                (call::CLONE_PARENT, 0)
            } else {
                (0, exit_signal.max(0))
            };
            let way = pids::enter(tasks, numbers, tree, creator, child)?;
            let mut stub = fork(
                tasks,
                numbers,
                creator,
                child,
                (flags | way.flags | shares.flags(), exit_signal),
            )?;
            if creator == OUTSIDE {
                memory::empty(&mut stub)?;
            }
            let depth = 1 + depths.get(&creator).copied().unwrap_or(0);
            depths.insert(child, depth);
            if depth % GENERATIONS == 0 {
                let base = stub.base();
                stub = Stub::overlay(stub.into_task()?, base)?;
            }
            tasks.insert(child, stub);
            way.leave(task(tasks, creator)?)?;
        }
        Step::Setsid { pid } => {
            let task = task(tasks, pid)?;
            // Process 1 of an engine leads its session already, and may not say so again (setsid(2)).
            let own = numbers.seen_by(pid, pid).unwrap_or(pid) as u64;
            if task.call(call::setsid())? < 0 && task.must("getsid", call::getsid())? != own {
                task.must("setsid", call::setsid())?;
            }
        }
        Step::Setpgid { pid, pgid } => {
            let what = format!("setpgid {pgid}");
            match (numbers.seen_by(pgid, pid), parent(tree, pid)) {
                (Some(pgid), _) => task(tasks, pid)?.must(&what, call::setpgid(0, pgid))?,
                // It has no name for the group, and its parent may have one.
                (None, above) => {
                    let names = numbers
                        .seen_by(pid, above)
                        .zip(numbers.seen_by(pgid, above));
                    let (pid, pgid) = names.ok_or_else(|| {
                        Error::Refused(format!(
                            "process {pid} of a pid namespace inside the container cannot be put back into group {pgid}"
                        ))
                    })?;
                    task(tasks, above)?.must(&what, call::setpgid(pid, pgid))?
                }
            };
        }
        Step::Subreaper { pid, on } => {
            task(tasks, pid)?.must("PR_SET_CHILD_SUBREAPER", call::set_child_subreaper(on))?;
        }
        Step::End { pid, parent } => {
            take(tasks, pid)?.last_call(call::exit_group(0))?;
            let name = numbers.seen_by(pid, parent).unwrap_or(pid);
            task(tasks, parent)?.must(&format!("wait for {pid}"), call::wait4(name))?;
        }
        Step::Die { pid } => die(take(tasks, pid)?, tree, pid)?,
    }
    Ok(())
}

pub(super) fn task(tasks: &mut Tasks, pid: Pid) -> Result<&mut Stub> {
    tasks
        .get_mut(&pid)
        .ok_or_else(|| Error::Refused(format!("process {pid} is needed and not there")))
}

fn take(tasks: &mut Tasks, pid: Pid) -> Result<Stub> {
    tasks
        .remove(&pid)
        .ok_or_else(|| Error::Refused(format!("process {pid} is to end and not there")))
}

/// The parent of a process; [`OUTSIDE`] of one that is no process of the tree.
fn parent(tree: &Tree, pid: Pid) -> Pid {
    let found = tree.processes.iter().find(|process| process.pid == pid);
    found.map_or(OUTSIDE, |process| process.ppid)
}

/// A pid of a process that has just been killed stays taken until its parent reaps it.
fn fork(
    tasks: &mut Tasks,
    numbers: &mut Numbers,
    creator: Pid,
    pid: Pid,
    (flags, exit_signal): (u64, i32),
) -> Result<Stub> {
    let (patience, what) = (Patience::new(), format!("fork with pid {pid}"));
    loop {
        match numbers.birth(task(tasks, creator)?, &what, pid, flags, exit_signal)? {
            Born::Right(stub) => return Ok(stub),
            Born::Other(other, stub) => end(tasks, other, stub)?,
            Born::Taken => {}
        }
        patience.wait(pid)?;
    }
}

/// Ends a process that came by another pid than it should have, and has its parent reap it.
fn end(tasks: &mut Tasks, pid: Pid, stub: Stub) -> Result<()> {
    let parent = kernel::proc::stat::read(stub.tid())?.ppid();
    stub.last_call(call::exit_group(0))?;
    if let Some(parent) = tasks.values_mut().find(|task| task.tid() == parent) {
        parent.must(&format!("wait for {pid}"), call::wait4(pid))?;
    }
    Ok(())
}

/// Ends as the zombie had ended.
fn die(mut stub: Stub, tree: &Tree, pid: Pid) -> Result<()> {
    let state = tree
        .processes
        .iter()
        .find(|p| p.pid == pid)
        .map(|p| &p.state);
    let Some(State::Dead { status, name }) = state else {
        return Err(Error::Refused(format!("process {pid} is no zombie")));
    };
    let mut comm = name.0.clone();
    comm.truncate(15);
    comm.push(0);
    let at = stub.put(&comm)?;
    stub.must("PR_SET_NAME", call::set_name(at))?;
    let signal = status & 0x7f;
    let last: Call = if signal == 0 {
        call::exit_group(status >> 8 & 0xff)
    } else {
        // No core file for a death that is only repeated.
        stub.must("PR_SET_DUMPABLE", call::set_dumpable(0))?;
        stub.put(&[0; 32])?;
        stub.call(call::sigaction(signal, at))?;
        stub.task()?.set_signal_mask(0)?;
        call::kill(crate::namespaces::pid::inside(stub.tid())?, signal)
    };
    stub.last_call(last)?;
    Ok(())
}
