//! Mounts by descriptor, where no path leads to a place: what a mount may do and where mounts beneath it show
//! (`mount_setattr(2)`), binds (`open_tree(2)`, `move_mount(2)`), read-only file systems (`fspick(2)`).

use crate::error::{Named, check};
use crate::{Error, Pid, Result};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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
    /// Takes from the peer group it was in.
    Slave,
    /// Private, and cannot be bound.
    Unbindable,
}

impl Propagation {
    fn flag(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
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
        propagation: attributes.propagation.map_or(0, Propagation::flag),
        userns: 0,
    }
}

/// Sets the attributes of the mount whose root directory (or file) `root` is; it has to be in the calling thread's mount
/// namespace.
pub fn set(root: BorrowedFd, attributes: &Attributes) -> Result<()> {
    set_words(root, words(attributes))
}

/// Sets the propagation alone.
pub fn propagate(root: BorrowedFd, propagation: Propagation) -> Result<()> {
    let words = MountAttr {
        set: 0,
        clear: 0,
        propagation: propagation.flag(),
        userns: 0,
    };
    set_words(root, words)
}

fn set_words(root: BorrowedFd, mut words: MountAttr) -> Result<()> {
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
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const OPEN_TREE_CLONE: libc::c_long = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_long = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_long = 0x40;
const MOVE_MOUNT_SET_GROUP: libc::c_long = 0x100;
const FSOPEN_CLOEXEC: libc::c_long = 1;
const FSMOUNT_CLOEXEC: libc::c_long = 1;
const FSCONFIG_SET_STRING: libc::c_long = 1;
const FSCONFIG_CMD_CREATE: libc::c_long = 6;
const FSPICK_EMPTY_PATH: libc::c_long = 0x8;
const FSCONFIG_SET_FLAG: libc::c_long = 0;
const FSCONFIG_CMD_RECONFIGURE: libc::c_long = 7;

/// Mounts the directory or file `from` over `to`; both in the calling thread's mount namespace.
pub fn bind(from: BorrowedFd, to: BorrowedFd) -> Result<()> {
    attach(copy(from)?.as_fd(), to)
}

/// Mounts a directory over itself, whose files then belong to those whom the user namespace `users` knows by the numbers that
/// the files have on disk (`MOUNT_ATTR_IDMAP`).
pub fn map_owners(directory: BorrowedFd, users: BorrowedFd) -> Result<()> {
    let tree = copy(directory)?;
    let words = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        userns: users.as_raw_fd() as u64,
    };
    set_words(tree.as_fd(), words)?;
    attach(tree.as_fd(), directory)
}

/// A mount of its own, mounted nowhere, that shows the directory or file `from`, and nothing of what is mounted in it. `from`
/// is in the calling thread's mount namespace.
pub fn copy(from: BorrowedFd) -> Result<OwnedFd> {
    let empty = c"".as_ptr();
    let flags = OPEN_TREE_CLONE | libc::c_long::from(libc::AT_EMPTY_PATH | libc::O_CLOEXEC);
    // SAFETY: the path is a NUL-terminated string; a descriptor that is returned is ours alone.
    unsafe {
        let made = libc::syscall(libc::SYS_open_tree, from.as_raw_fd(), empty, flags);
        let made = check(made, || "open_tree".into())?;
        Ok(OwnedFd::from_raw_fd(made as i32))
    }
}

/// Mounts what is mounted nowhere yet over `to`, which is in the calling thread's mount namespace.
pub fn attach(tree: BorrowedFd, to: BorrowedFd) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, to, flags)
}

/// Puts a private mount into the peer group of another one of the same file system, and makes it a slave of whatever group
/// that one takes from.
pub fn join(group: BorrowedFd, mount: BorrowedFd) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH | MOVE_MOUNT_SET_GROUP;
    move_mount(group, mount, flags)
}

fn move_mount(from: BorrowedFd, to: BorrowedFd, flags: libc::c_long) -> Result<()> {
    let empty = c"".as_ptr();
    // SAFETY: both paths are NUL-terminated strings, and both descriptors are open for the length of the call.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            empty,
            to.as_raw_fd(),
            empty,
            flags,
        )
    };
    check(moved, || "move_mount".into()).map(drop)
}

/// Makes a file system with these options (`KEY=VALUE`, or `KEY` alone) and mounts it over `to`.
pub fn make(fstype: &str, source: &[u8], options: &[&str], to: BorrowedFd) -> Result<()> {
    let mounted = create(fstype, source, options)?;
    attach(mounted.as_fd(), to)
}

/// Makes one that is mounted nowhere yet. It belongs to the user namespace of the calling thread.
pub fn create(fstype: &str, source: &[u8], options: &[&str]) -> Result<OwnedFd> {
    let nul = |_| crate::Error::unreadable("an option of a mount", "a NUL byte in it");
    let text = |bytes: &[u8]| CString::new(bytes).map_err(nul);
    let kind = text(fstype.as_bytes())?;
    // SAFETY: the name is a NUL-terminated string; a descriptor that is returned is ours alone.
    let context = unsafe {
        let made = libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC);
        OwnedFd::from_raw_fd(check(made, || format!("fsopen {fstype}"))? as i32)
    };
    let configure = |command: libc::c_long, key: Option<&CString>, value: Option<&CString>| {
        let pointer = |text: Option<&CString>| text.map_or(std::ptr::null(), |t| t.as_ptr());
        let (fd, key, value) = (context.as_raw_fd(), pointer(key), pointer(value));
        // SAFETY: key and value are null or NUL-terminated strings that outlive the call.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key, value, 0) };
        check(done, || format!("configure a mount of {fstype}")).map(drop)
    };
    let (name, source) = (c"source".to_owned(), text(source)?);
    configure(FSCONFIG_SET_STRING, Some(&name), Some(&source))?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => {
                let (key, value) = (text(key.as_bytes())?, text(value.as_bytes())?);
                configure(FSCONFIG_SET_STRING, Some(&key), Some(&value))?;
            }
            None => configure(FSCONFIG_SET_FLAG, Some(&text(option.as_bytes())?), None)?,
        }
    }
    configure(FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: numbers only; a descriptor that is returned is ours alone.
    unsafe {
        let made = libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0);
        let made = check(made, || format!("fsmount {fstype}"))?;
        Ok(OwnedFd::from_raw_fd(made as i32))
    }
}

/// A proc file system that shows the processes of the pid namespace of process `pid`, mounted nowhere yet. Which ones it
/// shows is a matter of who makes it: a child of ours in there, which has our descriptors.
pub fn processes_of(pid: Pid) -> Result<OwnedFd> {
    let what = || format!("make a proc file system for the pid namespace of process {pid}");
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).named(what)?;
    crate::within(pid, &[crate::Namespace::Pid], || {
        // SAFETY: without CLONE_VM the child has its own copy of this stack; a child of a process with other threads
        // makes only calls that are safe in a signal handler (signal-safety(7)): system calls on NUL-terminated strings
        // and numbers, and _exit.
        let child = unsafe {
            let flags = (libc::CLONE_FILES | libc::SIGCHLD) as u64;
            let child = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
            if child == 0 {
                let none = std::ptr::null::<libc::c_void>();
                let context = libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), 1);
                let made = libc::syscall(
                    libc::SYS_fsconfig,
                    context,
                    FSCONFIG_CMD_CREATE,
                    none,
                    none,
                    0,
                );
                let fd = match made {
                    0 => libc::syscall(libc::SYS_fsmount, context, 1, 0) as i32,
                    _ => -1,
                };
                libc::close(context as i32);
                libc::write(write.as_raw_fd(), (&raw const fd).cast(), 4);
                libc::_exit(0);
            }
            check(child, what)? as Pid
        };
        let mut status = 0;
        // SAFETY: status outlives the call; the child is ours.
        while unsafe { libc::waitpid(child, &mut status, 0) } < 0
            && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
        {}
        Ok(())
    })??;
    drop(write);
    let mut number = [0; 4];
    let len = nix::unistd::read(&read, &mut number).named(what)?;
    match i32::from_ne_bytes(number) {
        // SAFETY: the child has opened it in the table it shared with us, and left it to us.
        fd if len == 4 && fd > 2 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::unreadable(
            what(),
            "the kernel does not make one there",
        )),
    }
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
