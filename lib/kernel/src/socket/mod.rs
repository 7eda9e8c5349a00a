//! Sockets: the calls of socket(2) and its family on descriptors of ours, also those borrowed from a task. Addresses are
//! the kernel's own bytes (`struct sockaddr_*`), so that nothing is lost on the way.

use crate::error::check;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub mod address;
mod message;
pub mod option;
pub mod repair;
pub mod root;
pub mod segment;
pub mod signature;
pub mod urgent;

pub use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_MPTCP,
    IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI,
    POLLRDHUP, SO_DOMAIN, SO_ERROR, SO_PEEK_OFF, SO_PEERCRED, SO_PROTOCOL, SO_RCVBUF, SO_SNDBUF,
    SO_TYPE, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET,
};
pub use message::{Credentials, Message, before_last_piece, peek, peek_at, peek_tcp, send};

/// `SIOCOUTQNSD` (include/uapi/linux/sockios.h).
const SIOCOUTQNSD: libc::Ioctl = 0x894b;
/// `SIOCGSKNS`: the network namespace of a socket.
const SIOCGSKNS: libc::Ioctl = 0x894c;
/// `SIOCOUTQ` is `TIOCOUTQ`, `SIOCINQ` is `FIONREAD`.
const SIOCOUTQ: libc::Ioctl = libc::TIOCOUTQ;
const ADDRESS_LEN: usize = 128;

fn named(fd: BorrowedFd, what: &str) -> String {
    format!("{what} on socket {}", fd.as_raw_fd())
}

fn owned(raw: u64) -> OwnedFd {
    // SAFETY: only called with a descriptor that the kernel has just made for us and nobody else has.
    unsafe { OwnedFd::from_raw_fd(raw as i32) }
}

/// A new socket, closed on exec (`socket(2)`).
pub fn create(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let raw = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    check(raw.into(), || {
        format!("make a socket of family {family}, type {kind}, protocol {protocol}")
    })
    .map(owned)
}

/// Two connected sockets (`socketpair(2)`).
pub fn pair(family: i32, kind: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut two = [0; 2];
    // SAFETY: the array has room for the two descriptors.
    let result =
        unsafe { libc::socketpair(family, kind | libc::SOCK_CLOEXEC, 0, two.as_mut_ptr()) };
    check(result.into(), || {
        format!("make a pair of sockets of type {kind}")
    })?;
    Ok((owned(two[0] as u64), owned(two[1] as u64)))
}

/// Gives it an address (`bind(2)`).
pub fn bind(fd: BorrowedFd, address: &[u8]) -> Result<()> {
    // SAFETY: the pointer and length are those of the slice.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            address.as_ptr().cast(),
            address.len() as u32,
        )
    };
    check(result.into(), || {
        named(fd, &format!("bind to {}", address::text(address)))
    })
    .map(drop)
}

/// Connects it (`connect(2)`).
pub fn connect(fd: BorrowedFd, address: &[u8]) -> Result<()> {
    // SAFETY: the pointer and length are those of the slice.
    let result = unsafe {
        libc::connect(
            fd.as_raw_fd(),
            address.as_ptr().cast(),
            address.len() as u32,
        )
    };
    check(result.into(), || {
        named(fd, &format!("connect to {}", address::text(address)))
    })
    .map(drop)
}

/// Waits for connections (`listen(2)`).
pub fn listen(fd: BorrowedFd, backlog: u32) -> Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::listen(fd.as_raw_fd(), backlog) };
    check(result.into(), || named(fd, "listen")).map(drop)
}

/// Takes a connection (`accept4(2)`).
pub fn accept(fd: BorrowedFd) -> Result<OwnedFd> {
    let none = std::ptr::null_mut();
    // SAFETY: null pointers ask for no address.
    let raw = unsafe { libc::accept4(fd.as_raw_fd(), none, none.cast(), libc::SOCK_CLOEXEC) };
    check(raw.into(), || named(fd, "accept")).map(owned)
}

/// Closes one or both directions: `SHUT_RD` (1 here), `SHUT_WR` (2), both (3).
pub fn shutdown(fd: BorrowedFd, directions: u8) -> Result<()> {
    let how = match directions & 3 {
        0 => return Ok(()),
        1 => libc::SHUT_RD,
        2 => libc::SHUT_WR,
        _ => libc::SHUT_RDWR,
    };
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::shutdown(fd.as_raw_fd(), how) };
    check(result.into(), || named(fd, "shutdown")).map(drop)
}

/// Its own address (`getsockname(2)`).
pub fn name(fd: BorrowedFd) -> Result<Vec<u8>> {
    let mut address = vec![0; ADDRESS_LEN];
    let mut len = ADDRESS_LEN as u32;
    // SAFETY: the buffer is as long as `len` says.
    let result =
        unsafe { libc::getsockname(fd.as_raw_fd(), address.as_mut_ptr().cast(), &mut len) };
    check(result.into(), || named(fd, "getsockname"))?;
    address.truncate(len as usize);
    Ok(address)
}

/// Its peer's address (`getpeername(2)`); `None` where it is not connected.
pub fn peer(fd: BorrowedFd) -> Result<Option<Vec<u8>>> {
    let mut address = vec![0; ADDRESS_LEN];
    let mut len = ADDRESS_LEN as u32;
    // SAFETY: the buffer is as long as `len` says.
    let result =
        unsafe { libc::getpeername(fd.as_raw_fd(), address.as_mut_ptr().cast(), &mut len) };
    match check(result.into(), || named(fd, "getpeername")) {
        Err(e) if e.raw() == Some(libc::ENOTCONN) => Ok(None),
        Err(e) => Err(e),
        Ok(_) => {
            address.truncate(len as usize);
            Ok(Some(address))
        }
    }
}

/// An option as the kernel's bytes, at most `room` of them (`getsockopt(2)`).
pub fn option(fd: BorrowedFd, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
    let mut value = vec![0; room];
    let mut len = room as u32;
    // SAFETY: the buffer is as long as `len` says.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &mut len,
        )
    };
    check(result.into(), || {
        named(fd, &format!("read option {level}/{name}"))
    })?;
    value.truncate(len as usize);
    Ok(value)
}

/// An option that takes a question in the buffer it answers into (`IP_MSFILTER` and its kind).
pub fn ask(fd: BorrowedFd, level: i32, name: i32, question: &mut [u8]) -> Result<usize> {
    let mut len = question.len() as u32;
    // SAFETY: the buffer is as long as `len` says.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            question.as_mut_ptr().cast(),
            &mut len,
        )
    };
    check(result.into(), || {
        named(fd, &format!("ask for option {level}/{name}"))
    })?;
    Ok(len as usize)
}

/// An option that is an `int`.
pub fn number(fd: BorrowedFd, level: i32, name: i32) -> Result<i32> {
    let value = option(fd, level, name, 4)?;
    match value[..] {
        [a, b, c, d] => Ok(i32::from_ne_bytes([a, b, c, d])),
        [byte] => Ok(byte.into()),
        _ => Err(Error::unreadable(
            named(fd, &format!("option {level}/{name}")),
            "not a number",
        )),
    }
}

/// Sets an option (`setsockopt(2)`).
pub fn set_option(fd: BorrowedFd, level: i32, name: i32, value: &[u8]) -> Result<()> {
    // SAFETY: the pointer and length are those of the slice.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as u32,
        )
    };
    check(result.into(), || {
        named(fd, &format!("set option {level}/{name}"))
    })
    .map(drop)
}

/// Sets an option that is an `int`.
pub fn set_number(fd: BorrowedFd, level: i32, name: i32, value: i32) -> Result<()> {
    set_option(fd, level, name, &value.to_ne_bytes())
}

/// The classic BPF program attached, 8 bytes an instruction; empty where there is none (`SO_GET_FILTER`, which counts in
/// instructions: net/core/filter.c).
pub fn filter(fd: BorrowedFd) -> Result<Vec<u8>> {
    let mut count = 0u32;
    let what = || named(fd, "read the filter");
    // SAFETY: a null buffer with a length of 0 asks for the number of instructions.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::null_mut(),
            &mut count,
        )
    };
    check(result.into(), what)?;
    let mut program = vec![0; 8 * count as usize];
    if count > 0 {
        // SAFETY: the buffer has 8 bytes for each of the `count` instructions.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                program.as_mut_ptr().cast(),
                &mut count,
            )
        };
        check(result.into(), what)?;
    }
    Ok(program)
}

/// Attaches a classic BPF program (`SO_ATTACH_FILTER`).
pub fn attach_filter(fd: BorrowedFd, program: &[u8]) -> Result<()> {
    let mut instructions: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|i| libc::sock_filter {
            code: u16::from_ne_bytes([i[0], i[1]]),
            jt: i[2],
            jf: i[3],
            k: u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).unwrap_or(u16::MAX),
        filter: instructions.as_mut_ptr(),
    };
    let len = std::mem::size_of_val(&program) as u32;
    // SAFETY: the program points at `instructions`, which outlives the call; the kernel copies it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            len,
        )
    };
    check(result.into(), || named(fd, "attach a filter")).map(drop)
}

/// Detaches whatever filter there is (`SO_DETACH_FILTER`).
pub fn detach_filter(fd: BorrowedFd) -> Result<()> {
    set_number(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
}

fn count(fd: BorrowedFd, request: libc::Ioctl, what: &str) -> Result<u32> {
    let mut value: libc::c_int = 0;
    // SAFETY: each of the requests that come here writes one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, &mut value) };
    check(result.into(), || named(fd, what))?;
    Ok(value as u32)
}

/// Bytes that can be read; for datagrams the length of the next one (`SIOCINQ`).
pub fn readable(fd: BorrowedFd) -> Result<u32> {
    count(fd, libc::FIONREAD, "count readable bytes")
}

/// Bytes not yet taken by the other end (`SIOCOUTQ`).
pub fn unacknowledged(fd: BorrowedFd) -> Result<u32> {
    count(fd, SIOCOUTQ, "count bytes not acknowledged")
}

/// Bytes not yet sent (`SIOCOUTQNSD`).
pub fn unsent(fd: BorrowedFd) -> Result<u32> {
    count(fd, SIOCOUTQNSD, "count bytes not sent")
}

/// The inode of the network namespace a socket belongs to (`SIOCGSKNS`).
pub fn network(fd: BorrowedFd) -> Result<u64> {
    // SAFETY: the request takes no argument and gives a new descriptor.
    let raw = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCGSKNS) };
    let namespace = check(raw.into(), || named(fd, "ask for the network namespace")).map(owned)?;
    inode(std::os::fd::AsFd::as_fd(&namespace))
}

/// The inode of an open file: for a socket the number in `socket:[N]`.
pub fn inode(fd: BorrowedFd) -> Result<u64> {
    nix::sys::stat::fstat(fd)
        .map(|stat| stat.st_ino)
        .map_err(|errno| Error::errno(named(fd, "fstat"), errno as i32))
}

/// What `poll(2)` says at once of all there is to ask.
pub fn events(fd: BorrowedFd) -> Result<i16> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP | libc::POLLPRI,
        revents: 0,
    };
    // SAFETY: one structure, and the count says one.
    let result = unsafe { libc::poll(&mut poll, 1, 0) };
    check(result.into(), || named(fd, "poll"))?;
    Ok(poll.revents)
}

/// The index of an interface in this thread's network namespace (`if_nametoindex(3)`).
pub fn interface_index(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name)
        .map_err(|errno| Error::errno(format!("interface {name}"), errno as i32))
}

/// The name of an interface in this thread's network namespace (`if_indextoname(3)`).
pub fn interface_name(index: u32) -> Result<String> {
    let name = nix::net::if_::if_indextoname(index)
        .map_err(|errno| Error::errno(format!("interface {index}"), errno as i32))?;
    Ok(name.to_string_lossy().into_owned())
}
