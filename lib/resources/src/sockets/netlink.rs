//! Netlink sockets: netlink(7), net/netlink/af_netlink.c.

use super::{Diag, Holder, TRY_AGAIN, options};
use crate::Result;
use image::sockets::netlink::{Kind, Netlink};
use kernel::socket::{self, AF_NETLINK, address};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const SOL_NETLINK: i32 = 270;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_LIST_MEMBERSHIPS: i32 = 9;
const EADDRINUSE: i32 = 98;

/// Takes a netlink socket.
pub fn dump(
    fd: BorrowedFd,
    kind: (i32, i32, i32),
    holder: Holder,
    diag: &mut Diag,
) -> Result<Netlink> {
    if let Some(listed) = diag.netlink.get(&socket::inode(fd)?)
        && (listed.unread > 0 || listed.answering)
    {
        return Err(holder.blocked(
            "a netlink socket with messages of this kernel not yet read",
            TRY_AGAIN,
        ));
    }
    let port = |bytes: Vec<u8>| address::parse_netlink(&bytes).map_or(0, |(port, _)| port);
    let (own, peer) = (port(socket::name(fd)?), socket::peer(fd)?.map_or(0, port));
    let bits = socket::option(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, 1024)?;
    Ok(Netlink {
        kind: if kind.1 == socket::SOCK_DGRAM {
            Kind::Dgram
        } else {
            Kind::Raw
        },
        protocol: kind.2 as u8,
        port: (own != 0).then_some(own),
        groups: groups(&bits),
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
    Ok(made)
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
