//! `/proc/timer_list`: the timers that are running, each with its end, but not with whose it is (kernel/time/timer_list.c).

use crate::{Error, Result};
use std::collections::HashSet;

/// Timers that wake a task out of a wait, and when they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timers {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub now: i64,
    /// Those that wake a task.
    pub wakeups: HashSet<Wakeup>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wakeup {
    /// What the kernel shows for its address.
    pub address: String,
    /// From when on it may fire, in nanoseconds of `CLOCK_MONOTONIC`.
    pub soft: i64,
    /// When it fires at the latest.
    pub hard: i64,
}

/// Reads those of this host; only root may.
pub fn read() -> Result<Timers> {
    let path = "/proc/timer_list";
    let text = std::fs::read(path).map_err(|e| Error::io(format!("read {path}"), &e))?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// Parses the file; lines of other kinds are passed over.
pub fn parse(text: &str) -> Timers {
    let mut timers = Timers::default();
    let (mut offset, mut address) = (0, None);
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(rest) = line.strip_prefix("now at ") {
            timers.now = number(rest).unwrap_or(0);
        } else if let Some(rest) = line.strip_prefix(".offset:") {
            offset = number(rest.trim_start()).unwrap_or(0);
        } else if let Some(rest) = line.strip_prefix("# expires at ") {
            let ends = rest.split_once('-');
            let ends = ends.and_then(|(soft, hard)| Some((number(soft)?, number(hard)?)));
            if let (Some(address), Some((soft, hard))) = (address.take(), ends) {
                timers.wakeups.insert(Wakeup {
                    address,
                    soft: soft.saturating_sub(offset),
                    hard: hard.saturating_sub(offset),
                });
            }
        } else if line.starts_with('#') {
            let mut words = line.split([' ', ',']).filter(|word| !word.is_empty());
            address = words
                .nth(1)
                .map(str::to_owned)
                .filter(|_| words.next() == Some("hrtimer_wakeup"));
        }
    }
    timers
}

/// The number that a text begins with.
fn number(text: &str) -> Option<i64> {
    text.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux 6.18, shortened.
    const SAMPLE: &str = "Timer List Version: v0.10\nHRTIMER_MAX_CLOCK_BASES: 8\nnow at 25642315479775 nsecs\n\n\
        cpu: 0\n clock 0:\n  .base:       0000000058619efd\n  .index:      0\n  .resolution: 1 nsecs\n  .offset:     0 nsecs\n\
        active timers:\n #0: <000000003761746c>, tick_nohz_handler, S:01\n \
        # expires at 25642316000000-25642316000000 nsecs [in 520225 to 520225 nsecs]\n \
        #1: <00000000b3e023a4>, hrtimer_wakeup, S:01\n \
        # expires at 25642316518017-25642316568017 nsecs [in 1038242 to 1088242 nsecs]\n clock 1:\n  \
        .offset:     1000000 nsecs\nactive timers:\n #0: <00000000f7f022f9>, hrtimer_wakeup, S:01\n \
        # expires at 25642354621489-25642354671489 nsecs [in 38141714 to 38191714 nsecs]\n  .nr_events      : 5\n";

    #[test]
    fn wakeups_are_read_and_other_timers_are_not() {
        let timers = parse(SAMPLE);
        assert_eq!(timers.now, 25_642_315_479_775);
        let wakeup = |address: &str, soft, hard| Wakeup {
            address: address.into(),
            soft,
            hard,
        };
        let wanted = [
            wakeup("<00000000b3e023a4>", 25_642_316_518_017, 25_642_316_568_017),
            wakeup("<00000000f7f022f9>", 25_642_353_621_489, 25_642_353_671_489),
        ];
        assert_eq!(timers.wakeups, HashSet::from(wanted));
        assert_eq!(parse("now at x\n # expires at 1-\n #\n"), Timers::default());
    }

    #[test]
    fn a_sleeper_is_seen() {
        let before = read().unwrap();
        let sleeper = std::thread::spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(5_000));
        });
        std::thread::sleep(std::time::Duration::from_millis(500));
        let after = read().unwrap();
        let ends = before.now + 5_000_000_000..after.now + 5_000_000_000;
        assert!(
            after
                .wakeups
                .difference(&before.wakeups)
                .any(|new| ends.contains(&new.soft)),
            "{after:?}"
        );
        drop(sleeper);
    }
}
