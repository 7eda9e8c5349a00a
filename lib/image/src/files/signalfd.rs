//! Signals read through a descriptor (signalfd(2)).

use serde::{Deserialize, Serialize};

/// A signal descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signalfd {
    /// Bit N−1 stands for signal N.
    pub mask: u64,
}
