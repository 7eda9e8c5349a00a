//! TCP's urgent data (tcp(7), net/ipv4/tcp_input.c, `tcp_urg`): one byte of a stream that is read apart from it
//! (`MSG_OOB`), unless the socket has `SO_OOBINLINE`; either way a read ends at its place.

use super::{SOL_SOCKET, message, named, number, peek_tcp, readable, set_number};
use crate::Result;
use crate::error::check;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Where the urgent byte is among what was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// How many bytes come before it.
    pub at: u32,
    /// It was read, out of turn.
    pub read: bool,
}

/// How many bytes wait to be read, the urgent one among them counted in, and where that is.
pub fn waiting(fd: BorrowedFd) -> Result<(u32, Option<Mark>)> {
    let all = inline(fd, true, || readable(fd))?;
    inline(fd, false, || {
        // Without SO_OOBINLINE it counts as far as the urgent byte (`tcp_inq`).
        let at = readable(fd)?;
        if at >= all {
            return Ok((all, None));
        }
        let read = match receive(fd, libc::MSG_PEEK) {
            Ok(()) => false,
            Err(e) if e.raw() == Some(libc::EINVAL) => true,
            Err(e) => return Err(e),
        };
        Ok((all, Some(Mark { at, read })))
    })
}

/// The first `len` bytes of what waits, the urgent one in its place.
pub fn peek(fd: BorrowedFd, len: usize, mark: Option<Mark>) -> Result<Vec<u8>> {
    let Some(mark) = mark else {
        return peek_tcp(fd, len);
    };
    let at = len.min(mark.at as usize);
    inline(fd, true, || {
        let mut bytes = match at {
            0 => Vec::new(),
            at => message::peek_tcp_at(fd, 0, at)?,
        };
        bytes.extend(message::peek_tcp_at(fd, bytes.len(), len - at)?);
        Ok(bytes)
    })
}

/// Reads the urgent byte out of turn; its place stays.
pub fn take(fd: BorrowedFd) -> Result<()> {
    inline(fd, false, || receive(fd, 0))
}

/// Sends one urgent byte.
pub fn send(fd: BorrowedFd, byte: u8) -> Result<()> {
    let flags = libc::MSG_OOB | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer is to one byte, and the length says one.
    let sent = unsafe { libc::send(fd.as_raw_fd(), (&raw const byte).cast(), 1, flags) };
    check(sent as i64, || named(fd, "send an urgent byte")).map(drop)
}

fn receive(fd: BorrowedFd, more: i32) -> Result<()> {
    let mut byte = 0u8;
    let flags = libc::MSG_OOB | libc::MSG_DONTWAIT | more;
    // SAFETY: the pointer is to one byte, and the length says one.
    let got = unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast(), 1, flags) };
    check(got as i64, || named(fd, "read the urgent byte")).map(drop)
}

/// Does something while urgent data is read in its turn, or is not.
fn inline<T>(fd: BorrowedFd, on: bool, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let name = libc::SO_OOBINLINE;
    let before = number(fd, SOL_SOCKET, name)?;
    if (before != 0) == on {
        return work();
    }
    set_number(fd, SOL_SOCKET, name, on.into())?;
    let done = work();
    set_number(fd, SOL_SOCKET, name, before)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn the_urgent_byte_is_seen_in_its_place_read_or_not() {
        let (mut client, mut server) = connection();
        let fd = server.as_fd();
        assert_eq!(waiting(fd).unwrap(), (0, None));
        client.write_all(b"abc").unwrap();
        assert_eq!(waiting(fd).unwrap(), (3, None));
        send(client.as_fd(), b'!').unwrap();
        client.write_all(b"def").unwrap();
        for (inline, read) in [(0, false), (1, false), (0, true)] {
            set_number(fd, SOL_SOCKET, libc::SO_OOBINLINE, inline).unwrap();
            if read {
                take(fd).unwrap();
            }
            let mark = Some(Mark { at: 3, read });
            assert_eq!(waiting(fd).unwrap(), (7, mark));
            assert_eq!(peek(fd, 7, mark).unwrap(), b"abc!def");
            let now = number(fd, SOL_SOCKET, libc::SO_OOBINLINE).unwrap();
            assert_eq!(now, inline);
        }
        server.read_exact(&mut [0; 3]).unwrap();
        let at = Some(Mark { at: 0, read: true });
        assert_eq!(waiting(server.as_fd()).unwrap(), (4, at));
        assert_eq!(peek(server.as_fd(), 4, at).unwrap(), b"!def");
        server.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(waiting(server.as_fd()).unwrap(), (0, None));
    }
}
