//! Files opened beneath a root directory that they cannot leave (openat2(2), `RESOLVE_IN_ROOT`): paths come from images.

use crate::descriptor::{self, Stat};
use crate::error::{Named, check};
use crate::proc::Proc;
use crate::{Error, Pid, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A directory beneath which paths are resolved.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    shown: String,
}

impl Root {
    /// The root directory of the mount namespace of a process, also where that did chroot(2): opening beneath it goes
    /// through the mounts there.
    pub fn of(pid: Pid) -> Result<Self> {
        if Proc::process(pid).link("root")? == Path::new("/") {
            return Root::of_process(pid);
        }
        let mut root =
            crate::within(pid, &[crate::Namespace::Mount], || Root::at(Path::new("/")))??;
        root.shown = format!("the mounts of process {pid}");
        Ok(root)
    }

    /// The root directory of a process.
    pub fn of_process(pid: Pid) -> Result<Self> {
        Root::at(Path::new(&format!("/proc/{pid}/root")))
    }

    /// A directory by its path here.
    pub fn at(path: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(path, flags, Mode::empty())
            .named(|| format!("open {}", path.display()))?;
        Ok(Root {
            directory,
            shown: path.display().to_string(),
        })
    }

    /// That of an empty file system in memory, which is mounted nowhere and ends with its last user.
    pub fn empty() -> Result<Self> {
        let root = crate::socket::root::Root::empty()?;
        Ok(Root::from_fd(
            root.into(),
            "a file system mounted nowhere".into(),
        ))
    }

    /// A directory that is open.
    pub fn from_fd(directory: OwnedFd, shown: String) -> Self {
        Root { directory, shown }
    }

    /// A directory beneath it, which paths cannot leave.
    pub fn below(&self, path: &Path) -> Result<Self> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        Ok(Root {
            directory: self.resolve(path, flags, 0, "find")?,
            shown: format!("{} beneath {}", path.display(), self.shown),
        })
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn what(&self, verb: &str, path: &Path) -> String {
        format!("{verb} {} beneath {}", path.display(), self.shown)
    }

    fn resolve(&self, path: &Path, flags: i32, mode: u32, verb: &str) -> Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::from_bits_retain(flags | libc::O_CLOEXEC))
            .mode(Mode::from_bits_retain(mode))
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        loop {
            match nix::fcntl::openat2(self.directory.as_fd(), path, how) {
                // A rename elsewhere on the system raced with the walk (openat2(2)).
                Err(nix::errno::Errno::EAGAIN) if flags & libc::O_NONBLOCK == 0 => (),
                result => return result.named(|| self.what(verb, path)),
            }
        }
    }

    /// The file itself and nothing of its contents (`O_PATH`); the last component may be a symbolic link.
    pub fn place(&self, path: &Path) -> Result<OwnedFd> {
        self.resolve(path, libc::O_PATH | libc::O_NOFOLLOW, 0, "find")
    }

    /// What is there.
    pub fn stat(&self, path: &Path) -> Result<Stat> {
        descriptor::stat(self.place(path)?.as_fd())
    }

    /// Opens what exists; flags that would create or truncate are refused.
    pub fn open(&self, path: &Path, flags: i32) -> Result<OwnedFd> {
        if flags & (libc::O_CREAT | libc::O_TRUNC) != 0 {
            return Err(Error::errno(self.what("open", path), libc::EINVAL));
        }
        self.resolve(path, flags, 0, "open")
    }

    /// Makes a new regular file; `EEXIST` where there is one.
    pub fn create(&self, path: &Path, flags: i32, mode: u32) -> Result<OwnedFd> {
        let flags = flags | libc::O_CREAT | libc::O_EXCL;
        self.resolve(path, flags, mode, "create")
    }

    /// Makes a regular file without a name in a directory (`O_TMPFILE`), readable and writable.
    pub fn nameless(&self, directory: &Path, mode: u32) -> Result<OwnedFd> {
        let flags = libc::O_TMPFILE | libc::O_RDWR;
        self.resolve(directory, flags, mode, "make a nameless file in")
    }

    /// The directory a path is in, and its last component.
    fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString)> {
        let wrong = || Error::errno(self.what("find", path), libc::EINVAL);
        let name = path.file_name().ok_or_else(wrong)?;
        let parent = path.parent().ok_or_else(wrong)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        Ok((self.resolve(parent, flags, 0, "find")?, name.into()))
    }

    /// Makes a directory.
    pub fn mkdir(&self, path: &Path, mode: u32) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        nix::sys::stat::mkdirat(&parent, name.as_os_str(), Mode::from_bits_truncate(mode))
            .named(|| self.what("make directory", path))
    }

    /// Makes a fifo.
    pub fn mkfifo(&self, path: &Path, mode: u32) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        nix::unistd::mkfifoat(&parent, name.as_os_str(), Mode::from_bits_truncate(mode))
            .named(|| self.what("make fifo", path))
    }

    /// Makes a character device.
    pub fn mknod(&self, path: &Path, node: (u32, u32), mode: u32) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        let (kind, mode) = (
            nix::sys::stat::SFlag::S_IFCHR,
            Mode::from_bits_truncate(mode),
        );
        let node = libc::makedev(node.0, node.1);
        nix::sys::stat::mknodat(&parent, name.as_os_str(), kind, mode, node)
            .named(|| self.what("make device", path))
    }

    /// Removes a name, or an empty directory.
    pub fn remove(&self, path: &Path, directory: bool) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        let flags = if directory {
            nix::unistd::UnlinkatFlags::RemoveDir
        } else {
            nix::unistd::UnlinkatFlags::NoRemoveDir
        };
        nix::unistd::unlinkat(&parent, name.as_os_str(), flags).named(|| self.what("remove", path))
    }
}

/// Opens what a file handle of the kernel's names, through the mount that `mount` is in (open_by_handle_at(2)): a place,
/// nothing of its contents.
pub fn by_handle(mount: BorrowedFd, kind: i32, handle: &[u8]) -> Result<OwnedFd> {
    let mut bytes = Vec::with_capacity(8 + handle.len());
    bytes.extend_from_slice(&(handle.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(handle);
    // SAFETY: `bytes` is a struct file_handle of the length it states, and outlives the call; a result that is not
    // negative is a new descriptor.
    unsafe {
        let raw = check(
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                bytes.as_ptr(),
                libc::O_PATH | libc::O_CLOEXEC,
            ),
            || "open_by_handle_at".into(),
        )?;
        Ok(OwnedFd::from_raw_fd(raw as i32))
    }
}

/// The path by which a descriptor of ours was opened, from our root.
pub fn path_of(fd: BorrowedFd) -> Result<PathBuf> {
    let link = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(&link).named(|| format!("readlink {link}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_lead_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("inside"), "x").unwrap();
        std::os::unix::fs::symlink("/inside", dir.path().join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/passwd", dir.path().join("up")).unwrap();
        let root = Root::at(dir.path()).unwrap();
        let size = |path: &str| -> Result<u64> {
            let fd = root.open(Path::new(path), libc::O_RDONLY)?;
            Ok(descriptor::stat(fd.as_fd())?.size)
        };
        assert_eq!(size("/inside").unwrap(), 1);
        assert_eq!(size("/absolute").unwrap(), 1);
        assert_eq!(size("/../../inside").unwrap(), 1);
        assert_eq!(size("/up").unwrap_err().raw(), Some(libc::ENOENT));
        let link = root.stat(Path::new("/absolute")).unwrap();
        assert_eq!(link.format(), descriptor::S_IFLNK);
    }

    #[test]
    fn names_are_made_and_removed_beneath_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path()).unwrap();
        let path = Path::new("/d");
        root.mkdir(path, 0o700).unwrap();
        root.mkfifo(Path::new("/d/f"), 0o600).unwrap();
        let fifo = root.stat(Path::new("/d/f")).unwrap();
        assert_eq!(fifo.format(), descriptor::S_IFIFO);
        root.remove(Path::new("/d/f"), false).unwrap();
        let file = root.create(Path::new("/d/r"), libc::O_RDWR, 0o640).unwrap();
        let stat = descriptor::stat(file.as_fd()).unwrap();
        assert_eq!((stat.links, stat.permissions() & 0o600), (1, 0o600));
        assert!(root.create(Path::new("/d/r"), libc::O_RDWR, 0o640).is_err());
        root.remove(Path::new("/d/r"), false).unwrap();
        let nameless = root.nameless(path, 0o600).unwrap();
        assert_eq!(descriptor::stat(nameless.as_fd()).unwrap().links, 0);
        root.remove(path, true).unwrap();
    }

    #[test]
    fn nothing_is_created_or_truncated_by_opening() {
        let root = Root::at(Path::new("/tmp")).unwrap();
        let flags = libc::O_RDWR | libc::O_TRUNC;
        assert!(root.open(Path::new("/x"), flags).is_err());
    }
}
