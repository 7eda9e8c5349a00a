//! Pipes (pipe(7)): looked into without taking anything out, and made again.

use crate::descriptor::{self, O_NONBLOCK};
use crate::error::{Named, check};
use crate::{Error, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A new pipe that does not block: read end, write end.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).named(|| "pipe".into())
}

/// Capacity in bytes (`F_GETPIPE_SZ`).
pub fn capacity(fd: BorrowedFd) -> Result<u32> {
    fcntl(fd, FcntlArg::F_GETPIPE_SZ)
        .map(|size| size as u32)
        .named(|| "get the capacity of a pipe".into())
}

/// Sets the capacity; the kernel rounds it up (`F_SETPIPE_SZ`).
pub fn set_capacity(fd: BorrowedFd, size: u32) -> Result<()> {
    fcntl(fd, FcntlArg::F_SETPIPE_SZ(size as i32))
        .map(drop)
        .named(|| format!("set the capacity of a pipe to {size}"))
}

/// The number of bytes that can be read at once (`FIONREAD`).
pub fn unread(fd: BorrowedFd) -> Result<u32> {
    let mut count = 0;
    // SAFETY: the request fills one int, which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    check(result.into(), || "count what is in a pipe".into())?;
    Ok(count as u32)
}

/// What is in a pipe, one item for each read(2) that would be made to get it: packets come one by one. `fd` is either end.
pub fn peek(fd: BorrowedFd) -> Result<Vec<Vec<u8>>> {
    let length = unread(fd)?;
    if length == 0 {
        return Ok(Vec::new());
    }
    let source = descriptor::reopen(fd, descriptor::O_RDONLY | O_NONBLOCK)?;
    let (read, write) = pipe()?;
    let size = capacity(source.as_fd())?;
    if capacity(read.as_fd())? < size {
        set_capacity(read.as_fd(), size)?;
    }
    // SAFETY: no pointers; tee(2) leaves the source as it is.
    let copied = unsafe {
        libc::tee(
            source.as_raw_fd(),
            write.as_raw_fd(),
            usize::MAX >> 1,
            libc::SPLICE_F_NONBLOCK,
        )
    };
    let copied = check(copied as i64, || "tee".into())?;
    if copied != u64::from(length) {
        let what = format!("{copied} of {length} bytes were copied");
        return Err(Error::unreadable("tee", what));
    }
    let mut packets = Vec::new();
    let mut left = length as usize;
    while left > 0 {
        let mut packet = vec![0; left];
        let count = nix::unistd::read(&read, &mut packet).named(|| "read a pipe".into())?;
        if count == 0 {
            break;
        }
        packet.truncate(count);
        left -= count;
        packets.push(packet);
    }
    Ok(packets)
}

/// Writes all of it or fails: the pipe must have room.
pub fn put(fd: BorrowedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(nix::errno::Errno::EINTR) => (),
            Err(errno) => return Err(Error::errno("fill a pipe", errno as i32)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{O_DIRECT, set_flags};

    #[test]
    fn looking_into_a_pipe_takes_nothing_out() {
        let (read, write) = pipe().unwrap();
        assert_eq!(peek(read.as_fd()).unwrap(), Vec::<Vec<u8>>::new());
        put(write.as_fd(), b"one").unwrap();
        put(write.as_fd(), b"two").unwrap();
        for end in [&read, &write] {
            assert_eq!(peek(end.as_fd()).unwrap(), [b"onetwo".to_vec()]);
        }
        assert_eq!(unread(read.as_fd()).unwrap(), 6);
    }

    #[test]
    fn packets_keep_their_boundaries() {
        let (read, write) = pipe().unwrap();
        set_flags(write.as_fd(), O_DIRECT | O_NONBLOCK).unwrap();
        for packet in [&b"one"[..], b"x", b"three"] {
            put(write.as_fd(), packet).unwrap();
        }
        let found = peek(read.as_fd()).unwrap();
        assert_eq!(found, [b"one".to_vec(), b"x".to_vec(), b"three".to_vec()]);
    }

    #[test]
    fn a_full_large_pipe_is_seen_whole() {
        let (read, write) = pipe().unwrap();
        set_capacity(write.as_fd(), 1 << 20).unwrap();
        let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
        put(write.as_fd(), &bytes).unwrap();
        assert!(put(write.as_fd(), b"more").is_err());
        assert!(peek(read.as_fd()).unwrap().concat() == bytes);
    }
}
