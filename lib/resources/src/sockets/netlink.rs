//! Netlink sockets: netlink(7), net/netlink/af_netlink.c.

use super::{Diag, Holder, TRY_AGAIN, options};
use crate::{Error, Result};
use image::sockets::netlink::{Kind, Netlink};
use kernel::socket::{self, AF_NETLINK, address, option};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const SOL_NETLINK: i32 = 270;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_LIST_MEMBERSHIPS: i32 = 9;
const NETLINK_DROP_MEMBERSHIP: i32 = 2;
const NETLINK_NO_ENOBUFS: i32 = 5;
const NLMSG_NOOP: u8 = 1;
/// The last group that every protocol has room for.
const SPARE_GROUP: u32 = 32;
/// Far more than the smallest buffer holds.
const MOST_MESSAGES: usize = 64;
const EADDRINUSE: i32 = 98;

/// Takes a netlink socket.
pub fn dump(
    fd: BorrowedFd,
    kind: (i32, i32, i32),
    holder: Holder,
    diag: &mut Diag,
) -> Result<Netlink> {
    let bits = socket::option(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, 1024)?;
    let groups = groups(&bits);
    let listed = diag.netlink.get(&socket::inode(fd)?);
    let unread = listed.is_some_and(|listed| listed.unread > 0);
    if listed.is_some_and(|listed| listed.answering) || unread && groups.is_empty() {
        return Err(holder.blocked(
            "a netlink socket with an answer of this kernel not yet read",
            TRY_AGAIN,
        ));
    }
    let port = |bytes: Vec<u8>| address::parse_netlink(&bytes).map_or(0, |(port, _)| port);
    let (own, peer) = (port(socket::name(fd)?), socket::peer(fd)?.map_or(0, port));
    Ok(Netlink {
        kind: if kind.1 == socket::SOCK_DGRAM {
            Kind::Dgram
        } else {
            Kind::Raw
        },
        protocol: kind.2 as u8,
        port: (own != 0).then_some(own),
        groups,
        missed: unread,
        peer: (peer != 0).then_some(peer),
        options: options::dump(fd, kind, &mut diag.here.fresh, diag.here.network, &[])?,
    })
}

/// Group numbers from 1, of a map with a bit for each, in 32-bit words.
fn groups(bits: &[u8]) -> Vec<u32> {
    (0..bits.len() as u32 * 8)
        .filter(|bit| {
            let word = bits.chunks_exact(4).nth(*bit as usize / 32);
            word.and_then(|w| w.try_into().ok())
                .map_or(0, u32::from_ne_bytes)
                >> (bit % 32)
                & 1
                != 0
        })
        .map(|bit| bit + 1)
        .collect()
}

/// Makes it. A port that is taken here is replaced by one that the kernel chooses.
pub fn restore(netlink: &Netlink) -> Result<OwnedFd> {
    let kind = match netlink.kind {
        Kind::Dgram => socket::SOCK_DGRAM,
        Kind::Raw => socket::SOCK_RAW,
    };
    let made = socket::create(AF_NETLINK, kind, netlink.protocol.into())?;
    let fd = made.as_fd();
    options::early(fd, &netlink.options)?;
    if let Some(port) = netlink.port {
        match socket::bind(fd, &address::netlink(port, 0)) {
            Err(error) if error.raw() == Some(EADDRINUSE) => {
                socket::bind(fd, &address::netlink(0, 0))?
            }
            bound => bound?,
        }
    }
    for group in &netlink.groups {
        socket::set_number(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, *group as i32)?;
    }
    if let Some(peer) = netlink.peer {
        socket::connect(fd, &address::netlink(peer, 0))?;
    }
    options::late(fd, &netlink.options)?;
    if netlink.missed && socket::number(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS)? == 0 {
        overrun(fd, netlink)?;
    }
    Ok(made)
}

/// Tells the program that it has missed messages, as the kernel does where there is no room for one: `ENOBUFS`, whereupon
/// who follows a group asks for all there is. What fills the room are messages without a meaning (`NLMSG_NOOP`) to a group
/// that nobody else listens to; they are read after the error.
fn overrun(fd: BorrowedFd, netlink: &Netlink) -> Result<()> {
    let (send, receive) = option::buffers(fd)?;
    let size = socket::number(fd, socket::SOL_SOCKET, socket::SO_RCVBUF)?;
    option::set_receive_buffer(fd, 0)?;
    socket::set_number(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, SPARE_GROUP as i32)?;
    let sender = socket::create(AF_NETLINK, socket::SOCK_RAW, netlink.protocol.into())?;
    socket::bind(sender.as_fd(), &address::netlink(0, 0))?;
    let own = address::parse_netlink(&socket::name(sender.as_fd())?).map_or(0, |(port, _)| port);
    // To the sender itself, and the group.
    let to = address::netlink(own, 1 << (SPARE_GROUP - 1));
    let mut empty = vec![16, 0, 0, 0, NLMSG_NOOP, 0, 0, 0];
    empty.resize(16, 0);
    for _ in 0..MOST_MESSAGES {
        if socket::events(fd)? & socket::POLLERR != 0 {
            break;
        }
        socket::send(sender.as_fd(), &empty, Some(&to), &[], None)?;
    }
    if !netlink.groups.contains(&SPARE_GROUP) {
        socket::set_number(fd, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, SPARE_GROUP as i32)?;
    }
    option::set_receive_buffer(fd, size)?;
    option::lock_buffers(fd, send.is_some(), receive.is_some())?;
    match socket::events(fd)? & socket::POLLERR {
        0 => Err(Error::Refused(
            "a netlink socket cannot be told that it missed messages: let the program read them before the checkpoint"
                .into(),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted_from_one() {
        assert_eq!(groups(&[0b101, 0, 0, 0x80, 1, 0, 0, 0]), [1, 3, 32, 33]);
        assert!(groups(&[]).is_empty());
    }
}
