//! The end of a restore: what the image says of processes is given back in the order the kernel wants, and everything
//! is let go at once.

use crate::pour::Pour;
use image::ids::Pid;
use image::namespaces::nested::Nested;
use image::process::Process;
use image::threads::Thread;
use image::tree::{Ended, State, Tree};
use kernel::proc::stat;
use kernel::ptrace::{self, Event, Stopped};
use resources::files::Opened;
use resources::namespaces::nested;
use resources::{
    Error, Result, Target, cgroups, credentials, ipc, limits, memory, signals, threads, timers,
};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Signals that stop and cannot be caught (signal(7)).
const SIGSTOP: i32 = 19;

/// Gives everything back but registers. What this host does not allow, and the program can do without, is returned
/// in words.
pub fn finish(pour: &mut Pour) -> Result<Vec<String>> {
    let mut words = std::mem::take(&mut pour.words);
    let target = &mut pour.target;
    let none = Nested::default();
    let nested = pour.tree.as_ref().map_or(&none, |tree| &tree.nested);
    let last = pour.tree.as_ref().and_then(|tree| tree.last_pid);
    for (pid, process) in &pour.processes {
        if let Some(space) = &process.memory {
            memory::protect(target, *pid, space)?;
            memory::fields(target, *pid, space)?;
        }
        let files = pour.files.as_mut().ok_or_else(|| gone(*pid))?;
        files.place(target, *pid, process.table.as_ref(), &process.fs)?;
        let tasks = target.process(*pid)?;
        limits::register(tasks, &process.limits)?;
        nested::join_users(nested, target, *pid, &process.credentials.groups)?;
        let births = threads::order(*pid, &process.threads)?;
        nested::create_threads(nested, target, *pid, &births, &mut pour.numbers, last)?;
        for thread in &process.threads {
            files.place_table_apart(target, thread)?;
        }
        let tasks = target.process(*pid)?;
        signals::restore(tasks, &process.signals)?;
        timers::restore(tasks, &process.timers)?;
        words.extend(
            each_thread(target, process, threads::restore)?
                .into_iter()
                .flatten(),
        );
    }
    // All are in their user namespaces now: what they may enter in `/proc` depends on where the others are.
    for (pid, process) in &pour.processes {
        let files = pour.files.as_ref().ok_or_else(|| gone(*pid))?;
        for thread in &process.threads {
            files.place_fs_apart(target, thread)?;
        }
    }
    words.extend(cgroups::groups::resume(&pour.groups, target)?);
    pour.numbers.finish(last)?;
    if let Some(files) = &mut pour.files {
        files.resume(target)?;
    }
    words.extend(nested::settle(nested, target, &mut pour.init)?);
    let root = target.root_pid;
    ipc::sysv::resume(target, root, &pour.sysv)?;
    let unlinked = pour.files.iter().flat_map(Opened::queues);
    ipc::notices::resume(target, pour.queues.queues.iter().chain(unlinked))?;
    let base = match target.processes.values_mut().next() {
        Some(any) => credentials::Base::of(&mut any.leader, pour.first_filter_is_engines)?,
        None => credentials::Base::default(),
    };
    // Before limits: one on pending signals may be lower than what is pending.
    for (pid, process) in &pour.processes {
        let tasks = target.process(*pid)?;
        signals::resume(tasks, &process.signals, &process.threads)?;
    }
    for (pid, process) in &pour.processes {
        words.extend(limits::restore(target.process(*pid)?, &process.limits)?);
        each_thread(target, process, |stub, thread| {
            credentials::restore(stub, thread, &process.credentials, &base)
        })?;
    }
    for (pid, process) in &pour.processes {
        timers::resume(target.process(*pid)?, &process.timers)?;
    }
    Ok(words)
}

fn each_thread<T>(
    target: &mut Target,
    process: &Process,
    mut work: impl FnMut(&mut kernel::remote::Stub, &image::threads::Thread) -> Result<T>,
) -> Result<Vec<T>> {
    let tasks = target.process(process.pid)?;
    let mut results = Vec::new();
    for thread in &process.threads {
        let stub = if thread.tid == process.pid {
            &mut tasks.leader
        } else {
            tasks
                .threads
                .get_mut(&thread.tid)
                .ok_or_else(|| gone(thread.tid))?
        };
        results.push(work(stub, thread)?);
    }
    Ok(results)
}

/// Waits that were interrupted begin again, in stubs, which several processes may share; gives the threads that the kernel
/// will go on with.
fn wait_again(pour: &mut Pour) -> Result<HashSet<Pid>> {
    let mut remembered = HashSet::new();
    for process in pour.processes.values() {
        let again = each_thread(&mut pour.target, process, threads::wait_again)?;
        let threads = process.threads.iter().zip(again);
        remembered.extend(
            threads
                .filter(|(_, again)| *again)
                .map(|(thread, _)| thread.tid),
        );
    }
    Ok(remembered)
}

/// Tasks that would run on as they were, and do not yet.
#[derive(Default)]
pub struct Standing {
    /// Those of processes that a signal had stopped, with the signals they block.
    stopped: Vec<(Stopped, u64)>,
    others: Vec<Stopped>,
}

/// How long one may take that is to stop.
const PATIENCE: Duration = Duration::from_secs(1);

impl Standing {
    /// Lets them go: first those that stop again, so that nobody sees them run. Until they have stopped they take no other
    /// signal: one that waits for them (`kill %1` of a shell's) would be taken first, and end them.
    pub fn go(self) -> Result<()> {
        let mut stopping = Vec::new();
        for (mut task, mask) in self.stopped {
            stopping.push((task.tid(), mask));
            task.set_signal_mask(u64::MAX)?;
            task.detach(0)?;
        }
        let deadline = Instant::now() + PATIENCE;
        let runs = |tid| stat::read(tid).is_ok_and(|stat| stat.state != 'T');
        while stopping.iter().any(|(tid, _)| runs(*tid)) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        for (tid, mask) in stopping {
            block(tid, mask)?;
        }
        for task in self.others {
            task.detach(0)?;
        }
        Ok(())
    }
}

/// Gives a task that a signal has stopped the signals it blocks. It stays stopped.
fn block(tid: kernel::Pid, mask: u64) -> Result<()> {
    let mut task = ptrace::seize(tid, 0)?;
    task.interrupt()?;
    loop {
        task = match task.wait()? {
            Event::Stop(mut task) | Event::GroupStop(mut task, _) => {
                task.set_signal_mask(mask)?;
                return Ok(task.detach(0)?);
            }
            Event::Signal(task, signal) => task.resume(signal)?,
            Event::Syscall(task) | Event::Traced(task, ..) => task.resume(0)?,
            Event::Gone(_) => return Ok(()),
        };
    }
}

/// The last of the stubs, then registers.
pub fn standing(pour: &mut Pour) -> Result<Standing> {
    let remembered = wait_again(pour)?;
    let mut standing = Standing::default();
    for (pid, tasks) in std::mem::take(&mut pour.target.processes) {
        let process = pour.processes.get(&pid).ok_or_else(|| gone(pid))?;
        let records: HashMap<Pid, &Thread> = process.threads.iter().map(|t| (t.tid, t)).collect();
        let record = |tid: Pid| records.get(&tid).copied().ok_or_else(|| gone(tid));
        let stops = stopped(pour, pid);
        let mut release = |task, tid| -> Result<()> {
            let (record, remembered) = (record(tid)?, remembered.contains(&tid));
            let task = threads::release(task, record, remembered)?;
            match stops {
                true => standing.stopped.push((task, record.mask)),
                false => standing.others.push(task),
            }
            Ok(())
        };
        let mut others = tasks.threads.into_iter();
        let first = match ended(&pour.tree, pid) {
            None => Some((pid, tasks.leader)),
            Some(ended) => {
                threads::end_first(tasks.leader, ended)?;
                others.next()
            }
        };
        let (tid, stub) = first.ok_or_else(|| gone(pid))?;
        // Once for each memory: nobody makes calls any more.
        let task = match process.memory {
            Some(_) => stub.remove()?,
            None => stub.into_task()?,
        };
        release(task, tid)?;
        for (tid, stub) in others {
            release(stub.into_task()?, tid)?;
        }
        // Only now: a stub would take the signal for its own.
        if stops {
            tasks.pidfd.signal(SIGSTOP)?;
        }
    }
    Ok(standing)
}

/// How the first thread of a process ended, where others live on.
fn ended(tree: &Option<Tree>, pid: Pid) -> Option<&Ended> {
    let processes = tree.iter().flat_map(|tree| &tree.processes);
    let mut found = processes.filter(|process| process.pid == pid);
    found.find_map(|process| match &process.state {
        State::Alive { ended, .. } => ended.as_ref(),
        State::Dead { .. } => None,
    })
}

fn stopped(pour: &Pour, pid: Pid) -> bool {
    let processes = pour.tree.iter().flat_map(|tree| &tree.processes);
    processes
        .filter(|process| process.pid == pid)
        .any(|process| matches!(process.state, State::Alive { stopped: true, .. }))
}

fn gone(id: Pid) -> Error {
    Error::Refused(format!("the image speaks of task {id}, which is not in it"))
}
