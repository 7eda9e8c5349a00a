//! Root directories to bind unix sockets in: the container's own, and an empty one for names whose file is gone. The name
//! a socket shows afterwards is the one that `bind` was given, whatever root it was looked up from (net/unix/af_unix.c).

use crate::Result;
use crate::error::{Named, check};
use crate::identity;
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// A root directory to go into.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
}

const FSCONFIG_CMD_CREATE: libc::c_ulong = 6;

impl From<Root> for OwnedFd {
    fn from(root: Root) -> Self {
        root.directory
    }
}

impl Root {
    /// The one this thread has.
    pub fn current() -> Result<Self> {
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open("/")
            .named(|| "open the root directory".into())?;
        Ok(Root {
            directory: directory.into(),
        })
    }

    /// An empty file system that is mounted nowhere and ends with its last user.
    pub fn empty() -> Result<Self> {
        let fail = || "make an empty file system".to_string();
        let null = std::ptr::null::<libc::c_char>();
        // SAFETY: the names are NUL-terminated, the null pointers are what the command wants, and each descriptor is one
        // the kernel has just made for us.
        let directory = unsafe {
            let context = check(libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 1), fail)?;
            let context = OwnedFd::from_raw_fd(context as i32);
            let fd = context.as_raw_fd();
            check(
                libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0),
                fail,
            )?;
            let mount = check(libc::syscall(libc::SYS_fsmount, fd, 1, 0), fail)?;
            OwnedFd::from_raw_fd(mount as i32)
        };
        Ok(Root { directory })
    }

    /// Makes it this thread's root and working directory. The rest of our process keeps its own.
    pub fn enter(&self) -> Result<()> {
        unshare(CloneFlags::CLONE_FS)
            .named(|| "unshare the working directory of a thread".into())?;
        // What is made there is for everybody, whatever our own umask is; it belongs to the thread from here on.
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        nix::unistd::fchdir(&self.directory).named(|| "chdir to a root directory".into())?;
        nix::unistd::chroot(".").named(|| "chroot".into())
    }
}

/// A root directory further down for this thread, which has a root of its own.
pub fn change(directory: &std::path::Path) -> Result<()> {
    nix::unistd::chroot(directory).named(|| format!("chroot to {}", directory.display()))?;
    work_in(std::path::Path::new("/"))
}

/// This thread's working directory.
pub fn work_in(directory: &std::path::Path) -> Result<()> {
    nix::unistd::chdir(directory).named(|| format!("chdir to {}", directory.display()))
}

/// Runs `work` with this thread's effective user and group: what a socket made, listening or connecting there shows as
/// `SO_PEERCRED`. Our own identity comes back afterwards.
pub fn as_user<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> Result<T> {
    let files = identity::files_are_of();
    effective(uid, gid)?;
    let result = work();
    effective_root()?;
    if files != identity::files_are_of() {
        identity::FilesOf::user_for_good(files.0, files.1)?;
    }
    Ok(result)
}

fn effective(uid: u32, gid: u32) -> Result<()> {
    let keep = u32::MAX;
    // SAFETY: the calls take no pointers; made raw, they change this thread only (credentials(7)).
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, keep, gid, keep), || {
            format!("take group {gid}")
        })?;
        check(libc::syscall(libc::SYS_setresuid, keep, uid, keep), || {
            format!("take user {uid}")
        })?;
    }
    Ok(())
}

fn effective_root() -> Result<()> {
    let keep = u32::MAX;
    // SAFETY: as above; the saved user id is still the one we came with.
    unsafe {
        let (uid, gid) = (libc::getuid(), libc::getgid());
        check(libc::syscall(libc::SYS_setresuid, keep, uid, keep), || {
            "take our own user".into()
        })?;
        check(libc::syscall(libc::SYS_setresgid, keep, gid, keep), || {
            "take our own group".into()
        })?;
    }
    Ok(())
}

/// Gives a file its owner and permissions, beneath this thread's working directory.
pub fn own(path: &std::path::Path, uid: u32, gid: u32, mode: u32) -> Result<()> {
    let what = || format!("set the owner of {}", path.display());
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).named(what)?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, permissions).named(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{address, bind, create, name, option, pair};
    use std::os::fd::AsFd;

    #[test]
    fn a_name_without_a_file_is_bound_in_an_empty_root() {
        let path = b"/no/such/directory/socket";
        let socket = std::thread::scope(|scope| {
            let work = || {
                Root::empty().unwrap().enter().unwrap();
                std::fs::create_dir_all("/no/such/directory").unwrap();
                let socket = create(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
                bind(socket.as_fd(), &address::unix(path).unwrap()).unwrap();
                socket
            };
            scope.spawn(work).join().unwrap()
        });
        let bound = name(socket.as_fd()).unwrap();
        assert_eq!(address::parse_unix(&bound), Some(&path[..]));
        assert!(!std::path::Path::new("/no").exists());
    }

    #[test]
    fn a_pair_made_as_another_user_shows_that_user() {
        let thread = std::thread::spawn(|| {
            let (a, _b) = as_user(33, 34, || pair(libc::AF_UNIX, libc::SOCK_STREAM))
                .unwrap()
                .unwrap();
            let shown = option(a.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, 12).unwrap();
            assert_eq!(shown[4..], [33, 0, 0, 0, 34, 0, 0, 0]);
            assert_eq!(nix::unistd::geteuid(), nix::unistd::getuid());
        });
        thread.join().unwrap();
    }
}
