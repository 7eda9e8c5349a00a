//! UDP sockets: udp(7). Datagrams not yet read are looked at, and delivered again from their senders' addresses.

use super::{
    Diag, Holder, TRY_AGAIN, address, bind, bytes_of, family_of, local, moved, options, remote,
    socket_address, version_of,
};
use crate::{Error, Result};
use image::bytes::Bytes;
use image::sockets::udp::{Datagram, Membership, Udp};
use image::sockets::{Address, Version};
use kernel::socket::{self, SO_PEEK_OFF, SOL_SOCKET, segment};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the same memory is held by nothing that is on its way, and how long we look at one that goes on sending.
const STILL: Duration = Duration::from_millis(50);
const BUSY: Duration = Duration::from_secs(1);
/// The largest datagram there is.
pub(super) const ROOM: usize = 1 << 16;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;
/// `sizeof(struct group_filter)` without sources, `sizeof(struct sockaddr_storage)`.
const FILTER: usize = 144;
const STORAGE: usize = 128;
const SOURCES: usize = 64;

/// Refuses what cannot be taken: what was begun with `UDP_CORK` or `MSG_MORE` and not ended, also of raw and ping sockets.
pub fn judge(fd: BorrowedFd, holder: Holder) -> Result<()> {
    match half_written(fd) {
        true => Err(holder.blocked(
            "a socket with a datagram half written (UDP_CORK, MSG_MORE)",
            TRY_AGAIN,
        )),
        false => Ok(()),
    }
}

/// Whether something is held back: no call says that, but the memory of what is written and not gone stays the same,
/// whereas what is on its way goes.
fn half_written(fd: BorrowedFd) -> bool {
    // An error: a ping socket does not tell.
    let written = || socket::unacknowledged(fd).unwrap_or(0);
    let begun = Instant::now();
    let (mut before, mut since) = (written(), begun);
    while before != 0 && begun.elapsed() < BUSY {
        if since.elapsed() > STILL {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
        let now = written();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    false
}

/// Takes a UDP socket.
pub fn dump(fd: BorrowedFd, kind: (i32, i32, i32), holder: Holder, diag: &mut Diag) -> Result<Udp> {
    judge(fd, holder)?;
    let bound = local(fd)?;
    let events = socket::events(fd)?;
    let shutdown = match (
        events & socket::POLLHUP != 0,
        events & socket::POLLRDHUP != 0,
    ) {
        (true, _) => 3,
        (false, true) => 1,
        (false, false) => 0,
    };
    let peer = remote(fd)?;
    let connected = peer.is_some();
    Ok(Udp {
        version: version_of(kind.0),
        lite: kind.2 == socket::IPPROTO_UDPLITE,
        local: (!bound.is_unspecified()).then_some(bound),
        remote: peer,
        shutdown,
        queue: queue(fd)?,
        memberships: memberships(fd, kind.0, diag)?,
        options: options::dump(
            fd,
            kind,
            &mut diag.here.fresh,
            diag.here.network,
            // Only of a connected one the kernel moves it.
            if connected { &["SO_INCOMING_CPU"] } else { &[] },
        )?,
    })
}

fn queue(fd: BorrowedFd) -> Result<Vec<Datagram>> {
    if socket::events(fd)? & socket::POLLERR != 0 {
        // An error that waits comes before any datagram.
        socket::number(fd, SOL_SOCKET, socket::SO_ERROR)?;
    }
    let before = socket::number(fd, SOL_SOCKET, SO_PEEK_OFF)?;
    socket::set_number(fd, SOL_SOCKET, SO_PEEK_OFF, 0)?;
    let found = datagrams(fd);
    socket::set_number(fd, SOL_SOCKET, SO_PEEK_OFF, before)?;
    found
}

/// (An empty datagram that somebody has looked at before shows only at the head of the queue: net/core/datagram.c.)
fn datagrams(fd: BorrowedFd) -> Result<Vec<Datagram>> {
    let mut found = Vec::new();
    while let Some(message) = socket::peek(fd, ROOM)? {
        // Reading from a socket that was shut gives nothing, from nobody.
        if message.from.is_empty() {
            break;
        }
        found.push(Datagram {
            from: address(&message.from)?,
            bytes: Bytes(message.bytes),
        });
    }
    Ok(found)
}

/// Asks the socket for each group that anybody has joined (`MCAST_MSFILTER`: it answers only for its own).
pub(super) fn memberships(fd: BorrowedFd, family: i32, diag: &Diag) -> Result<Vec<Membership>> {
    let mut found = Vec::new();
    for group in &diag.here.groups {
        let Some(level) = level(family, &group.address) else {
            continue;
        };
        let mut filter = group_request(group.index, &group.address, FILTER + SOURCES * STORAGE);
        filter[140..144].copy_from_slice(&(SOURCES as u32).to_ne_bytes());
        if socket::ask(fd, level, MCAST_MSFILTER, &mut filter).is_err() {
            continue;
        }
        let word = |at: usize| {
            u32::from_ne_bytes([filter[at], filter[at + 1], filter[at + 2], filter[at + 3]])
        };
        let sources = (0..(word(140) as usize).min(SOURCES))
            .filter_map(|i| socket::address::parse_internet(&filter[FILTER + i * STORAGE..]))
            .map(|source| source.ip())
            .collect();
        // MCAST_INCLUDE is 1.
        found.push(Membership {
            group: group.address,
            interface: group.interface.clone(),
            include: word(136) == 1,
            sources,
        });
    }
    Ok(found)
}

/// IPv4 groups are asked for at the level of IPv4, also on an IPv6 socket.
fn level(family: i32, group: &IpAddr) -> Option<i32> {
    match group {
        IpAddr::V4(_) => Some(0),
        IpAddr::V6(_) if family == socket::AF_INET6 => Some(41),
        IpAddr::V6(_) => None,
    }
}

/// `struct group_req` and the head of `struct group_filter`: interface, then the group at offset 8.
fn group_request(index: u32, group: &IpAddr, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..4].copy_from_slice(&index.to_ne_bytes());
    let name = socket::address::internet(&SocketAddr::new(*group, 0));
    bytes[8..8 + name.len()].copy_from_slice(&name);
    bytes
}

/// Makes it, with what it had not yet read. A datagram that cannot be delivered again is lost, as UDP may lose it.
pub fn restore(udp: &Udp, addresses: &[(IpAddr, IpAddr)]) -> Result<OwnedFd> {
    let protocol = if udp.lite {
        socket::IPPROTO_UDPLITE
    } else {
        socket::IPPROTO_UDP
    };
    let made = socket::create(family_of(udp.version), socket::SOCK_DGRAM, protocol)?;
    let fd = made.as_fd();
    options::early(fd, &udp.options)?;
    if let Some(to) = &udp.local {
        bind(fd, to, addresses)?;
    }
    for membership in &udp.memberships {
        join(fd, udp.version, membership)?;
    }
    for datagram in &udp.queue {
        let from = socket_address(&datagram.from);
        let to = local(fd)?;
        deliver(from, &to, protocol as u8, &datagram.bytes.0);
    }
    if let Some(to) = &udp.remote {
        socket::connect(fd, &bytes_of(&moved(to, addresses)))?;
        socket::shutdown(fd, udp.shutdown)?;
    }
    options::late(fd, &udp.options)?;
    Ok(made)
}

fn deliver(from: SocketAddr, to: &Address, protocol: u8, text: &[u8]) {
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let loopback: IpAddr = match from {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let ip = to.ip.to_canonical();
    let ip = if ip.is_unspecified() || ip.is_multicast() || ip.is_ipv4() != from.is_ipv4() {
        loopback
    } else {
        ip
    };
    let _ = segment::deliver_datagram(from, SocketAddr::new(ip, to.port), protocol, text);
}

/// Joins a multicast group again.
pub(super) fn join(fd: BorrowedFd, version: Version, membership: &Membership) -> Result<()> {
    let Some(level) = level(family_of(version), &membership.group) else {
        return Err(Error::Refused(format!(
            "the image has an IPv4 socket in the IPv6 group {}",
            membership.group
        )));
    };
    let index = socket::interface_index(&membership.interface).map_err(|_| {
        Error::Refused(format!(
            "a socket is in the multicast group {} on interface {}, which is not here: restore with a network that has it",
            membership.group, membership.interface
        ))
    })?;
    socket::set_option(
        fd,
        level,
        MCAST_JOIN_GROUP,
        &group_request(index, &membership.group, 8 + STORAGE),
    )?;
    if membership.include || !membership.sources.is_empty() {
        let mut filter = group_request(index, &membership.group, FILTER);
        filter[136..140].copy_from_slice(&u32::from(membership.include).to_ne_bytes());
        filter[140..144].copy_from_slice(&(membership.sources.len() as u32).to_ne_bytes());
        for source in &membership.sources {
            let mut storage = socket::address::internet(&SocketAddr::new(*source, 0));
            storage.resize(STORAGE, 0);
            filter.extend(storage);
        }
        socket::set_option(fd, level, MCAST_MSFILTER, &filter)?;
    }
    Ok(())
}
