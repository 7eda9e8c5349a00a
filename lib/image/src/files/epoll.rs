//! Interest lists (epoll(7)).

use crate::ids::FileId;
use serde::{Deserialize, Serialize};

/// An interest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoll {
    /// In the order fdinfo has them.
    pub watches: Vec<Watch>,
}

/// One registration: the kernel keys it by open file description *and* descriptor number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// The number it was registered under; by now it may be closed or another file's.
    pub number: i32,
    /// What is watched.
    pub file: FileId,
    /// `EPOLL*` bits.
    pub events: u32,
    /// `epoll_data`.
    pub data: u64,
}
