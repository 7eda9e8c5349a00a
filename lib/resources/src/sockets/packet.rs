//! Packet sockets: packet(7), net/packet/af_packet.c.

use super::{Diag, Holder, options};
use crate::{Error, Result};
use image::bytes::Bytes;
use image::sockets::packet::{Kind, Membership, Packet};
use kernel::sock_diag::{self, PacketMembership};
use kernel::socket::{self, AF_PACKET, address};
use kernel::{Namespace, within};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const SOL_PACKET: i32 = 263;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_FANOUT: i32 = 18;
/// `PACKET_FANOUT_CBPF`, from which on a program chooses, that the kernel does not show again.
const FANOUT_PROGRAM: i32 = 6;
/// `PACKET_FANOUT_FLAG_UNIQUEID`: asks for a number that nobody has; the group has one by now.
const FANOUT_UNIQUE: i32 = 0x2000 << 16;
/// How often one membership may be asked for.
const MOST: u32 = 1 << 10;

/// Refuses what cannot be taken.
pub fn judge(fd: BorrowedFd, holder: Holder, diag: &Diag) -> Result<()> {
    if fanout(fd).is_some_and(|group| group >> 16 & 0xff >= FANOUT_PROGRAM) {
        return Err(holder.blocked(
            "a packet socket of a fanout group that a program shares out (PACKET_FANOUT_CBPF)",
            "close it before the checkpoint: the kernel does not show that program",
        ));
    }
    let inode = socket::inode(fd)?;
    match diag.packet.iter().find(|s| u64::from(s.inode) == inode) {
        Some(listed) if listed.ring => Err(holder.blocked(
            "a packet socket with a ring (PACKET_RX_RING, PACKET_TX_RING)",
            "close it before the checkpoint: who may touch which frame of it only the kernel knows",
        )),
        _ => Ok(()),
    }
}

fn fanout(fd: BorrowedFd) -> Option<i32> {
    let group = socket::number(fd, SOL_PACKET, PACKET_FANOUT).ok()?;
    (group != 0).then_some(group)
}

/// Takes a packet socket.
pub fn dump(
    fd: BorrowedFd,
    kind: (i32, i32, i32),
    holder: Holder,
    diag: &mut Diag,
) -> Result<Packet> {
    judge(fd, holder, diag)?;
    let (protocol, interface) = address::parse_packet(&socket::name(fd)?).ok_or_else(|| {
        Error::from(kernel::Error::unreadable(
            "packet socket",
            "it has no address",
        ))
    })?;
    let inode = socket::inode(fd)?;
    let listed = diag.packet.iter().find(|s| u64::from(s.inode) == inode);
    let joined = listed.map_or(&[][..], |s| &s.memberships);
    let (interface, memberships) = within(diag.here.network, &[Namespace::Net], || {
        let named = |m: &PacketMembership| {
            Ok(Membership {
                interface: socket::interface_name(m.interface)?,
                kind: m.kind,
                address: Bytes(m.address.clone()),
                count: m.count.min(MOST),
            })
        };
        let interface = match interface {
            0 => None,
            index => Some(socket::interface_name(index)?),
        };
        let memberships = joined
            .iter()
            .map(named)
            .collect::<kernel::Result<Vec<_>>>()?;
        Ok::<_, kernel::Error>((interface, memberships))
    })??;
    Ok(Packet {
        kind: if kind.1 == socket::SOCK_DGRAM {
            Kind::Dgram
        } else {
            Kind::Raw
        },
        protocol,
        interface,
        memberships,
        fanout: fanout(fd),
        options: options::dump(
            fd,
            (kind.0, kind.1, 0),
            &mut diag.here.fresh,
            diag.here.network,
            &[],
        )?,
    })
}

/// Makes it.
pub fn restore(packet: &Packet) -> Result<OwnedFd> {
    let kind = match packet.kind {
        Kind::Dgram => socket::SOCK_DGRAM,
        Kind::Raw => socket::SOCK_RAW,
    };
    // Protocol 0 hears nothing until it is bound, with its filter in place.
    let made = socket::create(AF_PACKET, kind, 0)?;
    let fd = made.as_fd();
    options::early(fd, &packet.options)?;
    options::late(fd, &packet.options)?;
    for membership in &packet.memberships {
        join(fd, membership)?;
    }
    if packet.protocol != 0 {
        let interface = packet
            .interface
            .as_deref()
            .map(options::index)
            .transpose()?;
        socket::bind(
            fd,
            &address::packet(packet.protocol, interface.unwrap_or(0)),
        )?;
    }
    if let Some(group) = packet.fanout {
        socket::set_number(fd, SOL_PACKET, PACKET_FANOUT, group & !FANOUT_UNIQUE)?;
    }
    Ok(made)
}

/// `struct packet_mreq`, or `packet_mreq_max` for longer addresses.
fn join(fd: BorrowedFd, membership: &Membership) -> Result<()> {
    let address = &membership.address.0;
    if address.len() > sock_diag::PACKET_ADDRESS || membership.count > MOST {
        return Err(Error::Refused(
            "the image has a packet socket with a membership that no kernel has".into(),
        ));
    }
    let mut request = options::index(&membership.interface)?
        .to_ne_bytes()
        .to_vec();
    request.extend(membership.kind.to_ne_bytes());
    request.extend((address.len() as u16).to_ne_bytes());
    request.extend(address);
    request.resize(request.len().max(16), 0);
    for _ in 0..membership.count {
        socket::set_option(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request)?;
    }
    Ok(())
}
