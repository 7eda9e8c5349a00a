//! Descriptor tables: numbers, and the open file descriptions they stand for.

use crate::ids::{FileId, TableId};
use crate::locks::Lock;
use serde::{Deserialize, Serialize};

/// A descriptor table (`struct files_struct`); processes made with `CLONE_FILES` share one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What the tree calls it.
    pub id: TableId,
    /// By rising number.
    pub descriptors: Vec<Descriptor>,
    /// Locks held through them.
    pub locks: Vec<Lock>,
}

/// One descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// What it refers to.
    pub file: FileId,
    /// `FD_CLOEXEC`.
    pub close_on_exec: bool,
}
