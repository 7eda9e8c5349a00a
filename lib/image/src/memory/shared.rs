//! `memory.json`: memory that several areas or spaces share, and segments of System V. Memory files and files without a name are here only if no
//! descriptor leads to them; else `files.json` has them. Their contents are `pages/N` entries that follow right behind.

use super::pages::PAGE;
use crate::ids::{NsId, SharedId};
use crate::ipc::sysv::Permissions;
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// All of the container's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// Each once.
    pub objects: Vec<Shared>,
}

/// One memory object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// What areas and `pages/N` entries call it; unique among those of `files.json`, too.
    pub id: SharedId,
    /// What it is.
    pub object: Object,
    /// Size in bytes; what of it is not in pages is zero.
    pub size: u64,
}

/// What a memory object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Object {
    /// `mmap` with `MAP_SHARED | MAP_ANONYMOUS`.
    Anonymous {},
    /// The same with `MAP_HUGETLB`.
    Hugetlb {
        /// Size of a page, in bytes.
        page: u64,
    },
    /// `memfd_create(2)`.
    Memfd {
        /// Its name, without `memfd:`.
        name: Name,
        /// `F_SEAL_*` (fcntl(2), `F_GET_SEALS`).
        seals: u32,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Size of its pages, in bytes, where they are of hugetlbfs (`MFD_HUGETLB`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        page: Option<u64>,
    },
    /// A shared memory segment of System V (shmget(2)); also one that nobody maps.
    Segment {
        /// The ipc namespace inside the container that it is of; absent: the container's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<NsId>,
        /// Numbers, owners, mode.
        permissions: Permissions,
        /// Its pages stay in memory (`SHM_LOCK`).
        locked: bool,
        /// It goes with its last user (`IPC_RMID`).
        removed: bool,
        /// Size of its pages, in bytes, where they are of hugetlbfs (`SHM_HUGETLB`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        page: Option<u64>,
    },
    /// A file that is mapped and has no name any more.
    Deleted {
        /// The name it had.
        path: Name,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

impl Shared {
    /// Its size in whole pages, in bytes.
    pub fn span(&self) -> Option<u64> {
        self.length()?.checked_next_multiple_of(PAGE)
    }

    /// How many bytes of it there are: of a segment in huge pages more than were asked for.
    pub fn length(&self) -> Option<u64> {
        match self.object {
            Object::Segment {
                page: Some(page), ..
            } => self.size.checked_next_multiple_of(page.max(PAGE)),
            _ => Some(self.size),
        }
    }
}
