//! Timers of a process that are not descriptors. `restore` makes them, `resume` arms them: time stood still in between.

use crate::namespaces::pid;
use crate::{Blocker, Error, Result, SourceProcess, TargetProcess};
use image::timers::{IntervalKind, IntervalTimer, PosixTimer, Timers};
use kernel::proc::{Proc, timers};
use kernel::remote::{Call, Caller, Stub, call};

/// `PR_TIMER_CREATE_RESTORE_IDS` (Linux 6.15, include/uapi/linux/prctl.h): a timer gets the id asked for.
const RESTORE_IDS: i32 = 77;
/// Without it ids are counted, and as many are tried.
const MOST_TRIED: i32 = 1 << 16;
/// `CLOCK_THREAD_CPUTIME_ID` as the kernel keeps it: that of the thread which made the timer.
const THREAD_CLOCK: i32 = -2;
const SIGEV_THREAD_ID: i32 = libc::SIGEV_THREAD_ID;
/// `struct sigevent`.
const SIGEVENT: usize = 64;
/// `struct itimerval` and `struct itimerspec`: interval, then value.
const TIMES: usize = 32;
const KINDS: [(IntervalKind, u64); 3] = [
    (IntervalKind::Real, 0),
    (IntervalKind::Virtual, 1),
    (IntervalKind::Profiling, 2),
];

/// Why timers cannot be taken, seen from outside.
pub fn blockers(pid: kernel::Pid) -> Result<Vec<Blocker>> {
    // Without the file nothing says which timers there are.
    Ok(match Proc::process(pid).bytes("timers") {
        Err(e) if e.raw() == Some(libc::ENOENT) && Proc::process(pid).path("stat").exists() => {
            vec![Blocker {
                pid: 0,
                place: "/proc/PID/timers".into(),
                what: "the kernel does not tell which timers a process has".into(),
                remedy: "use a kernel with CONFIG_CHECKPOINT_RESTORE".into(),
            }]
        }
        _ => Vec::new(),
    })
}

/// Interval and value, each in `per_second` units, from the kernel's pairs of seconds and units.
fn times(bytes: &[u8; TIMES], per_second: u64) -> (u64, u64) {
    let [interval, value] = [0, 16].map(|at| {
        let [seconds, units] = [at, at + 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        });
        seconds.saturating_mul(per_second).saturating_add(units)
    });
    (interval, value)
}

fn to_times(interval: u64, value: u64, per_second: u64) -> Vec<u8> {
    [
        interval / per_second,
        interval % per_second,
        value / per_second,
        value % per_second,
    ]
    .into_iter()
    .flat_map(u64::to_ne_bytes)
    .collect()
}

const MICROS: u64 = 1_000_000;
const NANOS: u64 = 1_000_000_000;

/// Takes all timers with the time that remains.
pub fn dump(process: &mut SourceProcess) -> Result<Timers> {
    let text = process.proc.text("timers")?;
    let listed = timers::parse(&text)?;
    let inside: Vec<_> = process.threads.iter().map(|t| (t.tid, t.inside)).collect();
    let first = process.leader()?;
    let (leader, guest) = (first.inside, &mut first.guest);
    let (address, _) = guest.scratch()?;
    let mut ask = |what: &str, nr: i64, which: u64| -> Result<[u8; TIMES]> {
        guest.must(what, Call::new(nr, &[which, address]))?;
        let mut bytes = [0; TIMES];
        guest.read(address, &mut bytes)?;
        Ok(bytes)
    };
    let mut found = Timers::default();
    for (kind, number) in KINDS {
        let bytes = ask("getitimer", libc::SYS_getitimer, number)?;
        let (interval, remaining) = times(&bytes, MICROS);
        if remaining != 0 {
            found.interval.push(IntervalTimer {
                kind,
                remaining,
                interval,
            });
        }
    }
    for timer in listed {
        let bytes = ask("timer_gettime", libc::SYS_timer_gettime, timer.id as u64)?;
        let (interval, remaining) = times(&bytes, NANOS);
        let receiver = inside.iter().find(|(tid, _)| *tid == timer.receiver);
        // A thread that has ended takes its timers' signals with it: from then on they count, and tell nobody.
        let (notify, receiver) = match receiver {
            Some((_, receiver)) => (timer.notify, *receiver),
            None => (libc::SIGEV_NONE, leader),
        };
        found.posix.push(PosixTimer {
            id: timer.id,
            clock: timer.clock,
            notify,
            signal: timer.signal,
            receiver,
            value: timer.value,
            remaining,
            interval,
        });
    }
    found.posix.sort_by_key(|timer| timer.id);
    Ok(found)
}

/// Makes the POSIX timers, not armed, each with its id. All threads are there already.
pub fn restore(process: &mut TargetProcess, record: &Timers) -> Result<()> {
    if record.posix.is_empty() {
        return Ok(());
    }
    let exact = process.leader.call(call::prctl(RESTORE_IDS, 1))? == 0;
    for timer in &record.posix {
        let receiver = match process.threads.get(&timer.receiver) {
            _ if timer.notify & SIGEV_THREAD_ID == 0 => timer.receiver,
            Some(thread) => pid::inside(thread.tid())?,
            None => pid::inside(process.pid)?,
        };
        // A timer for the processor time of a thread counts that of its maker.
        let maker = match process.threads.get_mut(&timer.receiver) {
            Some(thread) if timer.clock == THREAD_CLOCK => thread,
            _ => &mut process.leader,
        };
        let mut timer = timer.clone();
        timer.receiver = receiver;
        create(maker, &timer, exact)?;
    }
    if exact {
        process
            .leader
            .must("PR_TIMER_CREATE_RESTORE_IDS", call::prctl(RESTORE_IDS, 0))?;
    }
    Ok(())
}

fn sigevent(timer: &PosixTimer) -> Vec<u8> {
    let mut event = timer.value.to_ne_bytes().to_vec();
    event.extend(timer.signal.to_ne_bytes());
    event.extend(timer.notify.to_ne_bytes());
    if timer.notify & SIGEV_THREAD_ID != 0 {
        event.extend(timer.receiver.to_ne_bytes());
    }
    event.resize(SIGEVENT, 0);
    event
}

fn create(stub: &mut Stub, timer: &PosixTimer, exact: bool) -> Result<()> {
    let refused =
        |why: &str| Error::Refused(format!("timer {} cannot be made again: {why}", timer.id));
    let (address, _) = stub.scratch()?;
    let id_at = address + SIGEVENT as u64;
    let make = Call::new(
        libc::SYS_timer_create,
        &[timer.clock as u64, address, id_at],
    );
    let mut bytes = sigevent(timer);
    bytes.extend(timer.id.to_ne_bytes());
    let tries = if exact { 1 } else { MOST_TRIED };
    for _ in 0..tries {
        stub.put(&bytes)?;
        stub.must(&format!("timer_create of timer {}", timer.id), make)?;
        let mut id = [0; 4];
        stub.read(id_at, &mut id)?;
        let id = i32::from_ne_bytes(id);
        if id == timer.id {
            return Ok(());
        }
        // Before Linux 6.15 ids are counted: those that the program has deleted are made and deleted again.
        stub.must(
            "timer_delete",
            Call::new(libc::SYS_timer_delete, &[id as u64]),
        )?;
        if id > timer.id {
            return Err(refused("the kernel has counted past its id"));
        }
    }
    Err(refused(
        "its id is too high for this kernel, which counts ids: use Linux 6.15 or later",
    ))
}

/// Arms the timers with what remained of their time.
pub fn resume(process: &mut TargetProcess, record: &Timers) -> Result<()> {
    let leader = &mut process.leader;
    let (base, _) = leader.scratch()?;
    for timers in record.posix.chunks(256) {
        let armed = timers.iter().filter(|timer| timer.remaining != 0);
        let (mut bytes, mut calls) = (Vec::new(), Vec::new());
        for timer in armed {
            let at = base + bytes.len() as u64;
            calls.push(Call::new(
                libc::SYS_timer_settime,
                &[timer.id as u64, 0, at],
            ));
            bytes.extend(to_times(timer.interval, timer.remaining, NANOS));
        }
        leader.put(&bytes)?;
        leader.must_all(&calls, &|_| "timer_settime".into())?;
    }
    for timer in &record.interval {
        let number = KINDS.iter().find(|(kind, _)| *kind == timer.kind);
        let number = number.map_or(0, |(_, number)| *number);
        let at = leader.put(&to_times(timer.interval, timer.remaining, MICROS))?;
        leader.must("setitimer", Call::new(libc::SYS_setitimer, &[number, at]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (interval, value) in [(0, 1), (2_500_000, 999_999), (MICROS, 7 * MICROS + 3)] {
            let mut bytes = [0; TIMES];
            bytes.copy_from_slice(&to_times(interval, value, MICROS));
            assert_eq!(times(&bytes, MICROS), (interval, value));
        }
    }

    #[test]
    fn only_a_timer_for_a_thread_names_one() {
        let mut timer = PosixTimer {
            id: 3,
            clock: 1,
            notify: 0,
            signal: 10,
            receiver: 77,
            value: 5,
            remaining: 0,
            interval: 0,
        };
        assert_eq!(
            sigevent(&timer)[8..20],
            [10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        timer.notify = SIGEV_THREAD_ID;
        assert_eq!(sigevent(&timer)[12..20], [4, 0, 0, 0, 77, 0, 0, 0]);
        assert_eq!(sigevent(&timer).len(), SIGEVENT);
    }
}
