//! Clock offsets (time_namespaces(7)).

use serde::{Deserialize, Serialize};

/// An own time namespace: what is added to the host's clocks, from `/proc/PID/timens_offsets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offsets {
    /// Added to CLOCK_MONOTONIC, nanoseconds.
    pub monotonic: i64,
    /// Added to CLOCK_BOOTTIME, nanoseconds.
    pub boottime: i64,
}
