//! Regular files whose name is gone: they live as long as somebody has them open or mapped, and travel whole.

use super::contents::Contents;
use crate::bytes::Bytes;
use crate::ids::{MountId, SharedId};
use crate::path::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One such file (an inode).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deleted {
    /// What open file descriptions and mappings call it.
    pub id: SharedId,
    /// The name it had, from the root of its mount namespace.
    pub path: Name,
    /// The mount it is on, if others lie over that: the path begins at its root directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<MountId>,
    /// It still has that name, on a memory file system that is mounted nowhere any more, the device of this number at the
    /// source; absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detached: Option<u64>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was changed last: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes, access lists and capabilities among them (xattr(7)).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<Name, Bytes>,
    /// Made by `O_TMPFILE`: it never had a name, and may be given one (open(2)).
    pub nameless: bool,
    /// What is in it.
    pub contents: Contents,
}

/// An open file description of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Which.
    pub inode: SharedId,
}
