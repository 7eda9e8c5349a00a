//! Packet sockets: packet(7), net/packet/af_packet.c.

use super::{Diag, Holder, options};
use crate::{Error, Result};
use image::sockets::packet::{Kind, Packet};
use kernel::socket::{self, AF_PACKET, address};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const SOL_PACKET: i32 = 263;
const PACKET_FANOUT: i32 = 18;

/// Refuses what cannot be taken. (A ring is mapped memory; the room of memory finds it.)
pub fn judge(fd: BorrowedFd, holder: Holder) -> Result<()> {
    match socket::number(fd, SOL_PACKET, PACKET_FANOUT) {
        Ok(0) | Err(_) => Ok(()),
        Ok(_) => Err(holder.blocked(
            "a packet socket in a fanout group",
            "close it before the checkpoint",
        )),
    }
}

/// Takes a packet socket.
pub fn dump(
    fd: BorrowedFd,
    kind: (i32, i32, i32),
    holder: Holder,
    diag: &mut Diag,
) -> Result<Packet> {
    judge(fd, holder)?;
    let (protocol, interface) = address::parse_packet(&socket::name(fd)?).ok_or_else(|| {
        Error::from(kernel::Error::unreadable(
            "packet socket",
            "it has no address",
        ))
    })?;
    Ok(Packet {
        kind: if kind.1 == socket::SOCK_DGRAM {
            Kind::Dgram
        } else {
            Kind::Raw
        },
        protocol,
        interface,
        options: options::dump(fd, (kind.0, kind.1, 0), &mut diag.fresh, diag.network, &[])?,
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
    if packet.protocol != 0 {
        socket::bind(fd, &address::packet(packet.protocol, packet.interface))?;
    }
    Ok(made)
}
