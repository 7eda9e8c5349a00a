//! Addresses between the kernel's bytes, records, and the standard library; and how they change with the host.

use crate::{Error, Result};
use image::sockets::{Address, Version};
use kernel::socket;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::BorrowedFd;

pub(super) fn version_of(family: i32) -> Version {
    if family == socket::AF_INET6 {
        Version::V6
    } else {
        Version::V4
    }
}

pub(super) fn family_of(version: Version) -> i32 {
    match version {
        Version::V4 => socket::AF_INET,
        Version::V6 => socket::AF_INET6,
    }
}

/// The kernel's bytes as a record.
pub(super) fn address(bytes: &[u8]) -> Result<Address> {
    match socket::address::parse_internet(bytes) {
        Some(found) => Ok(record(found)),
        None => Err(kernel::Error::unreadable("socket address", "not an internet address").into()),
    }
}

/// An address of the standard library as a record.
pub(super) fn record(address: SocketAddr) -> Address {
    Address {
        ip: address.ip(),
        port: address.port(),
        scope: match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        },
    }
}

pub(super) fn local(fd: BorrowedFd) -> Result<Address> {
    address(&socket::name(fd)?)
}

pub(super) fn remote(fd: BorrowedFd) -> Result<Option<Address>> {
    socket::peer(fd)?.map(|bytes| address(&bytes)).transpose()
}

/// A record as an address of the standard library.
pub(super) fn socket_address(address: &Address) -> SocketAddr {
    match address.ip {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, address.port, 0, address.scope).into(),
    }
}

/// A record as the kernel's bytes.
pub(super) fn bytes_of(address: &Address) -> Vec<u8> {
    socket::address::internet(&socket_address(address))
}

/// An address that may have changed with the host: what it is now.
pub(super) fn moved(address: &Address, addresses: &[(IpAddr, IpAddr)]) -> Address {
    let plain = address.ip.to_canonical();
    let Some((_, new)) = addresses.iter().find(|(old, _)| *old == plain) else {
        return *address;
    };
    let ip = match (address.ip, new) {
        (IpAddr::V6(_), IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
        _ => *new,
    };
    Address { ip, ..*address }
}

/// Binds to an address that may have changed, and says what to do where it is not here.
pub(super) fn bind(fd: BorrowedFd, to: &Address, addresses: &[(IpAddr, IpAddr)]) -> Result<()> {
    let to = moved(to, addresses);
    socket::bind(fd, &bytes_of(&to)).map_err(|error| {
        let at = socket_address(&to);
        match error.raw() {
            Some(EADDRNOTAVAIL) => Error::Refused(format!(
                "a socket is bound to {at}, an address that is not here: restore with a network that has it, or bind to all addresses"
            )),
            Some(EADDRINUSE) => Error::Refused(format!(
                "a socket is bound to {at}, which is in use here: stop what uses it, or restore with a network of its own (-n NAME)"
            )),
            _ => error.into(),
        }
    })
}

const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;
