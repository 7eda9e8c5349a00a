//! Raw and ping sockets: raw(7), icmp(7). The first packet not yet read is looked at, and delivered again by the loopback
//! interface, if nobody else takes notice of it: the kernel's own protocols must not. The others cannot be looked at
//! (there is no `SO_PEEK_OFF` here); they are lost, as a busy network may lose them.

use super::udp::{ROOM, join, memberships};
use super::{
    Diag, bind, bytes_of, family_of, local, moved, options, remote, socket_address, version_of,
};
use crate::Result;
use image::bytes::Bytes;
use image::sockets::raw::Raw;
use image::sockets::udp::Datagram;
use image::sockets::{Address, Version};
use kernel::socket::root::as_user;
use kernel::socket::{self, segment};
use kernel::{Namespace, Pid, within};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// What a kernel handles itself: IGMP, IPIP, TCP, EGP, UDP, DCCP, IPv6 in IPv4, GRE, ESP, AH, PIM, L2TP, SCTP, UDP-Lite.
const HANDLED: [u8; 15] = [2, 4, 6, 8, 17, 33, 41, 47, 50, 51, 103, 115, 132, 136, 255];
/// Drops everything: `BPF_RET | BPF_K`, 0 (linux/bpf_common.h).
const NOTHING: [u8; 8] = [6, 0, 0, 0, 0, 0, 0, 0];

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
    let (version, protocol) = (version_of(kind.0), kind.2 as u8);
    let inode = socket::inode(fd).ok();
    let unread =
        first(fd)?.filter(|packet| ping || unnoticed(version, protocol, text(version, packet)));
    Ok(Raw {
        version,
        ping,
        protocol,
        local: is_bound.then_some(bound),
        remote: remote(fd)?.or_else(|| {
            let ip = inode.and_then(|inode| diag.raw_peers.get(&inode));
            ip.map(|ip| super::record(SocketAddr::new(*ip, 0)))
        }),
        unread,
        memberships: memberships(fd, kind.0, diag)?,
        options: options::dump(fd, kind, &mut diag.here.fresh, diag.here.network, &[])?,
    })
}

fn first(fd: BorrowedFd) -> Result<Option<Datagram>> {
    if socket::events(fd)? & socket::POLLERR != 0 {
        // An error that waits comes before any packet.
        socket::number(fd, socket::SOL_SOCKET, socket::SO_ERROR)?;
    }
    let message = socket::peek(fd, ROOM)?.filter(|message| !message.from.is_empty());
    message
        .map(|message| {
            Ok(Datagram {
                from: super::address(&message.from)?,
                bytes: Bytes(message.bytes),
            })
        })
        .transpose()
}

/// The packet behind its header, which IPv4 shows to raw sockets.
fn text(version: Version, packet: &Datagram) -> &[u8] {
    let bytes = &packet.bytes.0;
    let header = match version {
        Version::V4 => bytes.first().map_or(0, |b| usize::from(b & 15) * 4),
        Version::V6 => 0,
    };
    bytes.get(header..).unwrap_or_default()
}

/// Whether nobody but raw sockets minds such a packet: no answer, no change in a table of the kernel's.
fn unnoticed(version: Version, protocol: u8, text: &[u8]) -> bool {
    match (version, protocol, text.first()) {
        // Echo replies, and errors about what nobody here has sent.
        (Version::V4, ICMP, Some(kind)) => matches!(kind, 0 | 3 | 11 | 12 | 14),
        (Version::V6, ICMPV6, Some(kind)) => matches!(kind, 1 | 3 | 4 | 129),
        (_, protocol, _) => !HANDLED.contains(&protocol),
    }
}

/// Makes it, with what it had not yet read. What cannot be delivered again is lost, as a busy network may lose it.
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
    for membership in &raw.memberships {
        join(fd, raw.version, membership)?;
    }
    if let Some(packet) = &raw.unread {
        deliver(raw, packet, &local(fd)?);
    }
    if !raw.ping {
        // Until its own filter is in place: what is delivered to others must not come here too.
        socket::attach_filter(fd, &NOTHING)?;
    }
    if let Some(to) = &raw.remote {
        socket::connect(fd, &bytes_of(&moved(to, addresses)))?;
    }
    Ok(made)
}

/// The second step, when all sockets have what they had not yet read.
pub fn fill(raw: &Raw, fd: BorrowedFd) -> Result<()> {
    if !raw.ping && raw.options.filter.is_none() {
        socket::detach_filter(fd)?;
    }
    options::late(fd, &raw.options)
}

/// The groups that may have ping sockets (icmp(7), which no right replaces): all, as long as this value lives.
#[derive(Debug)]
pub struct Range {
    root: Pid,
    before: String,
}

const RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";

/// Does what only the groups that may have ping sockets can do, as the first of them, in the network of the calling thread.
pub(super) fn as_permitted<T>(work: impl FnOnce() -> kernel::Result<T>) -> kernel::Result<T> {
    let range = std::fs::read_to_string(RANGE).unwrap_or_default();
    let first = range.split_whitespace().next().map(str::parse);
    match first {
        Some(Ok(group)) => as_user(0, group, work)?,
        _ => work(),
    }
}

impl Range {
    /// Widens it in the network of process `root`.
    pub fn widen(root: Pid) -> Result<Self> {
        let before = within(root, &[Namespace::Net], || std::fs::read_to_string(RANGE))?
            .map_err(|e| kernel::Error::io(format!("read {RANGE}"), &e))?;
        let range = Range { root, before };
        range.set("0 2147483647")?;
        Ok(range)
    }

    fn set(&self, to: &str) -> Result<()> {
        within(self.root, &[Namespace::Net], || std::fs::write(RANGE, to))?
            .map_err(|e| kernel::Error::io(format!("write {RANGE}"), &e).into())
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        let _ = self.set(self.before.trim());
    }
}

fn deliver(raw: &Raw, packet: &Datagram, to: &Address) {
    let text = match raw.ping {
        true => &packet.bytes.0,
        false => text(raw.version, packet),
    };
    if !raw.ping && !unnoticed(raw.version, raw.protocol, text) {
        return;
    }
    let from = socket_address(&packet.from).ip().to_canonical();
    let _ = segment::deliver_packet(from, to.ip.to_canonical(), raw.protocol, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_answers_is_delivered_again() {
        assert!(unnoticed(Version::V4, ICMP, &[0, 0]));
        assert!(!unnoticed(Version::V4, ICMP, &[8, 0]));
        assert!(!unnoticed(Version::V6, ICMPV6, &[135, 0]));
        assert!(unnoticed(Version::V4, 253, &[]));
        assert!(!unnoticed(Version::V4, 6, &[1, 2]));
        assert!(!unnoticed(Version::V4, 17, &[1, 2]));
    }
}
