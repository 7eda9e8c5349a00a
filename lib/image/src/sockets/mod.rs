//! Sockets: one record per family. A socket is one kind of open file, so each record hangs from an entry of `files.json`,
//! which has the status flags and the owner of signals.

pub mod netlink;
pub mod options;
pub mod packet;
pub mod raw;
pub mod tcp;
pub mod udp;
pub mod unix;

use serde::{Deserialize, Serialize};

/// A socket of any family we know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum Socket {
    /// `AF_UNIX`: unix(7).
    Unix(unix::Unix),
    /// `AF_INET` or `AF_INET6`, `SOCK_STREAM`: tcp(7).
    Tcp(tcp::Tcp),
    /// `AF_INET` or `AF_INET6`, `SOCK_DGRAM`: udp(7), UDP-Lite.
    Udp(udp::Udp),
    /// `AF_NETLINK`: netlink(7).
    Netlink(netlink::Netlink),
    /// `AF_INET` or `AF_INET6`, `SOCK_RAW`, and the ping sockets of icmp(7): raw(7).
    Raw(raw::Raw),
    /// `AF_PACKET`: packet(7).
    Packet(packet::Packet),
}

/// A socket of the internet families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`, also where it speaks IPv4 by mapped addresses.
    V6,
}

/// An internet address and port as the socket itself has it: `sockaddr_in` or `sockaddr_in6`. A port of 0 is none; for raw
/// sockets it is the protocol number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Unspecified (0.0.0.0, ::) where there is none.
    pub ip: std::net::IpAddr,
    /// In host byte order.
    pub port: u16,
    /// Interface index of a link-local IPv6 address (`sin6_scope_id`), else 0.
    pub scope: u32,
}

impl Address {
    /// Neither address nor port.
    pub fn is_unspecified(&self) -> bool {
        self.ip.is_unspecified() && self.port == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::File;

    #[test]
    fn a_socket_survives_json_and_unknown_fields_do_not() {
        let socket = Socket::Packet(packet::Packet {
            kind: packet::Kind::Raw,
            protocol: 3,
            interface: None,
            memberships: Vec::new(),
            fanout: None,
            options: options::Options::default(),
        });
        let socket = File::Socket(socket);
        let json = serde_json::to_string(&socket).unwrap();
        assert_eq!(serde_json::from_str::<File>(&json).unwrap(), socket);
        let more = json.replacen('{', "{\"colour\":1,", 1);
        assert!(serde_json::from_str::<File>(&more).is_err(), "{more}");
        let other = json.replace("\"packet\"", "\"vsock\"");
        assert!(serde_json::from_str::<File>(&other).is_err(), "{other}");
    }
}
