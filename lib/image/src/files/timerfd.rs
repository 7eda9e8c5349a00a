//! Timers read through a descriptor (timerfd_create(2)).

use serde::{Deserialize, Serialize};

/// A timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timerfd {
    /// `CLOCK_*`.
    pub clock: i32,
    /// Expirations not read yet.
    pub ticks: u64,
    /// `TFD_TIMER_*` flags of its last arming.
    pub flags: u32,
    /// Nanoseconds until the next expiration when it was taken; 0: not armed.
    pub remaining: u64,
    /// The next expiration in nanoseconds since 1970, where it was set as a point in time (`TFD_TIMER_ABSTIME`) on a
    /// clock that all hosts share (`CLOCK_REALTIME`, `CLOCK_REALTIME_ALARM`).
    pub deadline: Option<u64>,
    /// Nanoseconds between expirations; 0: once.
    pub interval: u64,
}
