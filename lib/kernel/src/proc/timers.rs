//! `/proc/PID/timers` (proc_pid_timers(5)): POSIX timers, but not their times.

use crate::{Error, Pid, Result};

/// One timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// Its id.
    pub id: i32,
    /// The signal it sends.
    pub signal: i32,
    /// `sigev_value`.
    pub value: u64,
    /// `sigev_notify`: `SIGEV_SIGNAL` 0, `SIGEV_NONE` 1, `SIGEV_THREAD` 2, with `SIGEV_THREAD_ID` 4.
    pub notify: i32,
    /// Who gets it, in the pid namespace of the `/proc` that was read.
    pub receiver: Pid,
    /// `CLOCK_*`, or a processor time clock (negative).
    pub clock: i32,
}

/// Reads the text.
pub fn parse(text: &str) -> Result<Vec<Timer>> {
    let mut timers = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for block in lines.chunks(4) {
        let timer = timer(block).ok_or_else(|| {
            Error::unreadable("/proc/PID/timers", format!("not a timer: {block:?}"))
        })?;
        timers.push(timer);
    }
    Ok(timers)
}

fn timer(block: &[&str]) -> Option<Timer> {
    let [id, signal, notify, clock] = block else {
        return None;
    };
    let (signal, value) = signal.strip_prefix("signal: ")?.split_once('/')?;
    let (kind, receiver) = notify.strip_prefix("notify: ")?.split_once('/')?;
    let (whom, receiver) = receiver.split_once('.')?;
    let kind = match kind {
        "signal" => libc::SIGEV_SIGNAL,
        "none" => libc::SIGEV_NONE,
        "thread" => libc::SIGEV_THREAD,
        _ => return None,
    };
    let whom = match whom {
        "tid" => libc::SIGEV_THREAD_ID,
        "pid" => 0,
        _ => return None,
    };
    Some(Timer {
        id: id.strip_prefix("ID: ")?.parse().ok()?,
        signal: signal.parse().ok()?,
        // %px prints no 0x, %p of old kernels may.
        value: u64::from_str_radix(value.trim_start_matches("0x"), 16).ok()?,
        notify: kind | whom,
        receiver: receiver.parse().ok()?,
        clock: clock.strip_prefix("ClockID: ")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_of_the_manual_page_is_read() {
        let text = "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
            ID: 0\nsignal: 60/0000000000000007\nnotify: none/tid.2635\nClockID: -6\n";
        let found = parse(text).unwrap();
        assert_eq!(
            found[0],
            Timer {
                id: 1,
                signal: 60,
                value: 0x7fff86e452a8,
                notify: 0,
                receiver: 2634,
                clock: 0
            }
        );
        assert_eq!((found[1].notify, found[1].clock), (5, -6));
    }

    #[test]
    fn half_a_timer_is_refused() {
        assert!(parse("ID: 1\nsignal: 60/00\n").is_err());
        assert!(parse("").unwrap().is_empty());
    }
}
