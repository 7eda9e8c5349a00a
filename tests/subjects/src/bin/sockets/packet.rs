//! Packet sockets: one at the loopback interface with a filter that is locked, an address to listen to, and one of a
//! group that shares what comes.
#![forbid(unsafe_code)]

use kernel::sock_diag;
use kernel::socket::{self, AF_PACKET, SOCK_RAW, SOL_SOCKET, address};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;
use subject::Stage;

const SOL_PACKET: i32 = 263;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_AUXDATA: i32 = 8;
const PACKET_FANOUT: i32 = 18;
const SO_LOCK_FILTER: i32 = 44;
/// For experiments (IEEE 802).
const PROTOCOL: u16 = 0x88b5;
/// Nobody sends that.
const SILENT: u16 = 0x88b6;
/// By turns (`PACKET_FANOUT_LB`), number 77.
const GROUP: i32 = 1 << 16 | 77;
const LISTEN_TO: [u8; 6] = [1, 0, 0x5e, 7, 7, 7];
/// Takes what begins with the letter f behind its header: `ldb [14]`, `jeq #'f'`, `ret #-1`, `ret #0`.
const FILTER: [[u8; 8]; 4] = [
    [0x30, 0, 0, 0, 14, 0, 0, 0],
    [0x15, 0, 0, 1, b'f', 0, 0, 0],
    [6, 0, 0, 0, 0xff, 0xff, 0, 0],
    [6, 0, 0, 0, 0, 0, 0, 0],
];

fn frame(text: &[u8]) -> Vec<u8> {
    [&[0; 12][..], &PROTOCOL.to_be_bytes(), text].concat()
}

fn made(protocol: u16, interface: u32) -> OwnedFd {
    let socket = socket::create(AF_PACKET, SOCK_RAW, 0).expect("a packet socket");
    socket::bind(socket.as_fd(), &address::packet(protocol, interface)).expect("bind");
    socket
}

fn joined(socket: &OwnedFd) -> Vec<sock_diag::PacketMembership> {
    let inode = socket::inode(socket.as_fd()).expect("an inode");
    let all = sock_diag::packet().expect("packet_diag");
    let own = all.into_iter().find(|s| u64::from(s.inode) == inode);
    own.map(|s| s.memberships).unwrap_or_default()
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let lo = socket::interface_index("lo").expect("lo");
    let hearing = made(PROTOCOL, lo);
    socket::attach_filter(hearing.as_fd(), &FILTER.concat()).expect("SO_ATTACH_FILTER");
    socket::set_number(hearing.as_fd(), SOL_SOCKET, SO_LOCK_FILTER, 1).expect("SO_LOCK_FILTER");
    socket::set_number(hearing.as_fd(), SOL_PACKET, PACKET_AUXDATA, 1).expect("PACKET_AUXDATA");
    let mut request = lo.to_ne_bytes().to_vec();
    request.extend([0, 0, 6, 0]);
    request.extend(LISTEN_TO);
    request.resize(16, 0);
    for _ in 0..2 {
        socket::set_option(hearing.as_fd(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request)
            .expect("PACKET_ADD_MEMBERSHIP");
    }
    let sharing = made(SILENT, 0);
    socket::set_number(sharing.as_fd(), SOL_PACKET, PACKET_FANOUT, GROUP).expect("PACKET_FANOUT");
    let idle = socket::create(AF_PACKET, SOCK_RAW, 0).expect("a packet socket");

    let name = |socket: &OwnedFd| {
        let name = socket::name(socket.as_fd()).expect("a name");
        address::parse_packet(&name)
    };
    let names = (name(&hearing), name(&sharing), name(&idle));
    let memberships = joined(&hearing);

    stage.wait();

    stage.same(
        "what they are bound to",
        names,
        (name(&hearing), name(&sharing), name(&idle)),
    );
    stage.same("what it listens to", memberships, joined(&hearing));
    stage.same(
        "PACKET_FANOUT",
        Some(GROUP),
        socket::number(sharing.as_fd(), SOL_PACKET, PACKET_FANOUT).ok(),
    );
    stage.same(
        "PACKET_AUXDATA",
        Some(1),
        socket::number(hearing.as_fd(), SOL_PACKET, PACKET_AUXDATA).ok(),
    );
    stage.same(
        "the filter",
        Some(FILTER.concat()),
        socket::filter(hearing.as_fd()).ok(),
    );
    stage.holds("its lock", socket::detach_filter(hearing.as_fd()).is_err());
    let mut speaking = std::fs::File::from(made(0, lo));
    speaking.write_all(&frame(b"unwanted")).expect("send");
    speaking.write_all(&frame(b"for you")).expect("send");
    std::thread::sleep(Duration::from_millis(20));
    let mut room = [0; 100];
    let heard = std::fs::File::from(hearing)
        .read(&mut room)
        .map(|len| room[..len].to_vec())
        .map_err(|e| e.kind());
    stage.same("what it hears", Ok(frame(b"for you")), heard);
    stage.leave()
}
