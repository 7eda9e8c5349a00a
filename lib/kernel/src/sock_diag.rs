//! What the kernel lists of all sockets of a network namespace, peers and clients not yet accepted included: sock_diag(7).
//!
//! The messages are read here and not by the crate netlink-packet-sock-diag, which takes a unix socket's name for UTF-8
//! text and keeps the file's inode to itself.

use crate::error::Named;
use crate::socket::signature::{self, Signature};
use crate::{Error, Result};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
/// `UDIAG_SHOW_*` (include/uapi/linux/unix_diag.h): name, vfs, peer, icons, rqlen.
const UDIAG_SHOW: u32 = 0x1f;
const ALL_STATES: u32 = u32::MAX;

/// One unix socket (`struct unix_diag_msg` and its attributes).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// `SOCK_STREAM` and so on.
    pub kind: u8,
    /// `TCP_ESTABLISHED` (1), `TCP_CLOSE` (7), `TCP_LISTEN` (10).
    pub state: u8,
    /// Its inode.
    pub inode: u32,
    /// `sun_path`: abstract names with their leading NUL, paths without a trailing one.
    pub name: Option<Vec<u8>>,
    /// Inode of the file it is bound to, its lower 32 bits.
    pub file: Option<u32>,
    /// Inode of its peer; 0 for one that is closed or not yet accepted.
    pub peer: Option<u32>,
    /// Inodes of clients not yet accepted, the oldest first.
    pub pending: Vec<u32>,
    /// Bytes to read, or the number of clients not yet accepted.
    pub receive_queue: u32,
    /// Bytes sent and not yet read by the peer, or the backlog of a listening socket.
    pub send_queue: u32,
    /// `RCV_SHUTDOWN` (1) and `SEND_SHUTDOWN` (2).
    pub shutdown: u8,
}

/// One TCP socket (`struct inet_diag_msg`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSocket {
    /// `TCP_ESTABLISHED` (1) and so on.
    pub state: u8,
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Its inode; 0 while it is not yet accepted.
    pub inode: u32,
    /// Bytes to read, a FIN counted as one, or the number of clients not yet accepted.
    pub receive_queue: u32,
}

/// One packet socket (`struct packet_diag_msg` and its attributes).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PacketSocket {
    /// Its inode.
    pub inode: u32,
    /// It has a ring for receiving or sending.
    pub ring: bool,
    /// What it has interfaces listen to.
    pub memberships: Vec<PacketMembership>,
}

/// What a packet socket has an interface listen to (`struct packet_diag_mclist`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketMembership {
    /// The interface's index.
    pub interface: u32,
    /// How often it was asked for.
    pub count: u32,
    /// `PACKET_MR_PROMISC` and so on.
    pub kind: u16,
    /// A hardware address.
    pub address: Vec<u8>,
}

/// The longest hardware address (`MAX_ADDR_LEN`).
pub const PACKET_ADDRESS: usize = 32;

/// All packet sockets of this thread's network namespace; none where the kernel does not list them.
pub fn packet() -> Result<Vec<PacketSocket>> {
    // struct packet_diag_req: family, protocol, pad, ino, show (memberships, rings), cookie.
    let mut request = vec![libc::AF_PACKET as u8, 0, 0, 0];
    for word in [0, 0b110, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    match dump(&request) {
        Err(e)
            if matches!(
                e.raw(),
                Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(Vec::new())
        }
        listed => listed?.iter().map(|m| parse_packet(m)).collect(),
    }
}

/// Reads `struct packet_diag_msg` and its attributes.
pub fn parse_packet(message: &[u8]) -> Result<PacketSocket> {
    let (header, attributes) = message
        .split_at_checked(16)
        .ok_or_else(|| short("packet socket"))?;
    let mut socket = PacketSocket {
        inode: word(header, 4)?,
        ..PacketSocket::default()
    };
    for (kind, value) in self::attributes(attributes)? {
        match kind {
            1 => {
                for entry in value.chunks_exact(12 + PACKET_ADDRESS) {
                    let short = |at: usize| u16::from_ne_bytes([entry[at], entry[at + 1]]);
                    let len = usize::from(short(10)).min(PACKET_ADDRESS);
                    socket.memberships.push(PacketMembership {
                        interface: word(entry, 0)?,
                        count: word(entry, 4)?,
                        kind: short(8),
                        address: entry[12..12 + len].to_vec(),
                    });
                }
            }
            2 | 3 => socket.ring = true,
            _ => {}
        }
    }
    Ok(socket)
}

/// Kind and value of each attribute.
fn attributes(mut bytes: &[u8]) -> Result<Vec<(u16, &[u8])>> {
    let mut found = Vec::new();
    while let Some((head, _)) = bytes.split_at_checked(4) {
        let len = u16::from_ne_bytes([head[0], head[1]]) as usize;
        let kind = u16::from_ne_bytes([head[2], head[3]]);
        found.push((kind, bytes.get(4..len).ok_or_else(|| short("attribute"))?));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

/// All unix sockets of this thread's network namespace.
pub fn unix() -> Result<Vec<UnixSocket>> {
    // struct unix_diag_req: family, protocol, pad, states, ino, show, cookie.
    let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
    for word in [ALL_STATES, 0, UDIAG_SHOW, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    dump(&request)?.iter().map(|m| parse_unix(m)).collect()
}

/// All TCP sockets of this thread's network namespace, of IPv4 and IPv6, those waiting to be accepted included.
pub fn tcp() -> Result<Vec<TcpSocket>> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // struct inet_diag_req_v2: family, protocol, ext, pad, states, struct inet_diag_sockid.
        let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
        request.extend(ALL_STATES.to_ne_bytes());
        request.resize(56, 0);
        for message in dump(&request)? {
            all.push(parse_tcp(&message)?);
        }
    }
    Ok(all)
}

/// The keys by which TCP sockets of this thread's network namespace sign, by inode.
pub fn tcp_keys() -> Result<HashMap<u64, Vec<Signature>>> {
    /// Only who asks for `INET_DIAG_INFO` (2) is told of `INET_DIAG_MD5SIG`.
    const INFO: u8 = 1 << 1;
    const MD5SIG: u16 = 18;
    let mut keys = HashMap::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, INFO, 0];
        request.extend(ALL_STATES.to_ne_bytes());
        request.resize(56, 0);
        for message in dump(&request)? {
            let (header, rest) = message
                .split_at_checked(72)
                .ok_or_else(|| short("TCP socket"))?;
            let told = attributes(rest)?
                .into_iter()
                .find(|(kind, _)| *kind == MD5SIG);
            if let Some((_, told)) = told {
                keys.insert(word(header, 68)?.into(), signature::parse(told));
            }
        }
    }
    Ok(keys)
}

fn dump(request: &[u8]) -> Result<Vec<Vec<u8>>> {
    let what = || "list sockets by sock_diag".to_string();
    let socket = Socket::new(NETLINK_SOCK_DIAG).named(what)?;
    let mut packet = ((16 + request.len()) as u32).to_ne_bytes().to_vec();
    packet.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    packet.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    packet.extend([0; 8]);
    packet.extend(request);
    socket
        .send_to(&packet, &NetlinkAddress::new(0, 0), 0)
        .named(what)?;
    let mut found = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full().named(what)?;
        if split(&bytes, &mut found)? {
            return Ok(found);
        }
    }
}

/// Takes the payloads out of one datagram of netlink messages; true at the end of the list.
fn split(mut bytes: &[u8], found: &mut Vec<Vec<u8>>) -> Result<bool> {
    while let Some((header, _)) = bytes.split_at_checked(16) {
        let len = word(header, 0)? as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let payload = bytes.get(16..len).ok_or_else(|| short("message"))?;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let errno = -(word(payload, 0)? as i32);
                return Err(Error::errno("list sockets by sock_diag", errno));
            }
            SOCK_DIAG_BY_FAMILY => found.push(payload.to_vec()),
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads `struct unix_diag_msg` and its attributes.
pub fn parse_unix(message: &[u8]) -> Result<UnixSocket> {
    let (header, attributes) = message
        .split_at_checked(16)
        .ok_or_else(|| short("unix socket"))?;
    let mut socket = UnixSocket {
        kind: header[1],
        state: header[2],
        inode: word(header, 4)?,
        ..UnixSocket::default()
    };
    for (kind, value) in self::attributes(attributes)? {
        match kind {
            0 => socket.name = Some(name(value)),
            1 => socket.file = Some(word(value, 0)?),
            2 => socket.peer = Some(word(value, 0)?),
            3 => {
                socket.pending = value
                    .chunks_exact(4)
                    .map(|n| word(n, 0))
                    .collect::<Result<_>>()?
            }
            4 => {
                socket.receive_queue = word(value, 0)?;
                socket.send_queue = word(value, 4)?;
            }
            6 => socket.shutdown = value.first().copied().unwrap_or(0),
            _ => {}
        }
    }
    Ok(socket)
}

/// `sun_path`: a path ends at its NUL, an abstract name is all bytes.
fn name(value: &[u8]) -> Vec<u8> {
    match value.first() {
        Some(0) | None => value.to_vec(),
        Some(_) => value.split(|b| *b == 0).next().unwrap_or_default().to_vec(),
    }
}

/// Reads `struct inet_diag_msg`.
pub fn parse_tcp(message: &[u8]) -> Result<TcpSocket> {
    let header = message.get(..72).ok_or_else(|| short("TCP socket"))?;
    let (family, id) = (header[0], &header[4..52]);
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    Ok(TcpSocket {
        state: header[1],
        local: SocketAddr::new(address(family, &id[4..20]), port(0)),
        remote: SocketAddr::new(address(family, &id[20..36]), port(2)),
        inode: word(header, 68)?,
        receive_queue: word(header, 56)?,
    })
}

fn address(family: u8, bytes: &[u8]) -> IpAddr {
    if i32::from(family) == libc::AF_INET6 {
        let mut all = [0; 16];
        all.copy_from_slice(bytes);
        IpAddr::V6(Ipv6Addr::from(all))
    } else {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let four = bytes.get(at..at + 4).ok_or_else(|| short("number"))?;
    Ok(u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
}

fn short(what: &str) -> Error {
    Error::unreadable("sock_diag", format!("a {what} is cut short"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn captured_unix_messages_read_as_they_were() {
        let listener = "01 01 0a 00 39 30 00 00 01 00 00 00 00 00 00 00
            0d 00 00 00 2f 72 75 6e 2f 61 62 63 00 00 00 00
            0c 00 01 00 2a 00 00 00 17 00 00 00
            0c 00 03 00 3a 30 00 00 3b 30 00 00
            0c 00 04 00 02 00 00 00 80 00 00 00
            05 00 06 00 00 00 00 00";
        assert_eq!(
            parse_unix(&bytes(listener)).unwrap(),
            UnixSocket {
                kind: 1,
                state: 10,
                inode: 12345,
                name: Some(b"/run/abc".to_vec()),
                file: Some(42),
                peer: None,
                pending: vec![12346, 12347],
                receive_queue: 2,
                send_queue: 128,
                shutdown: 0,
            }
        );
        let stranger = "01 02 01 00 01 00 00 00 00 00 00 00 00 00 00 00
            07 00 00 00 00 61 62 00 08 00 02 00 07 00 00 00 05 00 06 00 03 00 00 00";
        let socket = parse_unix(&bytes(stranger)).unwrap();
        assert_eq!(socket.name.as_deref(), Some(&b"\0ab"[..]));
        assert_eq!((socket.kind, socket.peer, socket.shutdown), (2, Some(7), 3));
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        let whole =
            bytes("01 01 0a 00 39 30 00 00 01 00 00 00 00 00 00 00 08 00 02 00 07 00 00 00");
        for len in [0, 3, 15, 20, 22] {
            assert!(parse_unix(&whole[..len]).is_err(), "{len}");
        }
        assert!(parse_tcp(&whole).is_err());
        assert!(
            split(
                &bytes("ff 00 00 00 14 00 00 00 00 00 00 00 00 00 00 00"),
                &mut Vec::new()
            )
            .is_err()
        );
    }

    #[test]
    fn the_live_kernel_lists_peers_and_clients_not_yet_accepted() {
        let name = format!("ferry-diag-{}", std::process::id());
        let address = UnixAddress::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let client = UnixStream::connect_addr(&address).unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        let inode = |fd: BorrowedFd| crate::socket::inode(fd).unwrap() as u32;
        let all = unix().unwrap();
        let find = |fd: BorrowedFd| all.iter().find(|s| s.inode == inode(fd)).unwrap().clone();
        let found = find(listener.as_fd());
        assert_eq!(found.pending, [inode(client.as_fd())]);
        assert_eq!(found.name.unwrap()[1..], *name.as_bytes());
        assert_eq!(find(client.as_fd()).peer, Some(0));
        assert_eq!(find(a.as_fd()).peer, Some(inode(b.as_fd())));
    }

    #[test]
    fn the_live_kernel_lists_what_packet_sockets_listen_to() {
        let socket = crate::socket::create(libc::AF_PACKET, libc::SOCK_RAW, 0).unwrap();
        let fd = socket.as_fd();
        let lo = crate::socket::interface_index("lo").unwrap();
        let request = [lo.to_ne_bytes(), [1, 0, 0, 0], [0; 4], [0; 4]].concat();
        crate::socket::set_option(fd, libc::SOL_PACKET, 1, &request).unwrap();
        let all = packet().unwrap();
        let inode = crate::socket::inode(fd).unwrap() as u32;
        let found = all.iter().find(|s| s.inode == inode).unwrap();
        assert!(!found.ring);
        let [one] = &found.memberships[..] else {
            panic!("{found:?}")
        };
        assert_eq!((one.interface, one.count, one.kind), (lo, 1, 1));
    }

    #[test]
    fn the_live_kernel_lists_tcp_sockets() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(here).unwrap();
        let all = tcp().unwrap();
        assert!(all.iter().any(|s| s.state == 10 && s.local == here));
        let waiting = all
            .iter()
            .find(|s| s.state == 1 && s.local == here)
            .unwrap();
        assert_eq!(
            (waiting.remote, waiting.inode),
            (client.local_addr().unwrap(), 0)
        );
    }
}
