//! Memory files (memfd_create(2)): no name in any directory, shared by descriptor and by mapping, so they travel whole.

use super::contents::Contents;
use crate::ids::SharedId;
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// One memory file (an inode).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memfd {
    /// What open file descriptions and mappings call it.
    pub id: SharedId,
    /// Its name, without `memfd:`.
    pub name: Name,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `F_SEAL_*` (fcntl(2), `F_GET_SEALS`).
    pub seals: u32,
    /// Size of its pages, in bytes, where they are of hugetlbfs (`MFD_HUGETLB`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u64>,
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
