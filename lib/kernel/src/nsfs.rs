//! Namespaces held by descriptor: who owns them, what lies around them (ioctl_nsfs(2)).

use crate::error::{Named, check};
use crate::namespaces::Kind;
use crate::{Pid, Result, beneath};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `_IO(0xb7, 1)`, `_IO(0xb7, 2)`, `_IO(0xb7, 4)` (include/uapi/linux/nsfs.h).
const NS_GET_USERNS: u64 = 0xb701;
const NS_GET_PARENT: u64 = 0xb702;
const NS_GET_OWNER_UID: u64 = 0xb704;

/// A namespace that stays as long as this does.
#[derive(Debug)]
pub struct Handle {
    file: File,
    kind: Kind,
    inode: u64,
}

impl Handle {
    /// That of this kind which a thread is in.
    pub fn of(pid: Pid, tid: Pid, kind: Kind) -> Result<Self> {
        Handle::at(format!("/proc/{pid}/task/{tid}/ns/{}", kind.name()), kind)
    }

    /// The pid or time namespace that children of a thread will be in; none where the first of them will make it.
    pub fn for_children(pid: Pid, tid: Pid, kind: Kind) -> Result<Option<Self>> {
        let name = kind.name();
        let path = format!("/proc/{pid}/task/{tid}/ns/{name}_for_children");
        match Handle::at(path, kind) {
            Err(e) if e.raw() == Some(libc::ENOENT) => Ok(None),
            handle => handle.map(Some),
        }
    }

    /// That which a process holds open by this number.
    pub fn held(pid: Pid, number: i32, kind: Kind) -> Result<Self> {
        Handle::at(format!("/proc/{pid}/fd/{number}"), kind)
    }

    /// That which process `pid` sees mounted on a file; none where something else is there.
    pub fn mounted(pid: Pid, place: &Path, kind: Kind) -> Result<Option<Self>> {
        let root = crate::open::Root::of(pid)?;
        let flags = nix::fcntl::OFlag::O_PATH;
        let opened = beneath::open(root.fd(), place, beneath::Way::InRoot, flags, 0)?;
        let system =
            nix::sys::statfs::fstatfs(&opened).named(|| format!("statfs {}", place.display()))?;
        if system.filesystem_type() != nix::sys::statfs::NSFS_MAGIC {
            return Ok(None);
        }
        Handle::at(format!("/proc/self/fd/{}", opened.as_raw_fd()), kind).map(Some)
    }

    fn at(path: String, kind: Kind) -> Result<Self> {
        let file = File::open(&path).named(|| format!("open {path}"))?;
        Handle::new(file, kind)
    }

    fn new(file: File, kind: Kind) -> Result<Self> {
        let stat = file.metadata().named(|| "stat a namespace".into())?;
        Ok(Handle {
            inode: stat.ino(),
            file,
            kind,
        })
    }

    /// Another descriptor of the same.
    pub fn again(&self) -> Result<Self> {
        let file = self.file.try_clone();
        Handle::new(file.named(|| "duplicate a descriptor".into())?, self.kind)
    }

    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What its links in `/proc` show: no other of its kind has the same while it is there.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The user namespace that owns it, or, of a user namespace, its parent; none where that is out of our sight.
    pub fn owner(&self) -> Result<Option<Self>> {
        self.ask(NS_GET_USERNS, Kind::User)
    }

    /// The pid or user namespace around it; none where that is out of our sight.
    pub fn parent(&self) -> Result<Option<Self>> {
        self.ask(NS_GET_PARENT, self.kind)
    }

    fn ask(&self, question: u64, kind: Kind) -> Result<Option<Self>> {
        // SAFETY: neither question takes a pointer; the descriptor is open for the length of the call, and what the
        // call gives, where it is not negative, is a new descriptor that nobody else owns.
        let found = unsafe {
            check(libc::ioctl(self.file.as_raw_fd(), question).into(), || {
                format!("ask a {} namespace for those around it", self.kind.name())
            })
            .map(|fd| File::from_raw_fd(fd as i32))
        };
        match found {
            Err(e) if e.raw() == Some(libc::EPERM) => Ok(None),
            found => Handle::new(found?, kind).map(Some),
        }
    }

    /// The user, as we see it, who has made this user namespace: in the namespace around it, that user may do anything to it.
    pub fn owner_uid(&self) -> Result<u32> {
        let mut uid: libc::uid_t = 0;
        // SAFETY: `uid` is of the type that the kernel writes, and outlives the call.
        let asked = unsafe { libc::ioctl(self.file.as_raw_fd(), NS_GET_OWNER_UID, &mut uid) };
        check(asked.into(), || {
            "ask for the owner of a user namespace".into()
        })?;
        Ok(uid)
    }
}

/// The namespaces of this kind that a process holds open: number and inode of each; none of one that is gone.
pub fn held(pid: Pid, kind: Kind) -> Vec<(i32, u64)> {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let all = all.into_iter().flatten().flatten();
    all.filter_map(|entry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        let rest = link.to_str()?.strip_prefix(kind.name())?;
        let inode = rest.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    })
    .collect()
}

impl Handle {
    /// Writes to a file as who is in the namespace: a child of ours. Id maps are written only from the user namespace around
    /// (user_namespaces(7)).
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let what = || format!("write {path}");
        let name = std::ffi::CString::new(path)
            .map_err(|_| crate::Error::unreadable(what(), "a zero byte in its path"))?;
        // SAFETY: the child of a process with other threads makes only calls that are safe in a signal handler (fork(2),
        // signal-safety(7)): setns, open, write, _exit, on memory that it has a copy of.
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                let mut done = i64::from(libc::setns(self.file.as_raw_fd(), self.kind.flag()));
                if done == 0 {
                    let file = libc::open(name.as_ptr(), libc::O_WRONLY);
                    done = libc::write(file, text.as_ptr().cast(), text.len()) as i64;
                }
                libc::_exit(if done < 0 {
                    *libc::__errno_location()
                } else {
                    0
                });
            }
            check(child.into(), what)? as Pid
        };
        let mut status = 0;
        // SAFETY: the child is ours and not reaped yet; status outlives the call.
        while unsafe { libc::waitpid(child, &mut status, 0) } < 0
            && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
        {}
        match libc::WEXITSTATUS(status) {
            0 if libc::WIFEXITED(status) => Ok(()),
            errno => Err(crate::Error::errno(what(), errno)),
        }
    }

    /// Does some work while a child of ours is in the namespace: what only `/proc` says of a process in there.
    pub fn visited<T>(&self, work: impl FnOnce(Pid) -> Result<T>) -> Result<T> {
        let what = || format!("enter a {} namespace", self.kind.name());
        let (file, flag) = (self.file.as_raw_fd(), self.kind.flag());
        // SAFETY: numbers only.
        beside(what, || unsafe { libc::setns(file, flag) } == 0, work)
    }
}

/// Does some work while a child of ours is in a copy of the mount namespace of process `pid`, with the same root directory. The
/// copy belongs to the same user namespace, so that what could be unmounted there can be here (mount_namespaces(7)).
pub fn with_copied_mounts<T>(pid: Pid, work: impl FnOnce(Pid) -> Result<T>) -> Result<T> {
    let what = || format!("copy the mount namespace of process {pid}");
    let of = |kind| Handle::of(pid, pid, kind);
    let (user, mounts) = (of(Kind::User)?, of(Kind::Mount)?);
    let path = format!("/proc/{pid}/root");
    let root = nix::fcntl::open(
        path.as_str(),
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .named(|| format!("open {path}"))?;
    let (user, mounts) = (user.file.as_raw_fd(), mounts.file.as_raw_fd());
    let root = root.as_raw_fd();
    // SAFETY: numbers, and a path that is NUL-terminated.
    let enter = || unsafe {
        libc::setns(user, libc::CLONE_NEWUSER) == 0
            && libc::setns(mounts, libc::CLONE_NEWNS) == 0
            && libc::fchdir(root) == 0
            && libc::chroot(c".".as_ptr()) == 0
            && libc::unshare(libc::CLONE_NEWNS) == 0
    };
    beside(what, enter, work)
}

/// Does some work beside a child of ours that has begun with `enter`: system calls alone, which are safe in the child of a process
/// with other threads (fork(2), signal-safety(7)).
fn beside<T>(
    what: impl Fn() -> String,
    enter: impl FnOnce() -> bool,
    work: impl FnOnce(Pid) -> Result<T>,
) -> Result<T> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).named(&what)?;
    // SAFETY: the child makes system calls alone, on memory that it has a copy of: those of `enter`, write, pause.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            let entered = u8::from(enter());
            libc::write(write.as_raw_fd(), (&raw const entered).cast(), 1);
            loop {
                libc::pause();
            }
        }
        check(child.into(), &what)? as Pid
    };
    drop(write);
    let mut entered = [0];
    let said = nix::unistd::read(&read, &mut entered);
    let done = match said {
        Ok(1) if entered == [1] => work(child),
        _ => Err(crate::Error::unreadable(what(), "a child of ours may not")),
    };
    // SAFETY: the child is ours and not reaped yet; a null status is allowed.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    done
}

impl From<Handle> for std::os::fd::OwnedFd {
    fn from(handle: Handle) -> Self {
        handle.file.into()
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::{identity, own};
    use std::io::Read;

    #[test]
    fn owners_and_parents_are_those_that_unshare_left_behind() {
        let mut child = std::process::Command::new("unshare")
            .args(["-U", "-r", "-n", "-p", "-f", "--kill-child"])
            .args(["sh", "-c", "echo; exec sleep 60"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let unshare = child.id() as Pid;
        let inside = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
        let inside: Pid = inside.unwrap().trim().parse().unwrap();
        let user = identity(inside, Kind::User).unwrap();
        let of = |kind| Handle::of(inside, inside, kind).unwrap();
        for kind in [Kind::Network, Kind::Pid] {
            assert_eq!(of(kind).owner().unwrap().unwrap().inode(), user);
        }
        let around = of(Kind::User).parent().unwrap().unwrap();
        assert_eq!(around.inode(), own(Kind::User).unwrap());
        assert_eq!(of(Kind::User).owner_uid().unwrap(), 0);
        let around = of(Kind::Pid).parent().unwrap().unwrap();
        assert_eq!(around.inode(), own(Kind::Pid).unwrap());
        let children = Handle::for_children(unshare, unshare, Kind::Pid).unwrap();
        assert_eq!(children.unwrap().inode(), of(Kind::Pid).inode());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
