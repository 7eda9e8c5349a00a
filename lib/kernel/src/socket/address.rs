//! Socket addresses as the kernel lays them out, and back: `sockaddr_in`, `sockaddr_in6`, `sockaddr_un`, `sockaddr_nl`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// `sun_path` holds this many bytes (unix(7)).
pub const UNIX_PATH_MAX: usize = 108;

fn family(bytes: &[u8]) -> Option<i32> {
    Some(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]).into())
}

/// To disconnect a datagram socket.
pub fn unspecified() -> Vec<u8> {
    vec![0; 16]
}

/// `sockaddr_in` or `sockaddr_in6`.
pub fn internet(address: &SocketAddr) -> Vec<u8> {
    match address {
        SocketAddr::V4(v4) => {
            let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
            bytes
        }
        SocketAddr::V6(v6) => {
            let mut bytes = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
            bytes
        }
    }
}

/// Reads `sockaddr_in` or `sockaddr_in6`.
pub fn parse_internet(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    match family(bytes)? {
        libc::AF_INET => {
            let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(ip), port)))
        }
        libc::AF_INET6 => {
            let flow: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope: [u8; 4] = bytes.get(24..28)?.try_into().ok()?;
            Some(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(ip),
                port,
                u32::from_be_bytes(flow),
                u32::from_ne_bytes(scope),
            )))
        }
        _ => None,
    }
}

/// `sockaddr_un` from `sun_path`: an abstract name with its leading NUL, or a path, which gets the NUL the kernel adds.
/// `None` where it is too long or empty.
pub fn unix(path: &[u8]) -> Option<Vec<u8>> {
    if path.is_empty() || path.len() > UNIX_PATH_MAX {
        return None;
    }
    let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    bytes.extend(path);
    if path.first() != Some(&0) && path.len() < UNIX_PATH_MAX {
        bytes.push(0);
    }
    Some(bytes)
}

/// Reads `sun_path`; empty where the socket has no name.
pub fn parse_unix(bytes: &[u8]) -> Option<&[u8]> {
    if family(bytes)? != libc::AF_UNIX {
        return None;
    }
    let path = bytes.get(2..)?;
    match path.first() {
        Some(0) | None => Some(path),
        Some(_) => path.split(|b| *b == 0).next(),
    }
}

/// `sockaddr_nl`: port and the first 32 groups.
pub fn netlink(port: u32, groups: u32) -> Vec<u8> {
    let mut bytes = (libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
    bytes.extend([0; 2]);
    bytes.extend(port.to_ne_bytes());
    bytes.extend(groups.to_ne_bytes());
    bytes
}

/// Reads `sockaddr_nl`: port and groups.
pub fn parse_netlink(bytes: &[u8]) -> Option<(u32, u32)> {
    if family(bytes)? != libc::AF_NETLINK {
        return None;
    }
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some((word(4)?, word(8)?))
}

/// `sockaddr_ll` for binding: protocol in host byte order, and interface index.
pub fn packet(protocol: u16, interface: u32) -> Vec<u8> {
    let mut bytes = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    bytes.extend(protocol.to_be_bytes());
    bytes.extend(interface.to_ne_bytes());
    bytes.resize(20, 0);
    bytes
}

/// Reads protocol and interface index of `sockaddr_ll`.
pub fn parse_packet(bytes: &[u8]) -> Option<(u16, u32)> {
    if family(bytes)? != libc::AF_PACKET {
        return None;
    }
    let protocol = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    Some((
        protocol,
        u32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?),
    ))
}

/// For people.
pub fn text(bytes: &[u8]) -> String {
    if let Some(address) = parse_internet(bytes) {
        return address.to_string();
    }
    match parse_unix(bytes) {
        Some([0, name @ ..]) => format!("@{}", String::from_utf8_lossy(name)),
        Some(path) => String::from_utf8_lossy(path).into_owned(),
        None => format!("an address of family {}", family(bytes).unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internet_addresses_are_laid_out_as_the_kernel_does() {
        let v4: SocketAddr = "1.2.3.4:80".parse().unwrap();
        assert_eq!(
            internet(&v4),
            [2, 0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        for text in ["1.2.3.4:80", "[::1]:65535", "[fe80::1%3]:7", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(parse_internet(&internet(&address)), Some(address), "{text}");
        }
        assert_eq!(parse_internet(&[2, 0, 0]), None);
    }

    #[test]
    fn unix_names_keep_every_byte() {
        for name in [&b"/run/x"[..], b"\0abstract\0\0", b"relative", &[b'p'; 108]] {
            assert_eq!(parse_unix(&unix(name).unwrap()), Some(name));
        }
        assert_eq!(unix(&[b'p'; 109]), None);
        assert_eq!(parse_unix(&[1, 0]), Some(&b""[..]));
        assert_eq!(text(&unix(b"\0x").unwrap()), "@x");
    }

    #[test]
    fn netlink_and_packet_addresses_survive() {
        assert_eq!(parse_netlink(&netlink(7, 9)), Some((7, 9)));
        assert_eq!(parse_packet(&packet(0x800, 3)), Some((0x800, 3)));
    }
}
