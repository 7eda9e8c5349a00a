//! Raw IP sockets and ping sockets: raw(7), icmp(7). What they had not yet read is lost, as a busy network may lose it.

use super::options::Options;
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
    /// Options set.
    pub options: Options,
}
