//! What a mount may do, and where mounts beneath it show: `mount_setattr(2)`, by descriptor.

use crate::Result;
use crate::error::check;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Attributes of one mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Read-only.
    pub read_only: bool,
    /// Set-id bits have no effect.
    pub nosuid: bool,
    /// No device nodes.
    pub nodev: bool,
    /// No execution.
    pub noexec: bool,
    /// Access times.
    pub atime: Atime,
    /// No access times of directories.
    pub nodiratime: bool,
    /// Propagation to be set; none: left alone.
    pub propagation: Option<Propagation>,
}

/// How access times are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Atime {
    /// Once a day, or after a change.
    #[default]
    Relative,
    /// Not at all.
    None,
    /// Always.
    Strict,
}

/// Propagation (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Neither gives nor takes.
    Private,
    /// In a peer group of its own.
    Shared,
    /// Private, and cannot be bound.
    Unbindable,
}

/// include/uapi/linux/mount.h
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

const ALL: u64 = 0x1 | 0x2 | 0x4 | 0x8 | 0x70 | 0x80;

fn words(attributes: &Attributes) -> MountAttr {
    let bit = |on: bool, bit: u64| if on { bit } else { 0 };
    let atime = match attributes.atime {
        Atime::Relative => 0,
        Atime::None => 0x10,
        Atime::Strict => 0x20,
    };
    MountAttr {
        set: bit(attributes.read_only, 0x1)
            | bit(attributes.nosuid, 0x2)
            | bit(attributes.nodev, 0x4)
            | bit(attributes.noexec, 0x8)
            | bit(attributes.nodiratime, 0x80)
            | atime,
        clear: ALL,
        propagation: match attributes.propagation {
            None => 0,
            Some(Propagation::Private) => libc::MS_PRIVATE,
            Some(Propagation::Shared) => libc::MS_SHARED,
            Some(Propagation::Unbindable) => libc::MS_UNBINDABLE,
        },
        userns: 0,
    }
}

/// Sets the attributes of the mount whose root directory (or file) `root` is; it has to be in the calling thread's mount
/// namespace.
pub fn set(root: BorrowedFd, attributes: &Attributes) -> Result<()> {
    let mut words = words(attributes);
    // SAFETY: the empty path is a NUL-terminated string, and `words` is the struct of the size given; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            root.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &mut words,
            size_of::<MountAttr>(),
        )
    };
    check(result, || "mount_setattr".into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_not_wanted_are_cleared() {
        let read_only = Attributes {
            read_only: true,
            atime: Atime::Strict,
            propagation: Some(Propagation::Shared),
            ..Default::default()
        };
        let words = words(&read_only);
        assert_eq!((words.set, words.clear), (0x21, ALL));
        assert_eq!(words.propagation, libc::MS_SHARED);
    }
}
