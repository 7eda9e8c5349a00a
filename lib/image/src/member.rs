//! What a tar entry says about itself besides its content.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// One entry as tar sees it: its path, its type, and its inode's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path beneath the image's root, as `rootfs/etc/passwd`.
    pub path: PathBuf,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits and set-id bits (`st_mode & 07777`).
    pub mode: u32,
    /// Owner, as the container's host sees it.
    pub uid: u32,
    /// Group, as the container's host sees it.
    pub gid: u32,
    /// Last modification, seconds since 1970 (may be negative).
    pub mtime: i64,
    /// Nanoseconds of `mtime`, 0..1e9.
    pub mtime_ns: u32,
    /// Extended attributes with their full names, as `security.capability`.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A directory.
    Directory,
    /// A regular file with all its bytes.
    Regular {
        /// Length in bytes.
        size: u64,
    },
    /// A regular file with holes: only its segments' bytes are content, one after the other.
    Sparse {
        /// Length of the file in bytes, holes and all.
        size: u64,
        /// What is not a hole, ascending; starts and lengths are multiples of 512, except the end
        /// of a segment that ends with the file.
        segments: Vec<Segment>,
    },
    /// A symbolic link.
    Symlink {
        /// What it says, which may be any text.
        target: PathBuf,
    },
    /// One more name of an earlier member.
    HardLink {
        /// Path of the earlier member, beneath the image's root.
        target: PathBuf,
    },
    /// A character device node.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device node.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A run of bytes of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Member {
    /// A member with a kind and no other property set.
    pub fn new(path: impl Into<PathBuf>, kind: MemberKind) -> Member {
        Member {
            path: path.into(),
            kind,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_ns: 0,
            xattrs: BTreeMap::new(),
        }
    }

    /// Bytes a caller writes or reads for it: the whole file, or the segments of a sparse one.
    pub fn payload(&self) -> u64 {
        match &self.kind {
            MemberKind::Regular { size } => *size,
            MemberKind::Sparse { segments, .. } => segments
                .iter()
                .fold(0, |sum, segment| sum.saturating_add(segment.len)),
            _ => 0,
        }
    }
}
