//! What areas map: memory of their own, files, memory that several share, the kernel's pages.

use crate::bytes::Bytes;
use crate::ids::{MountId, SharedId};
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// What an area maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Backing {
    /// Nothing but memory of its own.
    Anonymous {},
    /// Memory of its own in pages of hugetlbfs (`MAP_HUGETLB`).
    Hugetlb {
        /// Size of a page, in bytes.
        page: u64,
    },
    /// A file that has a name; private areas hold what was changed in them.
    File {
        /// Its place in the list of files.
        file: u32,
        /// Where in the file the area starts, in bytes.
        offset: u64,
        /// Mapped from a descriptor open for writing, so that a shared area may be made writable (`VM_MAYWRITE`).
        writable: bool,
    },
    /// Shared anonymous memory (`memory.json`), a memory file or a file without a name (`files.json`).
    Shared {
        /// Which.
        id: SharedId,
        /// Where in the object the area starts, in bytes.
        offset: u64,
        /// Mapped from a descriptor open for writing.
        writable: bool,
    },
    /// A queue of asynchronous I/O (io_setup(2)): its ring.
    Ring {
        /// The place of the next event to be read.
        head: u32,
        /// The place behind the last one.
        tail: u32,
        /// The events between, 32 bytes each (`struct io_event`).
        events: Bytes,
    },
    /// The kernel's code for programs.
    Vdso {},
    /// The kernel's clock pages: `[vvar]`, `[vvar_vclock]`.
    Vvar {},
}

/// A file that areas map: its name inside the container, and what shows at restore whether it is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name inside the container.
    pub path: Name,
    /// `st_dev` at the source.
    pub device: u64,
    /// `st_ino` at the source.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time: seconds since 1970.
    pub mtime: i64,
    /// Modification time: nanoseconds within the second.
    pub mtime_ns: u32,
    /// The note `NT_GNU_BUILD_ID` of an ELF file; empty where it has none.
    pub build_id: Bytes,
    /// Its name is that in the container's own mount namespace; the process is in one inside it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outer: bool,
    /// The mount that it is on, if others lie over that: the path begins at its root directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<MountId>,
}
