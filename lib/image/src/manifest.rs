//! A line of `MANIFEST`: what tar says of an entry, for the directory form that keeps only contents
//! as files.

use crate::bytes::Bytes;
use crate::member::{Member, MemberKind, Segment};
use crate::path::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// First line of a manifest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct First {
    /// Version of the format.
    pub ferry_directory: u64,
}

/// Every other line of a manifest: one entry, in the order of the image.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    path: Name,
    kind: LineKind,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    mtime_ns: u32,
    xattrs: BTreeMap<Name, Bytes>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum LineKind {
    Directory,
    Regular {
        size: u64,
    },
    Sparse {
        size: u64,
        segments: Vec<(u64, u64)>,
    },
    Symlink {
        target: Name,
    },
    HardLink {
        target: Name,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

impl From<&Member> for Line {
    fn from(member: &Member) -> Line {
        let name = |path: &Path| Name(path.as_os_str().as_bytes().to_vec());
        let kind = match &member.kind {
            MemberKind::Directory => LineKind::Directory,
            MemberKind::Regular { size } => LineKind::Regular { size: *size },
            MemberKind::Sparse { size, segments } => LineKind::Sparse {
                size: *size,
                segments: segments
                    .iter()
                    .map(|segment| (segment.start, segment.len))
                    .collect(),
            },
            MemberKind::Symlink { target } => LineKind::Symlink {
                target: name(target),
            },
            MemberKind::HardLink { target } => LineKind::HardLink {
                target: name(target),
            },
            MemberKind::CharDevice { major, minor } => LineKind::CharDevice {
                major: *major,
                minor: *minor,
            },
            MemberKind::BlockDevice { major, minor } => LineKind::BlockDevice {
                major: *major,
                minor: *minor,
            },
            MemberKind::Fifo => LineKind::Fifo,
        };
        let xattr = |(name, value): (&OsString, &Vec<u8>)| {
            (Name(name.as_bytes().to_vec()), Bytes(value.clone()))
        };
        Line {
            path: name(&member.path),
            kind,
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
            mtime_ns: member.mtime_ns,
            xattrs: member.xattrs.iter().map(xattr).collect(),
        }
    }
}

impl From<Line> for Member {
    fn from(line: Line) -> Member {
        let path = |name: Name| PathBuf::from(OsString::from_vec(name.0));
        let kind = match line.kind {
            LineKind::Directory => MemberKind::Directory,
            LineKind::Regular { size } => MemberKind::Regular { size },
            LineKind::Sparse { size, segments } => MemberKind::Sparse {
                size,
                segments: segments
                    .into_iter()
                    .map(|(start, len)| Segment { start, len })
                    .collect(),
            },
            LineKind::Symlink { target } => MemberKind::Symlink {
                target: path(target),
            },
            LineKind::HardLink { target } => MemberKind::HardLink {
                target: path(target),
            },
            LineKind::CharDevice { major, minor } => MemberKind::CharDevice { major, minor },
            LineKind::BlockDevice { major, minor } => MemberKind::BlockDevice { major, minor },
            LineKind::Fifo => MemberKind::Fifo,
        };
        Member {
            path: path(line.path),
            kind,
            mode: line.mode,
            uid: line.uid,
            gid: line.gid,
            mtime: line.mtime,
            mtime_ns: line.mtime_ns,
            xattrs: line
                .xattrs
                .into_iter()
                .map(|(name, value)| (OsString::from_vec(name.0), value.0))
                .collect(),
        }
    }
}
