//! Raw IP sockets and ping sockets: raw(7), icmp(7).

use super::options::Options;
use super::udp::{Datagram, Membership};
use super::{Address, Version};
use serde::{Deserialize, Serialize};

/// One raw or ping socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// IPv4 or IPv6.
    pub version: Version,
    /// `SOCK_DGRAM` with `IPPROTO_ICMP`: a ping socket, whose port is the echo identifier.
    pub ping: bool,
    /// The protocol number.
    pub protocol: u8,
    /// What it is bound to; absent where it is not.
    pub local: Option<Address>,
    /// What it is connected to.
    pub remote: Option<Address>,
    /// The first packet not yet read; of IPv4 with its header, but not that of a ping socket. Absent also where the kernel
    /// would answer it, or change its tables, were it delivered again.
    pub unread: Option<Datagram>,
    /// Multicast groups joined.
    pub memberships: Vec<Membership>,
    /// Options set.
    pub options: Options,
}
