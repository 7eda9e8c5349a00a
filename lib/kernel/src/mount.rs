//! Mounts by descriptor, where no path leads to a place: what a mount may do and where mounts beneath it show
//! (`mount_setattr(2)`), binds (`open_tree(2)`, `move_mount(2)`), read-only file systems (`fspick(2)`).

use crate::Result;
use crate::error::check;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

// include/uapi/linux/mount.h
const OPEN_TREE_CLONE: libc::c_long = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_long = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_long = 0x40;
const FSPICK_EMPTY_PATH: libc::c_long = 0x8;
const FSCONFIG_SET_FLAG: libc::c_long = 0;
const FSCONFIG_CMD_RECONFIGURE: libc::c_long = 7;

/// Mounts the directory or file `from` over `to`; both in the calling thread's mount namespace.
pub fn bind(from: BorrowedFd, to: BorrowedFd) -> Result<()> {
    let empty = c"".as_ptr();
    let flags = OPEN_TREE_CLONE | libc::c_long::from(libc::AT_EMPTY_PATH | libc::O_CLOEXEC);
    // SAFETY: the path is a NUL-terminated string; a descriptor that is returned is ours alone.
    let tree = unsafe {
        let made = libc::syscall(libc::SYS_open_tree, from.as_raw_fd(), empty, flags);
        OwnedFd::from_raw_fd(check(made, || "open_tree".into())? as i32)
    };
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are NUL-terminated strings, and both descriptors are open for the length of the call.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            empty,
            to.as_raw_fd(),
            empty,
            flags,
        )
    };
    check(moved, || "move_mount".into()).map(drop)
}

/// Makes the whole file system read-only whose mount's root directory `root` is, not only that mount of it.
pub fn write_protect(root: BorrowedFd) -> Result<()> {
    let flags = FSPICK_EMPTY_PATH | 1; // and FSPICK_CLOEXEC
    // SAFETY: the path is a NUL-terminated string; a descriptor that is returned is ours alone.
    let context = unsafe {
        let picked = libc::syscall(libc::SYS_fspick, root.as_raw_fd(), c"".as_ptr(), flags);
        OwnedFd::from_raw_fd(check(picked, || "fspick".into())? as i32)
    };
    let steps = [
        (FSCONFIG_SET_FLAG, c"ro".as_ptr()),
        (FSCONFIG_CMD_RECONFIGURE, std::ptr::null()),
    ];
    for (command, key) in steps {
        let none = std::ptr::null::<libc::c_void>();
        // SAFETY: the key is a NUL-terminated string or, where the command takes none, null, as is the value.
        let done = unsafe {
            let fd = context.as_raw_fd();
            libc::syscall(libc::SYS_fsconfig, fd, command, key, none, 0)
        };
        check(done, || "make a file system read-only".into())?;
    }
    Ok(())
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

    #[test]
    fn a_file_is_bound_and_a_file_system_write_protected_by_descriptor() {
        use nix::sched::{CloneFlags, unshare};
        use std::os::fd::AsFd;
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_path_buf();
        // A thread of its own, so that the mounts are seen by nobody else.
        let work = move || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            let (none, no) = (None::<&str>, nix::mount::MsFlags::empty());
            nix::mount::mount(none, "/", none, private, none).unwrap();
            nix::mount::mount(Some("x"), &place, Some("tmpfs"), no, none).unwrap();
            std::fs::write(place.join("a"), "a").unwrap();
            std::fs::write(place.join("b"), "b").unwrap();
            let open = |name| std::fs::File::open(place.join(name)).unwrap();
            bind(open("a").as_fd(), open("b").as_fd()).unwrap();
            assert_eq!(std::fs::read(place.join("b")).unwrap(), b"a");
            write_protect(open("").as_fd()).unwrap();
            let refused = std::fs::write(place.join("c"), "").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        };
        std::thread::spawn(work).join().unwrap();
    }
}
