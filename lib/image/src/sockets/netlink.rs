//! Netlink sockets: netlink(7).

use super::options::Options;
use serde::{Deserialize, Serialize};

/// One netlink socket. Unread messages are not in it: they speak of the kernel it leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Netlink {
    /// `SOCK_RAW` or `SOCK_DGRAM`, which are the same but for what `SO_TYPE` says.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// `NETLINK_ROUTE` (0) and so on.
    pub protocol: u8,
    /// Its port (`nl_pid`); absent where it is not bound.
    pub port: Option<u32>,
    /// Multicast groups joined (`NETLINK_LIST_MEMBERSHIPS`), from 1.
    pub groups: Vec<u32>,
    /// The port it is connected to, where that is not the kernel's 0.
    pub peer: Option<u32>,
    /// Messages of its groups were not yet read: the program is to hear that it missed some (`ENOBUFS`).
    #[serde(default)]
    pub missed: bool,
    /// Options set.
    pub options: Options,
}

/// The type of a netlink socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `SOCK_RAW`.
    Raw,
    /// `SOCK_DGRAM`.
    Dgram,
}
