//! Scheduling policy, processors, io priority: all from outside, by thread id.

use crate::Result;
use image::threads::Scheduling;
use kernel::proc::Proc;
use kernel::sched::{self, Attributes};
use std::sync::LazyLock;

/// `SCHED_DEADLINE` alone has a runtime of its own; for others it is the slice the scheduler gives.
const SCHED_DEADLINE: u32 = 6;
/// What `sched_setattr` takes of the flags: reset on fork, and those of `SCHED_DEADLINE`
/// (include/uapi/linux/sched.h).
const FLAGS: u64 = 0x07;
/// `SCHED_FLAG_UTIL_CLAMP_MIN`, `SCHED_FLAG_UTIL_CLAMP_MAX`: bounds on utilisation are set as well.
const BOUNDS: u64 = 0x60;
/// `SCHED_FLAG_KEEP_ALL`: and nothing else is.
const KEEP: u64 = 0x18;
/// What all have who have not asked for bounds.
const UNBOUNDED: (u32, u32) = (0, 1024);
/// As many as `CPU_SETSIZE`: the kernel takes of a mask what it has.
static ALL: LazyLock<Vec<u32>> = LazyLock::new(|| (0..1024).collect());

pub(super) fn dump(tid: kernel::Pid) -> Result<Scheduling> {
    let found = sched::attributes(tid)?;
    let usual = sched::attributes(0)?;
    // A slice as everybody's is nobody's own choice (Linux 6.12 reports it as the runtime).
    let own = found.policy == SCHED_DEADLINE || found.runtime != usual.runtime;
    let slack = Proc::process(tid).text("timerslack_ns")?;
    let slack = slack.trim().parse().map_err(|_| {
        kernel::Error::unreadable(
            format!("/proc/{tid}/timerslack_ns"),
            format!("not a number: {slack:?}"),
        )
    })?;
    let processors = sched::processors(tid)?;
    Ok(Scheduling {
        policy: found.policy,
        flags: found.flags & FLAGS,
        nice: sched::nice(tid)?,
        priority: found.priority,
        runtime: if own { found.runtime } else { 0 },
        deadline: found.deadline,
        period: found.period,
        utilisation: bounds(&found),
        processors: (processors.len() < *ONLINE).then_some(processors),
        io_priority: sched::io_priority(tid)?,
        timer_slack: slack,
    })
}

/// How many processors are online, whichever of them we may use ourselves. Asked once: it is the same for all threads.
static ONLINE: LazyLock<usize> = LazyLock::new(|| {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let ours = std::thread::available_parallelism().map_or(1, usize::from);
    count(&text).max(ours)
});

/// Counts a list like `0-3,8`.
fn count(list: &str) -> usize {
    list.trim()
        .split(',')
        .filter_map(|range| match range.split_once('-') {
            Some((first, last)) => {
                let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
                last.checked_sub(first)?.checked_add(1)
            }
            None => range.parse::<usize>().ok().map(|_| 1),
        })
        .sum()
}

/// Those that a kernel without any shows as 0.
fn bounds(found: &Attributes) -> Option<(u32, u32)> {
    (found.greatest != 0).then_some((found.least, found.greatest))
}

pub(super) fn restore(tid: kernel::Pid, record: &Scheduling) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut report = |what: &str, result: kernel::Result<()>| match result {
        Err(e) if e.raw() == Some(libc::ESRCH) => Err(e),
        Err(e) => {
            words.push(format!("{what} stays as it is here: {e}"));
            Ok(())
        }
        Ok(()) => Ok(()),
    };
    // First: a deadline is for threads that may run on all processors (sched(7)), and `restore` may not.
    match &record.processors {
        None => report("affinity", sched::set_processors(tid, &ALL))?,
        Some(some) => {
            let result = sched::set_processors(tid, some);
            if result.is_err() {
                // None of them is here: as the kernel does when a processor goes away.
                sched::set_processors(tid, &ALL)?;
            }
            report("affinity", result)?;
        }
    }
    if sched::nice(tid)? != record.nice {
        report("nice value", sched::set_nice(tid, record.nice))?;
    }
    let found = sched::attributes(tid)?;
    let wanted = Attributes {
        policy: record.policy,
        flags: record.flags,
        nice: record.nice,
        priority: record.priority,
        runtime: record.runtime,
        deadline: record.deadline,
        period: record.period,
        ..Attributes::default()
    };
    let as_before = (
        found.policy,
        found.flags & FLAGS,
        found.nice,
        found.priority,
    ) == (wanted.policy, wanted.flags, wanted.nice, wanted.priority);
    if !as_before || wanted.runtime != 0 {
        report("scheduling", sched::set_attributes(tid, wanted))?;
    }
    let now = bounds(&found).unwrap_or(UNBOUNDED);
    if let Some((least, greatest)) = record.utilisation.filter(|wanted| *wanted != now) {
        let wanted = Attributes {
            flags: BOUNDS | KEEP,
            least,
            greatest,
            ..Attributes::default()
        };
        report("utilisation", sched::set_attributes(tid, wanted))?;
    }
    if sched::io_priority(tid)? != record.io_priority {
        report(
            "io priority",
            sched::set_io_priority(tid, record.io_priority),
        )?;
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_counted() {
        for (list, n) in [
            ("0-3\n", 4),
            ("0", 1),
            ("0-1,4,6-7\n", 5),
            ("", 0),
            ("3-1", 0),
        ] {
            assert_eq!(count(list), n, "{list:?}");
        }
    }
}
