//! Pipes and fifos: what is in them, and their ends.

use super::contents::Store;
use crate::ids::PipeId;
use serde::{Deserialize, Serialize};

/// The buffer that both ends refer to (pipe(7)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipe {
    /// What its ends call it.
    pub id: PipeId,
    /// Capacity in bytes (fcntl(2), `F_GETPIPE_SZ`).
    pub capacity: u32,
    /// Number of bytes in it.
    pub length: u32,
    /// Lengths of the packets in it, in order, where it is in packet mode (`O_DIRECT`, pipe(2)); absent for a byte stream.
    pub packets: Option<Vec<u32>>,
    /// Those bytes.
    pub bytes: Store,
    /// Owner of the inode.
    pub uid: u32,
    /// Group of the inode.
    pub gid: u32,
}

/// An end of a pipe without a name; the access mode in its flags says which (both, where it was opened by `/proc/PID/fd`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Its pipe.
    pub pipe: PipeId,
}
