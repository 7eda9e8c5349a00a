//! The walk through the rooms: what cannot be taken, and then everything that can, as records.

use crate::target::Found;
use image::cgroups::groups::Groups;
use image::ids::{Pid, SpaceId, TableId};
use image::ipc::sysv::SystemV;
use image::process::Process;
use image::tree::Tree;
use kernel::proc::family;
use kernel::proc::stat::Stat;
use resources::container::{self, Files};
use resources::memory::{self, Layout, Roots, shared::Inodes};
use resources::namespaces::nested::Sights;
use resources::tree::Frozen;
use resources::{
    Blocker, Error, Result, cgroups, credentials, files, ipc, limits, signals, threads, timers,
    tree,
};
use std::collections::HashMap;
use std::time::Duration;

/// Everything about the processes but the contents of memory and files.
pub struct Taken {
    pub tree: Tree,
    pub files: files::Taken,
    pub processes: Vec<Process>,
    pub layouts: Vec<Layout>,
    pub inodes: Inodes,
    pub sysv: SystemV,
    pub groups: Groups,
    /// What does not come along and the program can do without, in words.
    pub words: Vec<String>,
    pub families: Vec<memory::family::Taken>,
}

/// How often, and how long apart, what stands in the way is looked at before it is believed.
const LOOKS: usize = 5;
const APART: Duration = Duration::from_millis(20);

/// Everything that stands in the way, all at once, while the container still runs. What is gone after a moment does not
/// count: a process that is being started and has no C library yet, a connection whose answer was just sent.
pub fn blockers(found: &Found, files: Files) -> Result<Vec<Blocker>> {
    let mut blockers = look(found, files)?;
    for _ in 1..LOOKS {
        if blockers.is_empty() {
            break;
        }
        std::thread::sleep(APART);
        blockers = look(found, files)?;
    }
    Ok(blockers)
}

fn look(found: &Found, files: Files) -> Result<Vec<Blocker>> {
    let family = family(found)?;
    let pids: Vec<kernel::Pid> = family.iter().map(|process| process.pid).collect();
    let mut blockers = tree::blockers(&family, found.depth)?;
    blockers.extend(container::blockers(&found.subject(files), &pids)?);
    let alive: Vec<kernel::Pid> = family.iter().filter_map(tree::living).collect();
    blockers.extend(cgroups::blockers(&alive)?);
    blockers.extend(resources::files::blockers(&alive, found.outside())?);
    let sights = Sights::of(found.root, &alive)?;
    for process in &family {
        let Some(pid) = tree::living(process) else {
            continue;
        };
        let roots = Roots {
            own: sights.mounts_of(pid, found.root),
            container: found.root,
        };
        blockers.extend(look_at(process, pid, roots)?);
    }
    Ok(blockers)
}

/// The processes of a container, its root first.
fn family(found: &Found) -> Result<Vec<Stat>> {
    let mut family = family::family(found.root, found.namespace.as_deref())?;
    family.retain(|process| Some(process.pid) != found.init);
    Ok(family)
}

/// All of their tasks that have descriptors of their own, by our ids.
pub fn holders(found: &Found) -> Result<Vec<kernel::Pid>> {
    let mut pids: Vec<kernel::Pid> = family(found)?.iter().map(|process| process.pid).collect();
    pids.extend(threads::Apart::running(&pids)?.holders());
    Ok(pids)
}

/// What of one process stands in the way. One that ends while it is looked at does not; one that becomes another program
/// meanwhile is looked at again.
fn look_at(process: &Stat, pid: kernel::Pid, roots: Roots) -> Result<Vec<Blocker>> {
    let mut looks = 0;
    loop {
        let found = threads::blockers(pid).and_then(|mut all| {
            all.extend(timers::blockers(pid)?);
            all.extend(credentials::blockers(pid)?);
            all.extend(memory::blockers(pid, roots)?);
            Ok(all)
        });
        looks += 1;
        match found {
            Ok(found) => return Ok(found),
            Err(_) if !process_is_there(process) => return Ok(Vec::new()),
            Err(e) if looks == LOOKS => return Err(e),
            Err(_) => std::thread::sleep(APART),
        }
    }
}

fn process_is_there(process: &Stat) -> bool {
    kernel::proc::stat::read(process.pid)
        .is_ok_and(|now| now.starttime() == process.starttime() && tree::living(&now).is_some())
}

/// Takes the frozen container.
pub fn take(found: &Found, frozen: &mut Frozen) -> Result<Taken> {
    let mut nested = tree::nested(frozen, found.root)?;
    let rings = memory::rings::settle(&mut frozen.source, &frozen.sharing)?;
    let mut files = files::dump(&mut frozen.source)?;
    let mut inodes = Inodes::beside(&frozen.source.objects).with(rings);
    inodes.segments(found.root, &frozen.source.sights)?;
    let sysv = ipc::sysv::dump(found.root, &mut frozen.source)?;
    ipc::sysv::dump_inner(&mut nested, &mut frozen.source)?;
    ipc::dump_inner(&mut nested, &mut frozen.source)?;
    ipc::dump_unlinked(&mut files, &mut frozen.source)?;
    let (groups, words) = cgroups::groups::dump(&frozen.source, found.root)?;
    for process in &mut frozen.source.processes {
        process.rest()?;
    }
    let (mut spaces, mut layouts) = (Vec::new(), Vec::new());
    for (i, process) in frozen.source.processes.iter_mut().enumerate() {
        if frozen.sharing.memory[i] != i {
            spaces.push(None);
            continue;
        }
        let roots = Roots {
            own: frozen.source.sights.mounts_of(process.pid, found.root),
            container: found.root,
        };
        let (space, layout) = memory::dump(process, SpaceId(i as u32), roots, &mut inodes)?;
        if frozen.sharing.shares_memory(i) {
            process.rest()?;
        }
        spaces.push(Some(space));
        layouts.push(layout);
    }
    inodes.settle(found.root, &frozen.source.sights)?;
    let stub = memory::free_everywhere(&layouts)?;
    let mut processes = Vec::new();
    let inside = frozen.source.inside.clone();
    let parts = spaces.into_iter().zip(frozen.source.processes.iter_mut());
    let mut witnesses = credentials::Witnesses::default();
    for (i, (space, process)) in parts.enumerate() {
        witnesses.refuse(process)?;
        let credentials = credentials::dump(process)?;
        let mut threads = threads::dump(process, &inside, &credentials)?;
        for (thread, record) in process.threads.iter().zip(&mut threads) {
            (record.table, record.fs) = files.apart(thread.tid);
        }
        processes.push(Process {
            pid: process.inside,
            threads,
            memory: space,
            table: files.table(TableId(i as u32)),
            fs: files.fs(process.pid)?,
            signals: signals::dump(process)?,
            timers: timers::dump(process)?,
            limits: limits::dump(process)?,
            credentials,
        });
        process.rest()?;
    }
    let subreapers: HashMap<Pid, bool> = processes
        .iter()
        .map(|process| (process.pid, process.limits.child_subreaper))
        .collect();
    let is_subreaper = |pid: Pid| subreapers.get(&pid).copied().unwrap_or(false);
    let last_pid = match found.namespace {
        Some(_) => Some(kernel::namespaces::last_pid(found.root)?),
        None => None,
    };
    let mut tree = tree::dump(frozen, found.root, &is_subreaper, last_pid, stub)?;
    tree.terminals = files.terminals.clone();
    tree.nested = nested;
    let families = memory::family::dump(&tree, &mut processes, &mut layouts)?;
    for process in &mut processes {
        let shape = tree.processes.iter().find(|shape| shape.pid == process.pid);
        if shape.is_some_and(|shape| shape.sid == tree::OUTSIDE) {
            // That of a session which stays behind.
            process.limits.autogroup = None;
        }
    }
    Ok(Taken {
        tree,
        files,
        processes,
        layouts,
        inodes,
        sysv,
        groups,
        words,
        families,
    })
}

/// Blockers as the error that lists them.
pub fn refuse(blockers: Vec<Blocker>) -> Result<()> {
    if blockers.is_empty() {
        Ok(())
    } else {
        Err(Error::Blocked(blockers))
    }
}
