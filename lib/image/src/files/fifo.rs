//! Fifos: pipes with a name in a directory (fifo(7)).

use crate::ids::PipeId;
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// An opened fifo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fifo {
    /// Its buffer.
    pub pipe: PipeId,
    /// From the root of its mount namespace.
    pub path: Name,
    /// The name is gone.
    pub deleted: bool,
    /// Permission bits; used where it is deleted.
    pub mode: u32,
}
