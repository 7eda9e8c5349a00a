//! Timers of a process that are not descriptors.

use crate::ids::Pid;
use serde::{Deserialize, Serialize};

/// Interval timers and POSIX timers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timers {
    /// Armed interval timers (`getitimer(2)`), at most one a kind.
    pub interval: Vec<IntervalTimer>,
    /// POSIX timers by their id (`/proc/PID/timers`).
    pub posix: Vec<PosixTimer>,
}

/// Which clock an interval timer counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalKind {
    /// `ITIMER_REAL`.
    Real,
    /// `ITIMER_VIRTUAL`.
    Virtual,
    /// `ITIMER_PROF`.
    Profiling,
}

/// `struct itimerval`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntervalTimer {
    /// Its clock.
    pub kind: IntervalKind,
    /// Microseconds to the next expiry, from the freeze on; never 0.
    pub remaining: u64,
    /// Microseconds from one expiry to the next; 0 for one only.
    pub interval: u64,
}

/// A timer of `timer_create(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PosixTimer {
    /// The kernel's id.
    pub id: i32,
    /// `CLOCK_*`; -6 the process's, -2 the creating thread's processor time (include/linux/posix-timers.h).
    pub clock: i32,
    /// `SIGEV_SIGNAL` 0, `SIGEV_NONE` 1, `SIGEV_THREAD` 2, with `SIGEV_THREAD_ID` 4.
    pub notify: i32,
    /// The signal sent.
    pub signal: i32,
    /// The thread it is sent to (`SIGEV_THREAD_ID`), or the process.
    pub receiver: Pid,
    /// `sigev_value`.
    pub value: u64,
    /// Nanoseconds to the next expiry, from the freeze on; 0 where it is not armed.
    pub remaining: u64,
    /// Nanoseconds from one expiry to the next; 0 for one only.
    pub interval: u64,
}
