//! Links, addresses and routes (network_namespaces(7)), from rtnetlink(7).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// An own network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Links, `lo` first.
    pub links: Vec<Link>,
    /// Unicast routes that are not there of themselves.
    pub routes: Vec<Route>,
    /// Files under `/proc/sys/net` that differ from what a new namespace has.
    pub sysctls: BTreeMap<String, String>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its index in the namespace.
    pub index: u32,
    /// Its name: `eth0`.
    pub name: String,
    /// Of what kind.
    pub kind: LinkKind,
    /// Its hardware address, as `02:42:0a:00:00:02`; empty where it has none.
    pub mac: String,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Switched on (`IFF_UP`).
    pub up: bool,
    /// Its addresses, link-local ones left out.
    pub addresses: Vec<Address>,
}

/// Kinds of links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// `lo`.
    Loopback,
    /// One end of a pair, the other one outside.
    Veth,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to; absent for the default route.
    pub destination: Option<Address>,
    /// By way of; absent where directly.
    pub gateway: Option<IpAddr>,
    /// Out of the link of this name.
    pub link: String,
    /// Metric; absent where the kernel's own.
    pub metric: Option<u32>,
    /// IP version, 4 or 6.
    pub version: u8,
}
