//! Queues of asynchronous I/O (io_setup(2)). What the kernel keeps of one is its ring, which lies in the program's memory,
//! and a count of requests it will still accept. Nobody is told what requests are on their way: but they can be counted, by
//! making others until the kernel accepts no more. Those end at once, and their events are taken out of the ring again.

use super::areas;
use crate::tree::Sharing;
use crate::{Blocker, Error, Result, Source, SourceProcess, TargetProcess};
use image::memory::{Area, Backing, Space};
use kernel::aio::{self, EVENT, HEAD, Requests, Ring};
use kernel::proc::maps;
use kernel::remote::{Call, Caller};
use kernel::{Pid, sched, vm};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long requests on their way are waited for, and at first how long until the next look.
const PATIENCE: Duration = Duration::from_secs(3);
const APART: Duration = Duration::from_millis(1);

/// The queues of a frozen container, by process and address. Memory of a ring that is none of these was inherited by fork(2),
/// and is good for nothing.
pub type Rings = HashSet<(Pid, u64)>;

/// Waits until no request of any queue is on its way: from then on nobody writes to the container's memory, or to its files
/// on its behalf.
pub fn settle(source: &mut Source, sharing: &Sharing) -> Result<Rings> {
    let mut found = Rings::new();
    if !aio::any()? {
        return Ok(found);
    }
    for (i, process) in source.processes.iter_mut().enumerate() {
        if sharing.memory.get(i) != Some(&i) {
            continue;
        }
        let areas = maps::read(process.pid)?;
        for area in areas.iter().filter(|area| area.name == aio::NAME) {
            let guest = &mut process.leader()?.guest;
            if aio::is_queue(guest, area.start)? {
                wait(process, area)?;
                found.insert((process.pid, area.start));
            }
        }
        process.rest()?;
    }
    Ok(found)
}

fn blocked(pid: Pid, start: u64, end: u64, what: String, remedy: &str) -> Error {
    Error::Blocked(vec![Blocker {
        pid,
        place: format!("{start:#x}-{end:#x}"),
        what,
        remedy: remedy.into(),
    }])
}

fn wait(process: &mut SourceProcess, area: &maps::Area) -> Result<()> {
    let pid = process.pid;
    let thread = process.leader()?;
    let allowed = sched::processors(thread.tid)?;
    let requests = Requests::prepare(&mut thread.guest)?;
    let start = Instant::now();
    let mut apart = APART;
    let on_their_way = loop {
        let count = count(&mut thread.guest, pid, area, &requests);
        // One that could not be moved needs not be moved back.
        let _ = sched::set_processors(thread.tid, &allowed);
        match count {
            Ok(some) if some > 0 && start.elapsed() < PATIENCE => std::thread::sleep(apart),
            found => break found,
        }
        apart = (apart * 2).min(PATIENCE / 10);
    };
    requests.close(&mut thread.guest)?;
    let on_their_way = on_their_way?;
    if on_their_way == 0 {
        return Ok(());
    }
    let what =
        format!("a queue of asynchronous I/O (io_setup) with {on_their_way} requests on their way");
    let remedy = "have the program wait for them, or cancel those that wait for something to happen (IOCB_CMD_POLL)";
    Err(blocked(pid, area.start, area.end, what, remedy))
}

/// How many requests are on their way. Each processor may hold permits for some; so they are asked one after the other, until
/// all are found.
fn count(task: &mut dyn Caller, pid: Pid, area: &maps::Area, requests: &Requests) -> Result<u32> {
    let before = ring(pid, area.start, area.end)?;
    let permits = aio::permits(before.slots, aio::possible_processors()?);
    let mut made = requests.make(task, area.start, permits);
    let mut processor = 0;
    while let Ok(so_far) = made
        && so_far + before.unread() < permits
        && processor < PROCESSORS
    {
        // One that is not there, or not the container's to use.
        if sched::set_processors(task.tid(), &[processor]).is_ok() {
            made = requests
                .make(task, area.start, permits)
                .map(|more| so_far + more);
        }
        processor += 1;
    }
    let kept = take_out(task, pid, area, requests)?;
    Ok(permits.saturating_sub(made? + kept))
}

/// More than any kernel is built for (`CONFIG_NR_CPUS`).
const PROCESSORS: u32 = 1024;

fn ring(pid: Pid, start: u64, end: u64) -> Result<Ring> {
    let bytes = vm::read_array::<EVENT>(pid, start)?;
    Ring::parse(&bytes, end - start).ok_or_else(|| {
        let what = "a queue of asynchronous I/O (io_setup) that is not whole any more".into();
        blocked(pid, start, end, what, "end what uses it, before checkpoint")
    })
}

/// Takes the events of our requests out of the ring; says how many others are in it. Only the kernel writes at its end, and
/// only the program at its beginning: so what it has not read comes to lie before the end.
fn take_out(
    task: &mut dyn Caller,
    pid: Pid,
    area: &maps::Area,
    requests: &Requests,
) -> Result<u32> {
    let ring = ring(pid, area.start, area.end)?;
    let mut events = unread(pid, area.start, &ring)?;
    events.retain(|event| !requests.made(event));
    let count = events.len() as u32;
    let head = (ring.tail + ring.slots - count) % ring.slots;
    put(task, area.start, &ring, head, &events)?;
    Ok(count)
}

fn unread(pid: Pid, start: u64, ring: &Ring) -> Result<Vec<[u8; EVENT]>> {
    let mut all = vec![0; ring.slots as usize * EVENT];
    vm::read(pid, start + EVENT as u64, &mut all)?;
    let (all, _) = all.as_chunks::<EVENT>();
    let places = (0..ring.unread()).map(|i| (ring.head + i) % ring.slots);
    Ok(places
        .filter_map(|place| all.get(place as usize).copied())
        .collect())
}

/// Puts events into the ring, from `head` on, and then the head.
fn put(
    task: &mut dyn Caller,
    start: u64,
    ring: &Ring,
    head: u32,
    events: &[[u8; EVENT]],
) -> Result<()> {
    let first = events.len().min((ring.slots - head) as usize);
    let (now, round) = events.split_at_checked(first).unwrap_or((events, &[]));
    for (place, run) in [(head, now), (0, round)] {
        if !run.is_empty() {
            task.write(start + ring.at(place), run.as_flattened())?;
        }
    }
    Ok(task.write(start + HEAD, &head.to_ne_bytes())?)
}

/// Takes a queue, once nothing of it is on its way.
pub(super) fn dump(pid: Pid, area: &maps::Area) -> Result<Backing> {
    let ring = ring(pid, area.start, area.end)?;
    let events = unread(pid, area.start, &ring)?;
    Ok(Backing::Ring {
        head: ring.head,
        tail: ring.tail,
        events: events.as_flattened().to_vec().into(),
    })
}

/// Makes the queues of a space, once all else is mapped: the kernel puts them where nothing is, and they are moved.
pub(super) fn restore(process: &mut TargetProcess, space: &Space) -> Result<()> {
    for area in &space.areas {
        if let Backing::Ring { head, tail, events } = &area.backing {
            make(process, area)?;
            let (events, _) = events.0.as_chunks::<EVENT>();
            let wanted = Ring {
                slots: aio::slots_of(area.len()).unwrap_or(1),
                head: *head,
                tail: *tail,
            };
            fill(process, area, wanted, events)?;
            let prot = Call::new(
                libc::SYS_mprotect,
                &[area.start, area.len(), area.prot.0.into()],
            );
            process.leader.must("protect a queue", prot)?;
            let advice = areas::advise_calls(area);
            process
                .leader
                .must_all(&advice, &|_| "advise on a queue".into())?;
        }
    }
    Ok(())
}

fn make(process: &mut TargetProcess, area: &Area) -> Result<()> {
    let here = |what: &str, remedy: &str| {
        let what = format!("a queue of asynchronous I/O (io_setup) {what}");
        blocked(process.inside, area.start, area.end, what, remedy)
    };
    let at = match aio::setup(&mut process.leader, aio::requests(area.len())) {
        Err(e) if e.raw() == Some(libc::EAGAIN) => {
            return Err(here(
                "is one more than this host allows",
                "write more to /proc/sys/fs/aio-max-nr",
            ));
        }
        made => made?,
    };
    let made = vm::read_array::<EVENT>(process.pid, at)?;
    if Ring::parse(&made, area.len()).is_none() {
        return Err(here(
            "would be longer here",
            "its length depends on the number of processors: restore it on a host with as many",
        ));
    }
    if at != area.start {
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        let len = area.len();
        let go = Call::new(libc::SYS_mremap, &[at, len, len, flags, area.start]);
        process.leader.must("move a queue", go)?;
    }
    Ok(())
}

/// Has as many requests end in a new queue that its end is where it was, and as many unread as there were; their events
/// become those.
fn fill(
    process: &mut TargetProcess,
    area: &Area,
    wanted: Ring,
    events: &[[u8; EVENT]],
) -> Result<()> {
    let (task, tid) = (&mut process.leader, process.pid);
    let allowed = sched::processors(tid)?;
    // All permits shall be where they are asked for.
    if let Some(one) = allowed.first() {
        sched::set_processors(tid, &[*one])?;
    }
    let requests = Requests::prepare(task)?;
    let unread = wanted.unread();
    let all = if wanted.tail < unread {
        wanted.tail + wanted.slots
    } else {
        wanted.tail
    };
    let mut read = all - unread;
    while read > 0 {
        let made = some(&requests, task, area, read.min(wanted.slots / 2))?;
        let now = ring(process.pid, area.start, area.end)?;
        task.write(area.start + HEAD, &now.tail.to_ne_bytes())?;
        read -= made;
    }
    let mut left = unread;
    while left > 0 {
        left -= some(&requests, task, area, left)?;
    }
    requests.close(task)?;
    put(task, area.start, &wanted, wanted.head, events)?;
    sched::set_processors(tid, &allowed)?;
    if ring(process.pid, area.start, area.end)? != wanted {
        return Err(Error::Refused(format!(
            "the queue of asynchronous I/O at {:#x} of process {} does not become what it was",
            area.start, process.inside
        )));
    }
    Ok(())
}

fn some(requests: &Requests, task: &mut dyn Caller, area: &Area, count: u32) -> Result<u32> {
    match requests.make(task, area.start, count)? {
        0 => Err(Error::Refused(format!(
            "the queue of asynchronous I/O at {:#x} holds more events than this host allows",
            area.start
        ))),
        made => Ok(made),
    }
}
