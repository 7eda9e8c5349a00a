//! Messages with their ancillary parts: looked at without taking them (`MSG_PEEK`, `SO_PEEK_OFF`: socket(7)), and sent.

use super::named;
use crate::error::check;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// `struct ucred`, in our pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One message looked at.
#[derive(Debug)]
pub struct Message {
    /// What it says; of a datagram longer than there was room, the first part.
    pub bytes: Vec<u8>,
    /// Its whole length.
    pub len: usize,
    /// The sender's address; empty where there is none.
    pub from: Vec<u8>,
    /// Descriptors in flight, as duplicates of ours.
    pub rights: Vec<OwnedFd>,
    /// Credentials, where the socket has `SO_PASSCRED`.
    pub credentials: Option<Credentials>,
}

/// `SCM_PIDFD` (include/linux/socket.h), which is not in libc.
const SCM_PIDFD: i32 = 4;
/// Room for `SCM_MAX_FD` descriptors, credentials, a pidfd and time stamps.
const CONTROL_WORDS: usize = 256;
const CONTROL_HEADER: usize = 16;

/// Looks at the next message of at most `room` bytes, at the place `SO_PEEK_OFF` has come to; `None` where there is none.
pub fn peek(fd: BorrowedFd, room: usize) -> Result<Option<Message>> {
    look(fd, room, libc::MSG_TRUNC)
}

/// The first `room` bytes of a TCP queue, for which `MSG_TRUNC` would mean to throw bytes away (tcp(7)).
pub fn peek_tcp(fd: BorrowedFd, room: usize) -> Result<Vec<u8>> {
    peek_tcp_at(fd, 0, room)
}

/// The same `offset` bytes into it.
pub(super) fn peek_tcp_at(fd: BorrowedFd, offset: usize, room: usize) -> Result<Vec<u8>> {
    let (level, name) = (libc::SOL_SOCKET, libc::SO_PEEK_OFF);
    let before = super::number(fd, level, name)?;
    let from = match offset {
        0 => -1,
        some => i32::try_from(some).unwrap_or(i32::MAX),
    };
    super::set_number(fd, level, name, from)?;
    let looked = look(fd, room, 0);
    super::set_number(fd, level, name, before)?;
    Ok(looked?.map(|message| message.bytes).unwrap_or_default())
}

fn look(fd: BorrowedFd, room: usize, more: i32) -> Result<Option<Message>> {
    let mut bytes = vec![0u8; room];
    let mut from = vec![0u8; 128];
    let mut control = vec![0u64; CONTROL_WORDS];
    let mut vector = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = from.as_mut_ptr().cast();
    header.msg_namelen = from.len() as u32;
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = 8 * CONTROL_WORDS;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC | more;
    // SAFETY: every pointer of the header is to a buffer of ours that is as long as it says and outlives the call.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, flags) };
    let len = match check(len as i64, || named(fd, "look at the queue")) {
        Err(e) if matches!(e.raw(), Some(libc::EAGAIN | libc::ENOTCONN | libc::EINVAL)) => {
            return Ok(None);
        }
        other => other? as usize,
    };
    bytes.truncate(len);
    from.truncate(header.msg_namelen as usize);
    let control: Vec<u8> = control
        .iter()
        .flat_map(|w| w.to_ne_bytes())
        .take(header.msg_controllen)
        .collect();
    let mut message = Message {
        bytes,
        len,
        from,
        rights: Vec::new(),
        credentials: None,
    };
    unpack(&control, &mut message);
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Error::Unsupported {
            what: format!(
                "{}: a message carries more descriptors than we may open: raise the limit of open files (ulimit -n)",
                named(fd, "look at the queue")
            ),
        });
    }
    Ok(Some(message))
}

/// The same `offset` bytes into the queue. Leaves `SO_PEEK_OFF` set: put back what it was.
pub fn peek_at(fd: BorrowedFd, offset: i32, room: usize) -> Result<Option<Message>> {
    super::set_number(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)?;
    peek(fd, room)
}

/// Of the `len` bytes of a stream at `offset`, how many come before the last piece that was sent at once: what has
/// descriptors with it ends a read, but where it begins, a look at the queue does not tell. One that may not write its
/// last byte does: it ends before the piece it cannot copy whole (net/unix/af_unix.c, `unix_stream_read_generic`). Leaves
/// `SO_PEEK_OFF` set.
pub fn before_last_piece(fd: BorrowedFd, offset: i32, len: usize) -> Result<usize> {
    super::set_number(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)?;
    let mut room = vec![0u8; len.saturating_sub(1)];
    let nowhere = std::ptr::without_provenance_mut(1);
    let mut vectors = [
        libc::iovec {
            iov_base: room.as_mut_ptr().cast(),
            iov_len: room.len(),
        },
        libc::iovec {
            iov_base: nowhere,
            iov_len: 1,
        },
    ];
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = vectors.as_mut_ptr();
    header.msg_iovlen = vectors.len();
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the first vector is a buffer of ours; the second names the first page, which nobody can map and to which
    // the kernel answers EFAULT.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, flags) };
    match check(got as i64, || named(fd, "look at the queue")) {
        Err(e) if e.raw() == Some(libc::EFAULT) => Ok(0),
        other => Ok(other? as usize),
    }
}

fn word(bytes: &[u8]) -> i32 {
    i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Walks `struct cmsghdr`s (cmsg(3)): length, level, type, and what they carry.
fn unpack(mut control: &[u8], message: &mut Message) {
    while control.len() >= CONTROL_HEADER {
        let len = u64::from_ne_bytes(control[..8].try_into().unwrap_or_default()) as usize;
        let (level, kind) = (word(&control[8..]), word(&control[12..]));
        let Some(carried) = control.get(CONTROL_HEADER..len) else {
            return;
        };
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                message.rights.extend(
                    carried
                        .chunks_exact(4)
                        .map(|n| super::owned(word(n) as u64)),
                );
            }
            (libc::SOL_SOCKET, SCM_PIDFD) if carried.len() == 4 && word(carried) >= 0 => {
                drop(super::owned(word(carried) as u64));
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if carried.len() == 12 => {
                message.credentials = Some(Credentials {
                    pid: word(carried),
                    uid: word(&carried[4..]) as u32,
                    gid: word(&carried[8..]) as u32,
                });
            }
            _ => {}
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
}

/// Sends a message at once, or fails: what is not wholly taken is `EAGAIN`.
pub fn send(
    fd: BorrowedFd,
    bytes: &[u8],
    to: Option<&[u8]>,
    rights: &[BorrowedFd],
    credentials: Option<Credentials>,
) -> Result<()> {
    let mut control = pack(rights, credentials);
    let mut rest = bytes;
    loop {
        let sent = send_part(fd, rest, to, &mut control)?;
        control.clear();
        rest = rest.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
    }
}

fn pack(rights: &[BorrowedFd], credentials: Option<Credentials>) -> Vec<u64> {
    let mut bytes = Vec::new();
    let mut add = |kind: i32, carried: Vec<u8>| {
        bytes.extend((CONTROL_HEADER + carried.len()).to_ne_bytes());
        bytes.extend(libc::SOL_SOCKET.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(carried);
        bytes.resize(bytes.len().next_multiple_of(8), 0u8);
    };
    if !rights.is_empty() {
        add(
            libc::SCM_RIGHTS,
            rights
                .iter()
                .flat_map(|fd| fd.as_raw_fd().to_ne_bytes())
                .collect(),
        );
    }
    if let Some(who) = credentials {
        let words = [who.pid as u32, who.uid, who.gid];
        add(
            libc::SCM_CREDENTIALS,
            words.iter().flat_map(|w| w.to_ne_bytes()).collect(),
        );
    }
    bytes
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()))
        .collect()
}

fn send_part(
    fd: BorrowedFd,
    bytes: &[u8],
    to: Option<&[u8]>,
    control: &mut [u64],
) -> Result<usize> {
    let mut vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    if let Some(to) = to {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len() as u32;
    }
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = std::mem::size_of_val(control);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer of the header is to a buffer of ours that is as long as it says and outlives the call; a
    // send only reads them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &header, flags) };
    check(sent as i64, || {
        named(fd, &format!("send {} bytes", bytes.len()))
    })
    .map(|n| n as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{pair, set_number};
    use std::os::fd::AsFd;

    #[test]
    fn a_peeked_queue_is_still_there_with_its_descriptors() {
        let (a, b) = pair(libc::AF_UNIX, libc::SOCK_DGRAM).unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        set_number(b.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
        let me = Credentials {
            pid: std::process::id() as i32,
            uid: 7,
            gid: 8,
        };
        send(
            a.as_fd(),
            b"one",
            None,
            &[file.as_fd(), a.as_fd()],
            Some(me),
        )
        .unwrap();
        send(a.as_fd(), b"", None, &[], None).unwrap();
        send(a.as_fd(), b"three", None, &[], None).unwrap();
        for _ in 0..2 {
            let first = peek_at(b.as_fd(), 0, 100).unwrap().unwrap();
            assert_eq!((&first.bytes[..], first.rights.len()), (&b"one"[..], 2));
            assert_eq!(first.credentials, Some(me));
        }
        assert_eq!(peek(b.as_fd(), 100).unwrap().unwrap().len, 0);
        let third = peek(b.as_fd(), 2).unwrap().unwrap();
        assert_eq!((&third.bytes[..], third.len), (&b"th"[..], 5));
    }

    #[test]
    fn where_a_piece_with_descriptors_begins_can_be_told() {
        for before in [0, 1, 6, 5000] {
            let (a, b) = pair(libc::AF_UNIX, libc::SOCK_STREAM).unwrap();
            if before > 0 {
                send(a.as_fd(), &vec![1; before], None, &[], None).unwrap();
            }
            send(a.as_fd(), b"with", None, &[a.as_fd()], None).unwrap();
            send(a.as_fd(), b"after", None, &[], None).unwrap();
            let whole = peek_at(b.as_fd(), 0, 10_000).unwrap().unwrap();
            assert_eq!((whole.len, whole.rights.len()), (before + 4, 1));
            assert_eq!(before_last_piece(b.as_fd(), 0, whole.len).unwrap(), before);
        }
    }

    #[test]
    fn an_empty_queue_is_none() {
        let (_a, b) = pair(libc::AF_UNIX, libc::SOCK_STREAM).unwrap();
        assert!(peek(b.as_fd(), 10).unwrap().is_none());
    }
}
