//! What any open file answers: fstat(2), fcntl(2), lseek(2); and the same file opened once more.

use crate::error::{Named, check};
use crate::{Error, Pid, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub use libc::{
    F_SEAL_EXEC, F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE,
    O_ACCMODE, O_APPEND, O_ASYNC, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_EXCL, O_LARGEFILE,
    O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, S_IFBLK,
    S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK,
};

/// `__O_TMPFILE` (include/uapi/asm-generic/fcntl.h), without the `O_DIRECTORY` that libc adds.
pub const O_TMPFILE_BIT: i32 = 0o20000000;
/// `O_LARGEFILE` as the kernel has it: libc's is 0 where files are large anyway.
pub const O_LARGEFILE_BIT: i32 = 0o100000;

/// stat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_mode`, type and permissions.
    pub mode: u32,
    /// Names it has.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Last change of contents, seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds of the same.
    pub mtime_ns: u32,
    /// Device number of a device node: major and minor.
    pub node: (u32, u32),
}

impl Stat {
    /// `S_IF*`.
    pub fn format(&self) -> u32 {
        self.mode & S_IFMT
    }

    /// Permission bits.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    fn of(stat: &libc::stat) -> Self {
        Stat {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            links: stat.st_nlink,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size.max(0) as u64,
            mtime: stat.st_mtime,
            mtime_ns: stat.st_mtime_nsec as u32,
            node: (libc::major(stat.st_rdev), libc::minor(stat.st_rdev)),
        }
    }
}

/// fstat(2); also of a descriptor opened with `O_PATH`.
pub fn stat(fd: BorrowedFd) -> Result<Stat> {
    nix::sys::stat::fstat(fd)
        .map(|stat| Stat::of(&stat))
        .named(|| "fstat".into())
}

/// The device number of the file system it is on: major and minor.
pub fn device(fd: BorrowedFd) -> Result<(u32, u32)> {
    let device = stat(fd)?.device;
    Ok((libc::major(device), libc::minor(device)))
}

/// The mount that one of our descriptors was opened through, by its number in mountinfo.
pub fn mount(fd: BorrowedFd) -> Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = std::fs::read_to_string(&path).named(|| format!("read {path}"))?;
    Ok(crate::proc::fdinfo::parse(&text)?.mount as u32)
}

/// The magic number of the file system (statfs(2)).
pub fn filesystem(fd: BorrowedFd) -> Result<i64> {
    nix::sys::statfs::fstatfs(fd)
        .map(|stat| stat.filesystem_type().0)
        .named(|| "fstatfs".into())
}

/// The magic number of hugetlbfs (include/uapi/linux/magic.h).
pub const HUGETLBFS: i64 = 0x9584_58f6;

/// The size of the pages that a file of hugetlbfs consists of, in bytes; `None` for other files.
pub fn huge_page(fd: BorrowedFd) -> Result<Option<u64>> {
    let stat = nix::sys::statfs::fstatfs(fd).named(|| "fstatfs".into())?;
    Ok((stat.filesystem_type().0 == HUGETLBFS).then_some(stat.block_size() as u64))
}

/// Has a part of a file take the space it needs (fallocate(2)).
pub fn allocate(fd: BorrowedFd, offset: u64, length: u64) -> Result<()> {
    let none = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(fd, none, offset as i64, length as i64)
        .named(|| format!("allocate {length} bytes at {offset}"))
}

fn fcntl(fd: BorrowedFd, command: i32, argument: i64, name: &str) -> Result<i32> {
    // SAFETY: only commands that take a number come here.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), command, argument) };
    check(result.into(), || name.into()).map(|n| n as i32)
}

/// Access mode and status flags (`F_GETFL`).
pub fn flags(fd: BorrowedFd) -> Result<i32> {
    fcntl(fd, libc::F_GETFL, 0, "get status flags")
}

/// Sets `O_APPEND`, `O_ASYNC`, `O_DIRECT`, `O_NOATIME` and `O_NONBLOCK`; other bits are ignored (`F_SETFL`).
pub fn set_flags(fd: BorrowedFd, flags: i32) -> Result<()> {
    fcntl(fd, libc::F_SETFL, flags.into(), "set status flags").map(drop)
}

/// `F_SEAL_*` of a memory file.
pub fn seals(fd: BorrowedFd) -> Result<i32> {
    fcntl(fd, libc::F_GET_SEALS, 0, "get seals")
}

/// Adds `F_SEAL_*`.
pub fn add_seals(fd: BorrowedFd, seals: i32) -> Result<()> {
    fcntl(fd, libc::F_ADD_SEALS, seals.into(), "add seals").map(drop)
}

/// Who receives I/O signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerKind {
    /// `F_OWNER_TID`.
    Thread,
    /// `F_OWNER_PID`.
    Process,
    /// `F_OWNER_PGRP`.
    Group,
}

#[repr(C)]
struct OwnerEx {
    kind: i32,
    pid: i32,
}

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;

/// Receiver of I/O signals, as our pid namespace knows it; `None` where there is none (`F_GETOWN_EX`).
pub fn owner(fd: BorrowedFd) -> Result<Option<(OwnerKind, Pid)>> {
    let mut owner = OwnerEx { kind: 0, pid: 0 };
    // SAFETY: the command fills an f_owner_ex, which outlives the call.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, &raw mut owner) };
    check(result.into(), || "get the owner of a file".into())?;
    let kind = match owner.kind {
        0 => OwnerKind::Thread,
        1 => OwnerKind::Process,
        _ => OwnerKind::Group,
    };
    Ok((owner.pid != 0).then_some((kind, owner.pid)))
}

/// Makes a task of ours the receiver of I/O signals (`F_SETOWN_EX`).
pub fn set_owner(fd: BorrowedFd, kind: OwnerKind, pid: Pid) -> Result<()> {
    let kind = match kind {
        OwnerKind::Thread => 0,
        OwnerKind::Process => 1,
        OwnerKind::Group => 2,
    };
    let owner = OwnerEx { kind, pid };
    // SAFETY: the command reads an f_owner_ex, which outlives the call.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, &raw const owner) };
    check(result.into(), || format!("make {pid} the owner of a file")).map(drop)
}

/// The signal it gets; 0 is SIGIO (`F_GETSIG`).
pub fn signal(fd: BorrowedFd) -> Result<i32> {
    fcntl(fd, F_GETSIG, 0, "get the signal of a file")
}

/// Chooses the signal (`F_SETSIG`).
pub fn set_signal(fd: BorrowedFd, signal: i32) -> Result<()> {
    fcntl(fd, F_SETSIG, signal.into(), "set the signal of a file").map(drop)
}

/// Takes a lease for reading (`F_SETLEASE`): whoever wants to write has to wait for us.
pub fn lease(fd: BorrowedFd) -> Result<()> {
    let kind = libc::F_RDLCK.into();
    fcntl(fd, libc::F_SETLEASE, kind, "take a lease of a file").map(drop)
}

/// Sets the offset from the start.
pub fn seek(fd: BorrowedFd, position: u64) -> Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::lseek(fd.as_raw_fd(), position as i64, libc::SEEK_SET) };
    if result == -1 {
        return Err(Error::last(format!("seek to {position}")));
    }
    Ok(())
}

/// Where a file has data: offset and length of each run, ascending. Moves the offset: for descriptors of our own.
pub fn extents(fd: BorrowedFd, size: u64) -> Result<Vec<(u64, u64)>> {
    let seek = |from: u64, whence: i32| -> Result<Option<u64>> {
        // SAFETY: no pointers.
        let found = unsafe { libc::lseek(fd.as_raw_fd(), from as i64, whence) };
        match check(found, || "seek for data".into()) {
            Ok(found) => Ok(Some(found)),
            // No data from here on.
            Err(e) if e.raw() == Some(libc::ENXIO) => Ok(None),
            Err(e) => Err(e),
        }
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(at, libc::SEEK_DATA) {
            Ok(Some(start)) if start < size => start,
            Ok(_) => break,
            // hugetlbfs and some network file systems know no holes.
            Err(e) if e.raw() == Some(libc::EINVAL) => at,
            Err(e) => return Err(e),
        };
        let end = match seek(start, libc::SEEK_HOLE) {
            Ok(end) => end.unwrap_or(size).min(size),
            Err(e) if e.raw() == Some(libc::EINVAL) => size,
            Err(e) => return Err(e),
        };
        found.push((start, end - start));
        at = end;
    }
    Ok(found)
}

/// The same file opened once more, with an offset and flags of its own; works where no name is left.
pub fn reopen(fd: BorrowedFd, flags: i32) -> Result<OwnedFd> {
    let path = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
    nix::fcntl::open(
        path.as_str(),
        nix::fcntl::OFlag::from_bits_retain(flags | libc::O_CLOEXEC),
        nix::sys::stat::Mode::empty(),
    )
    .named(|| format!("open {path} again"))
}

/// Sets owner and group.
pub fn chown(fd: BorrowedFd, uid: u32, gid: u32) -> Result<()> {
    nix::unistd::fchown(fd, Some(uid.into()), Some(gid.into()))
        .named(|| format!("chown to {uid}:{gid}"))
}

/// Sets permission bits.
pub fn chmod(fd: BorrowedFd, mode: u32) -> Result<()> {
    nix::sys::stat::fchmod(fd, nix::sys::stat::Mode::from_bits_truncate(mode))
        .named(|| format!("chmod to {mode:o}"))
}

/// Sets when the contents were changed last.
pub fn set_mtime(fd: BorrowedFd, seconds: i64, nanoseconds: u32) -> Result<()> {
    use nix::sys::{stat::futimens, time::TimeSpec};
    let changed = TimeSpec::new(seconds, nanoseconds.into());
    futimens(fd, &TimeSpec::UTIME_OMIT, &changed).named(|| "set the time of the last change".into())
}

/// What poll(2) says without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// `POLLHUP`: all writers of a pipe have closed it.
    pub hung_up: bool,
    /// `POLLERR`: all readers of a pipe have closed it.
    pub error: bool,
}

/// Asks whether the other side is still there.
pub fn readiness(fd: BorrowedFd) -> Result<Readiness> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut asked = [PollFd::new(fd, PollFlags::empty())];
    poll(&mut asked, PollTimeout::ZERO).named(|| "poll".into())?;
    let found = asked[0].revents().unwrap_or(PollFlags::empty());
    Ok(Readiness {
        hung_up: found.contains(PollFlags::POLLHUP),
        error: found.contains(PollFlags::POLLERR),
    })
}

/// Reads exactly `into.len()` bytes at `offset`.
pub fn read_at(fd: BorrowedFd, offset: u64, into: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < into.len() {
        let at = offset + done as u64;
        let what = || format!("read at {at}");
        match nix::sys::uio::pread(fd, &mut into[done..], at as i64) {
            Ok(0) => return Err(Error::unreadable(what(), "the file ends before its size")),
            Ok(n) => done += n,
            Err(nix::errno::Errno::EINTR) => (),
            Err(errno) => return Err(Error::errno(what(), errno as i32)),
        }
    }
    Ok(())
}

/// Writes all of `bytes` at `offset`.
pub fn write_at(fd: BorrowedFd, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        match nix::sys::uio::pwrite(fd, &bytes[done..], at as i64) {
            Ok(n) => done += n,
            Err(nix::errno::Errno::EINTR) => (),
            Err(errno) => return Err(Error::errno(format!("write at {at}"), errno as i32)),
        }
    }
    Ok(())
}

/// Sets a file's size.
pub fn truncate(fd: BorrowedFd, size: u64) -> Result<()> {
    nix::unistd::ftruncate(fd, size as i64).named(|| format!("set a size of {size}"))
}

/// A memory file that may be sealed (memfd_create(2)).
pub fn memfd(name: &std::ffi::CStr) -> Result<OwnedFd> {
    memfd_of(name, None)
}

/// The same, of huge pages where their size is given.
pub fn memfd_of(name: &std::ffi::CStr, page: Option<u64>) -> Result<OwnedFd> {
    let huge = |page: u64| libc::MFD_HUGETLB | page.trailing_zeros() << libc::MFD_HUGE_SHIFT;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | page.map_or(0, huge);
    // SAFETY: `name` ends with NUL and outlives the call; a result that is not negative is a new descriptor.
    unsafe {
        let raw = check(libc::memfd_create(name.as_ptr(), flags).into(), || {
            format!("memfd_create of {name:?}")
        })?;
        Ok(OwnedFd::from_raw_fd(raw as RawFd))
    }
}

/// Another descriptor of ours for the same open file description.
pub fn duplicate(fd: BorrowedFd) -> Result<OwnedFd> {
    fd.try_clone_to_owned()
        .named(|| "duplicate a descriptor".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn holes_are_left_out() {
        let file = tempfile::tempfile().unwrap();
        truncate(file.as_fd(), 1 << 20).unwrap();
        assert_eq!(extents(file.as_fd(), 1 << 20).unwrap(), []);
        write_at(file.as_fd(), 0x40000, &[7; 0x1000]).unwrap();
        let found = extents(file.as_fd(), 1 << 20).unwrap();
        assert_eq!(found, [(0x40000, 0x1000)]);
        let again = reopen(file.as_fd(), O_RDONLY).unwrap();
        let mut bytes = [0; 3];
        read_at(again.as_fd(), 0x40ffd, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 3]);
        assert!(read_at(again.as_fd(), (1 << 20) - 1, &mut bytes).is_err());
    }

    #[test]
    fn the_owner_of_a_file_is_kept_by_kind() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        let me = std::process::id() as Pid;
        assert_eq!(owner(read.as_fd()).unwrap(), None);
        for kind in [OwnerKind::Thread, OwnerKind::Process] {
            set_owner(read.as_fd(), kind, me).unwrap();
            assert_eq!(owner(read.as_fd()).unwrap(), Some((kind, me)));
        }
        set_signal(read.as_fd(), 34).unwrap();
        assert_eq!(signal(read.as_fd()).unwrap(), 34);
    }

    #[test]
    fn the_other_side_of_a_pipe_is_seen_to_be_gone() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let alive = Readiness {
            hung_up: false,
            error: false,
        };
        assert_eq!(readiness(read.as_fd()).unwrap(), alive);
        assert_eq!(readiness(write.as_fd()).unwrap(), alive);
        drop(write);
        assert!(readiness(read.as_fd()).unwrap().hung_up);
    }

    #[test]
    fn a_memory_file_takes_seals() {
        let memory = memfd(c"name").unwrap();
        add_seals(memory.as_fd(), F_SEAL_SHRINK).unwrap();
        assert_eq!(seals(memory.as_fd()).unwrap(), F_SEAL_SHRINK);
    }
}
