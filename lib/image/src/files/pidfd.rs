//! Processes held by descriptor (pidfd_open(2)).

use crate::ids::Pid;
use serde::{Deserialize, Serialize};

/// A process descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pidfd {
    /// The process inside the container (a thread, where the flags have `PIDFD_THREAD`); absent where it is dead and
    /// was waited for.
    pub pid: Option<Pid>,
}
