//! File locks: flock(2), and record locks and leases of fcntl(2).

use serde::{Deserialize, Serialize};

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// A descriptor of the file it was taken through, in the table that holds this record.
    pub number: i32,
    /// Which kind of lock, and whose.
    pub class: Class,
    /// Exclusive rather than shared.
    pub exclusive: bool,
    /// First byte; 0 for flock and leases.
    pub start: u64,
    /// Last byte; absent: to the end of the file, however far it grows.
    pub end: Option<u64>,
}

/// Who owns a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// `F_SETLK`: the descriptor table.
    Posix,
    /// `F_OFD_SETLK`: the open file description.
    Ofd,
    /// flock(2): the open file description.
    Flock,
    /// `F_SETLEASE`: the open file description.
    Lease,
}
