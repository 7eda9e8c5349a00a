//! Single packets sent as somebody else, within a network namespace we are in: the segment with which the other end of a
//! connection closes it, which passes our own filters, and a datagram from its first sender. They are for addresses of
//! this host only.

use super::{address, create, send, set_number};
use crate::Result;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

/// `FIN`: the sender will send no more.
pub const FIN: u8 = 1;
/// `SYN`: a connection begins.
pub const SYN: u8 = 2;
/// `RST`: there is no such connection any more.
pub const RST: u8 = 4;
/// `PSH`: what it carries is to be read now.
pub const PUSH: u8 = 8;
/// `ACK`: the acknowledgement counts.
pub const ACK: u8 = 16;

/// `URG`: the first byte of what it carries is urgent. (The pointer beside it, which we leave at 0, says how far on that is:
/// net/ipv4/tcp_input.c, `tcp_check_urg`.)
pub const URGENT: u8 = 32;

/// A TCP segment (RFC 9293, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Who seems to send it.
    pub from: SocketAddr,
    /// Who gets it: an address of this host.
    pub to: SocketAddr,
    /// Its sequence number.
    pub sequence: u32,
    /// What it acknowledges.
    pub acknowledged: u32,
    /// The window it offers, unscaled.
    pub window: u16,
    /// [`FIN`], [`SYN`], [`RST`], [`PUSH`], [`ACK`], [`URGENT`].
    pub flags: u8,
}

/// Delivers a segment.
pub fn deliver(segment: &Segment) -> Result<()> {
    deliver_text(segment, &[], &[])
}

/// Delivers a segment with options (in whole words of four bytes, at most ten) and text.
pub fn deliver_text(segment: &Segment, options: &[u8], text: &[u8]) -> Result<()> {
    let packet = tcp_packet(segment, options, text);
    raw(segment.to.ip(), &packet, crate::nftables::PASSES)
}

/// Delivers a UDP datagram (or one of UDP-Lite: `protocol`).
pub fn deliver_datagram(from: SocketAddr, to: SocketAddr, protocol: u8, text: &[u8]) -> Result<()> {
    raw(to.ip(), &udp_packet(from, to, protocol, text), 0)
}

/// Delivers what stands behind the header of a packet of any other protocol. For an address that is not of one host the
/// loopback's own stands.
pub fn deliver_packet(from: IpAddr, to: IpAddr, protocol: u8, text: &[u8]) -> Result<()> {
    let to = match from {
        _ if !(to.is_unspecified() || to.is_multicast()) && to.is_ipv4() == from.is_ipv4() => to,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let mut text = text.to_vec();
    // Of the checksums it is the one of ICMPv6 that counts the addresses in.
    if i32::from(protocol) == libc::IPPROTO_ICMPV6 && text.len() >= 4 {
        text[2..4].fill(0);
        let sum = checksum(from, to, protocol, &text);
        text[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    raw(to, &with_header(from, to, protocol, text), 0)
}

fn raw(to: IpAddr, packet: &[u8], mark: u32) -> Result<()> {
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // Protocol IPPROTO_RAW says that the header is included (raw(7)).
    let socket = create(family, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    if mark != 0 {
        set_number(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark as i32)?;
    }
    let to = address::internet(&SocketAddr::new(to, 0));
    send(socket.as_fd(), packet, Some(&to), &[], None)
}

fn tcp_packet(segment: &Segment, options: &[u8], text: &[u8]) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20 + options.len() + text.len());
    tcp.extend(segment.from.port().to_be_bytes());
    tcp.extend(segment.to.port().to_be_bytes());
    tcp.extend(segment.sequence.to_be_bytes());
    tcp.extend(segment.acknowledged.to_be_bytes());
    tcp.extend([((5 + options.len() / 4) as u8) << 4, segment.flags]);
    tcp.extend(segment.window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(options);
    tcp.extend(text);
    let sum = checksum(segment.from.ip(), segment.to.ip(), 6, &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    with_header(segment.from.ip(), segment.to.ip(), 6, tcp)
}

fn udp_packet(from: SocketAddr, to: SocketAddr, protocol: u8, text: &[u8]) -> Vec<u8> {
    let mut udp = Vec::with_capacity(8 + text.len());
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(((8 + text.len()) as u16).to_be_bytes());
    udp.extend([0; 2]);
    udp.extend(text);
    let sum = checksum(from.ip(), to.ip(), protocol, &udp);
    // 0 would say that there is none (RFC 768).
    let sum = if sum == 0 { 0xffff } else { sum };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    with_header(from.ip(), to.ip(), protocol, udp)
}

fn with_header(from: IpAddr, to: IpAddr, protocol: u8, text: Vec<u8>) -> Vec<u8> {
    let mut packet = Vec::with_capacity(40 + text.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The kernel fills in length, identification and checksum (raw(7)).
            packet.extend([0x45, 0]);
            packet.extend(((20 + text.len()) as u16).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((text.len() as u16).to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(octets(from));
            packet.extend(octets(to));
        }
    }
    packet.extend(text);
    packet
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The internet checksum over pseudo header and text (RFC 1071).
fn checksum(from: IpAddr, to: IpAddr, protocol: u8, text: &[u8]) -> u16 {
    let mut words = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            words.extend(from.octets());
            words.extend(to.octets());
        }
        _ => {
            words.extend(octets(from));
            words.extend(octets(to));
        }
    }
    words.extend([0, protocol]);
    words.extend((text.len() as u16).to_be_bytes());
    words.extend(text);
    words.resize(words.len().next_multiple_of(2), 0);
    let mut sum: u32 = words
        .chunks_exact(2)
        .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn a_packet_with_its_checksum_sums_to_nothing() {
        let (from, to) = (
            "10.0.0.1:80".parse().unwrap(),
            "10.0.0.2:4711".parse().unwrap(),
        );
        let segment = Segment {
            from,
            to,
            sequence: 1,
            acknowledged: 2,
            window: 3,
            flags: FIN | ACK,
        };
        for (options, text) in [(&[][..], &[][..]), (&[1, 1, 4, 2], b"odd")] {
            let packet = tcp_packet(&segment, options, text);
            assert_eq!(checksum(from.ip(), to.ip(), 6, &packet[20..]), 0);
            assert_eq!(usize::from(packet[32] >> 4), 5 + options.len() / 4);
        }
        let udp = udp_packet(from, to, 17, b"odd");
        assert_eq!(checksum(from.ip(), to.ip(), 17, &udp[20..]), 0);
    }

    #[test]
    fn a_datagram_comes_from_whom_it_says() {
        for (here, stranger) in [
            ("127.0.0.1:0", "10.254.3.2:99"),
            ("[::1]:0", "[2001:db8::7]:99"),
        ] {
            let socket = UdpSocket::bind(here).unwrap();
            let from = stranger.parse().unwrap();
            deliver_datagram(from, socket.local_addr().unwrap(), 17, b"hello").unwrap();
            socket
                .set_read_timeout(Some(std::time::Duration::from_secs(5)))
                .unwrap();
            let mut text = [0; 9];
            let (len, who) = socket.recv_from(&mut text).unwrap();
            assert_eq!((&text[..len], who), (&b"hello"[..], from));
        }
    }

    #[test]
    fn a_reset_at_no_connection_is_harmless() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let from = "127.0.0.1:1".parse().unwrap();
        deliver(&Segment {
            from,
            to,
            sequence: 5,
            acknowledged: 0,
            window: 0,
            flags: RST,
        })
        .unwrap();
        assert!(std::net::TcpStream::connect(to).is_ok());
    }
}
