//! Descriptors of POSIX message queues (mq_open(3)).

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// An opened queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqueue {
    /// The queue's name, without the slash.
    pub name: Name,
}
