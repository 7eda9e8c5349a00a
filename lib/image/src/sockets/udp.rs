//! UDP sockets: udp(7).

use super::options::Options;
use super::{Address, Version};
use crate::bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One UDP or UDP-Lite socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Udp {
    /// IPv4 or IPv6.
    pub version: Version,
    /// UDP-Lite (`IPPROTO_UDPLITE`).
    pub lite: bool,
    /// What it is bound to; absent where it is not.
    pub local: Option<Address>,
    /// What it is connected to.
    pub remote: Option<Address>,
    /// `SHUT_RD` is 1, `SHUT_WR` is 2, both 3.
    pub shutdown: u8,
    /// Datagrams not yet read, the oldest first.
    pub queue: Vec<Datagram>,
    /// Multicast groups joined.
    pub memberships: Vec<Membership>,
    /// Options set.
    pub options: Options,
}

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Datagram {
    /// Who sent it.
    pub from: Address,
    /// What it says.
    pub bytes: Bytes,
}

/// One multicast group (`MCAST_MSFILTER`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The group.
    pub group: IpAddr,
    /// The interface's name, which is the same after a move while its index is not.
    pub interface: String,
    /// `MCAST_INCLUDE` these sources, or else `MCAST_EXCLUDE` them.
    pub include: bool,
    /// Sources named.
    pub sources: Vec<IpAddr>,
}
