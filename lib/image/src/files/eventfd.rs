//! Event counters (eventfd(2)).

use serde::{Deserialize, Serialize};

/// An event counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eventfd {
    /// Its count.
    pub count: u64,
    /// `EFD_SEMAPHORE`.
    pub semaphore: bool,
}
