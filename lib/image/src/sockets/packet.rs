//! Packet sockets without rings: packet(7). Packets not yet read are lost, as a busy interface may lose them.

use super::options::Options;
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
    /// Interface index; 0 where it hears all.
    pub interface: u32,
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
