//! Packet sockets without rings: packet(7). Packets not yet read are lost, as a busy interface may lose them.

use super::options::Options;
use crate::bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One packet socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packet {
    /// With or without the link-level header.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// `ETH_P_*`, in host byte order.
    pub protocol: u16,
    /// The interface it hears, by its name; absent where it hears all.
    pub interface: Option<String>,
    /// What it has interfaces listen to (`PACKET_ADD_MEMBERSHIP`).
    pub memberships: Vec<Membership>,
    /// Its group (`PACKET_FANOUT`): number, way of sharing and flags.
    pub fanout: Option<i32>,
    /// Options set.
    pub options: Options,
}

/// The type of a packet socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `SOCK_RAW`.
    Raw,
    /// `SOCK_DGRAM`.
    Dgram,
}

/// What an interface is to listen to (`struct packet_diag_mclist` in include/uapi/linux/packet_diag.h).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The interface's name.
    pub interface: String,
    /// `PACKET_MR_MULTICAST` (0), `PACKET_MR_PROMISC` (1), `PACKET_MR_ALLMULTI` (2), `PACKET_MR_UNICAST` (3).
    #[serde(rename = "type")]
    pub kind: u16,
    /// The hardware address, where there is one.
    pub address: Bytes,
    /// How often it was asked for.
    pub count: u32,
}
