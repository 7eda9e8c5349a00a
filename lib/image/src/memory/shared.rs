//! `memory.json`: memory that several areas, spaces or descriptors share. Its contents are `pages/N` entries.

use super::pages::PAGE;
use crate::ids::SharedId;
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// All memory objects of the container.
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
    /// What areas, descriptors and `pages/N` entries call it.
    pub id: SharedId,
    /// What it is.
    pub kind: Kind,
    /// Size in bytes; what of it is not in pages is zero.
    pub size: u64,
}

/// What a memory object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// `mmap` with `MAP_SHARED | MAP_ANONYMOUS`.
    Anonymous {},
    /// `memfd_create(2)`.
    Memfd {
        /// Its name, without `memfd:`.
        name: Name,
        /// `F_GET_SEALS` (fcntl(2)).
        seals: u32,
        /// Mode bits.
        mode: u32,
        /// Owner, as seen from the host.
        uid: u32,
        /// Group, as seen from the host.
        gid: u32,
    },
    /// A file that is mapped and has no name any more.
    Deleted {
        /// The name it had.
        path: Name,
        /// Mode bits.
        mode: u32,
        /// Owner, as seen from the host.
        uid: u32,
        /// Group, as seen from the host.
        gid: u32,
    },
}

impl Shared {
    /// Its size in whole pages, in bytes.
    pub fn span(&self) -> Option<u64> {
        self.size.checked_next_multiple_of(PAGE)
    }
}
