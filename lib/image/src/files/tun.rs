//! `/dev/net/tun`: a descriptor in which a network link ends. Packets on their way through it are lost, as a network may
//! lose them.

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tun {
    /// Of the node it was opened by, from the root of its mount namespace.
    pub path: Name,
    /// The link; absent where it is attached to none yet.
    pub link: Option<Attached>,
}

/// What it is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// The link's name.
    pub name: String,
    /// `IFF_TUN`, `IFF_TAP`, `IFF_NO_PI`, `IFF_PERSIST` and so on (`TUNGETIFF`).
    pub flags: u16,
    /// Bytes of a packet's header (`TUNGETVNETHDRSZ`).
    pub header: i32,
    /// Bytes that may wait (`TUNGETSNDBUF`).
    pub room: i32,
}
