//! Links, addresses, routes and packet filters (network_namespaces(7)), from rtnetlink(7), nf_tables and ctnetlink.

use crate::bytes::Bytes;
use crate::ids::NsId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// An own network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Links, `lo` first.
    pub links: Vec<Link>,
    /// What is told to the kernel's tables.
    pub tables: Tables,
    /// The rule set of nf_tables, in the order in which it is made: it takes effect as a whole.
    pub filter: Vec<Filter>,
    /// Queueing disciplines that somebody has chosen.
    #[serde(default)]
    pub traffic: Box<Traffic>,
    /// The sets of ipset(8), as `IPSET_CMD_SAVE` lists them: what follows the header of each message.
    #[serde(default)]
    pub sets: Vec<Bytes>,
    /// The tables of iptables-legacy and its kin.
    #[serde(default)]
    pub legacy: Vec<LegacyTable>,
    /// Connections that the packet filter knows: what follows the header of `IPCTNL_MSG_CT_NEW`.
    pub connections: Vec<Bytes>,
    /// Files under `/proc/sys/net` that differ from what a new namespace has.
    pub sysctls: BTreeMap<String, String>,
}

/// What is told to the kernel's tables, each entry in the kernel's own words: what follows the header of the message
/// named. Indexes of links in them are those of [`Link::index`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// `RTM_NEWADDR`, those left out that the kernel makes of hardware addresses.
    pub addresses: Vec<Bytes>,
    /// `RTM_NEWNEXTHOP`, groups last.
    pub next_hops: Vec<Bytes>,
    /// `RTM_NEWROUTE` of all tables, those left out that come with addresses or from routers.
    pub routes: Vec<Bytes>,
    /// `RTM_NEWRULE`, all of them.
    pub rules: Vec<Bytes>,
    /// `RTM_NEWNEIGH`: permanent ones, those answered for, and what bridges were told.
    pub neighbours: Vec<Bytes>,
}

/// One object of nf_tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// `NFT_MSG_NEWTABLE` and so on.
    pub message: u16,
    /// What follows the message's header.
    pub body: Bytes,
}

/// Traffic control (tc(8)), in the kernel's own words: what follows the header of the message named. Indexes of links in them are
/// those of [`Link::index`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// `RTM_NEWQDISC`.
    pub disciplines: Vec<Bytes>,
    /// `RTM_NEWTCLASS`.
    pub classes: Vec<Bytes>,
    /// `RTM_NEWTFILTER`.
    pub filters: Vec<Bytes>,
}

/// A table of iptables-legacy or its kin, in the kernel's own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegacyTable {
    /// Whose.
    pub family: LegacyFamily,
    /// `struct ipt_getinfo`: its name, hooks and size.
    pub about: Bytes,
    /// Its entries (`struct ipt_entry`), with their counters.
    pub entries: Bytes,
}

/// Whose tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegacyFamily {
    /// iptables.
    Ipv4,
    /// ip6tables.
    Ipv6,
    /// arptables.
    Arp,
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
    /// `IFF_NOARP`, `IFF_PROMISC`, `IFF_ALLMULTI`, `IFF_MULTICAST`.
    pub flags: u32,
    /// How many packets may wait (`IFLA_TXQLEN`).
    pub queue_length: u32,
    /// Its group (`IFLA_GROUP`).
    pub group: u32,
    /// A name for people (`IFLA_IFALIAS`).
    pub alias: Option<String>,
    /// Names it is found by as well (`IFLA_ALT_IFNAME`).
    #[serde(default)]
    pub other_names: Vec<String>,
    /// Of a pair here: its queues, where it uses others than one each way.
    #[serde(default)]
    pub queues: Option<Queues>,
    /// What else somebody has chosen of it: `IFLA_GSO_MAX_SIZE` and the like.
    #[serde(default)]
    pub chosen: Bytes,
    /// What it does itself, of what can be chosen (ethtool(8)).
    #[serde(default)]
    pub features: Box<Features>,
    /// The bridge it is a port of, by index.
    pub master: Option<u32>,
    /// What is particular to its kind (`IFLA_INFO_DATA`).
    pub settings: Bytes,
    /// What is particular to it as a port (`IFLA_INFO_SLAVE_DATA`).
    pub port: Bytes,
    /// Its addresses, link-local ones left out: what it is reached by. [`Tables::addresses`] has all of them.
    pub addresses: Vec<Address>,
}

/// Queues of a link, incoming and outgoing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queues {
    /// As many as it can have.
    pub most: [u32; 2],
    /// As many as it uses.
    pub used: [u32; 2],
}

/// What a link does itself, by the kernel's names: `tx-checksum-ip-generic`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// It is to do these.
    pub on: Vec<String>,
    /// It is to leave these to others.
    pub off: Vec<String>,
}

/// Kinds of links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// `lo`.
    Loopback,
    /// It leads outside: one end of a pair with the other one there, or a macvlan on a link that is there. It is made by
    /// whatever makes the container's network.
    Veth,
    /// One end of a pair with both ends here.
    Pair {
        /// The other end, by index.
        peer: u32,
    },
    /// One end of a pair whose other end is in another network of the container: that of this id, or the container's own.
    Across {
        /// The other network; absent: the container's own.
        network: Option<NsId>,
        /// The other end, by its index there.
        peer: u32,
    },
    /// Of the container's own network: it is tied to a link of a network inside the container, and made with that one.
    Inward,
    /// It ends in a descriptor, or nobody holds its other end (`/dev/net/tun`).
    Tun,
    /// A bridge.
    Bridge,
    /// A link that swallows everything.
    Dummy,
    /// A link to which what other links receive is redirected (`ifb`).
    Ifb,
    /// Another hardware address of a link that is here too.
    Macvlan {
        /// That link, by index.
        lower: u32,
    },
    /// The same, and that link is in another network of the container.
    MacvlanAcross {
        /// The other network; absent: the container's own.
        network: Option<NsId>,
        /// That link, by its index there.
        lower: u32,
    },
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
