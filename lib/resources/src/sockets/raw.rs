//! Raw and ping sockets: raw(7), icmp(7).

use super::{Diag, bind, bytes_of, family_of, local, moved, options, remote, version_of};
use crate::Result;
use image::sockets::raw::Raw;
use kernel::socket;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Takes a raw or ping socket.
pub fn dump(fd: BorrowedFd, kind: (i32, i32, i32), diag: &mut Diag) -> Result<Raw> {
    let ping = kind.1 == socket::SOCK_DGRAM;
    let bound = local(fd)?;
    // A raw socket shows its protocol as its port (net/ipv4/raw.c).
    let is_bound = if ping {
        !bound.is_unspecified()
    } else {
        !bound.ip.is_unspecified()
    };
    Ok(Raw {
        version: version_of(kind.0),
        ping,
        protocol: kind.2 as u8,
        local: is_bound.then_some(bound),
        remote: remote(fd)?,
        options: options::dump(fd, kind, &mut diag.fresh, diag.network, &[])?,
    })
}

/// Makes it.
pub fn restore(raw: &Raw, addresses: &[(IpAddr, IpAddr)]) -> Result<OwnedFd> {
    let kind = if raw.ping {
        socket::SOCK_DGRAM
    } else {
        socket::SOCK_RAW
    };
    let made = socket::create(family_of(raw.version), kind, raw.protocol.into())?;
    let fd = made.as_fd();
    options::early(fd, &raw.options)?;
    if let Some(to) = &raw.local {
        bind(fd, to, addresses)?;
    }
    if let Some(to) = &raw.remote {
        socket::connect(fd, &bytes_of(&moved(to, addresses)))?;
    }
    options::late(fd, &raw.options)?;
    Ok(made)
}
