//! Links (net/core/rtnetlink.c), with all that is needed to make them again.

use crate::netlink::{
    Attribute, CREATE, EXCLUSIVE, NETLINK_ROUTE, Netlink, attribute, attributes, find, nested,
    text, word,
};
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const GETNSID: u16 = 90;
const NEWLINKPROP: u16 = 108;
/// `struct ifinfomsg`.
const HEADER: usize = 16;

const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK: u16 = 5;
const MASTER: u16 = 10;
const QUEUE_LENGTH: u16 = 13;
const LINKINFO: u16 = 18;
const ALIAS: u16 = 20;
const GROUP: u16 = 27;
const NET_NS_FD: u16 = 28;
const QUEUES_OUT: u16 = 31;
const QUEUES_IN: u16 = 32;
const LINK_NETNSID: u16 = 37;
const XDP: u16 = 43;
const OTHER_NAMES: u16 = 52;
const OTHER_NAME: u16 = 53;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_PEER: u16 = 1;
const XDP_ATTACHED: u16 = 2;
/// `NETNSA_NSID`, `NETNSA_FD`.
const NSID: u16 = 1;
const OF_FD: u16 = 3;

/// `IFLA_GSO_MAX_SEGS`, `IFLA_GSO_MAX_SIZE`, `IFLA_GRO_MAX_SIZE`, `IFLA_GSO_IPV4_MAX_SIZE`,
/// `IFLA_GRO_IPV4_MAX_SIZE`: what is told only where somebody has chosen it, with what a link has of itself.
const CHOSEN: [(u16, u32); 5] = [
    (40, 65535),
    (41, 65536),
    (58, 65536),
    (63, 65536),
    (64, 65536),
];

/// `IFF_UP`, `IFF_LOOPBACK`.
pub const UP: u32 = 1;
const LOOPBACK: u32 = 8;
/// `IFF_NOARP`, `IFF_PROMISC`, `IFF_ALLMULTI`, `IFF_MULTICAST`: flags that are set by hand.
pub const BY_HAND: u32 = 0x1380;

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// As `ip link` says it: `veth`, `bridge`; empty for a device and for `lo`.
    pub kind: String,
    /// `IFF_UP` and so on.
    pub flags: u32,
    /// Hardware address.
    pub mac: Vec<u8>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// How many packets may wait.
    pub queue_length: u32,
    /// Group of links.
    pub group: u32,
    /// A name for people.
    pub alias: Option<String>,
    /// Names it is found by as well.
    pub other_names: Vec<String>,
    /// Most queues it can have, out and in; nothing is told where they are zero.
    pub queues: [u32; 2],
    /// What else was chosen of it ([`CHOSEN`]), in the kernel's own words.
    pub chosen: Vec<u8>,
    /// The link it is a port of.
    pub master: Option<u32>,
    /// The link below, or the other end of a pair, by index.
    pub lower: Option<u32>,
    /// The network namespace that one is in, where it is another, by the number it has here ([`number`]).
    pub lower_network: Option<u32>,
    /// What is particular to its kind (`IFLA_INFO_DATA`).
    pub settings: Vec<u8>,
    /// What is particular to it as a port (`IFLA_INFO_SLAVE_DATA`).
    pub port: Vec<u8>,
    /// A program works on its packets (XDP).
    pub program: bool,
}

impl Link {
    /// It is `lo`.
    pub fn is_loopback(&self) -> bool {
        self.flags & LOOPBACK != 0
    }
}

/// All links of the namespace that the socket was opened in.
pub fn list(netlink: &mut Netlink) -> Result<Vec<Link>> {
    let all = netlink.list("list links", GETLINK, &[0; HEADER])?;
    all.iter()
        .filter(|m| m.kind == NEWLINK)
        .map(|m| parse(&m.body))
        .collect()
}

fn parse(body: &[u8]) -> Result<Link> {
    let (header, rest) = body
        .split_at_checked(HEADER)
        .ok_or_else(|| Error::unreadable("netlink", "a link is cut short"))?;
    let mut link = Link {
        index: word(header, 4).unwrap_or(0),
        flags: word(header, 8).unwrap_or(0),
        ..Link::default()
    };
    for a in attributes(rest) {
        match a.kind {
            ADDRESS => link.mac = a.value.to_vec(),
            NAME => link.name = a.text(),
            MTU => link.mtu = a.number(),
            LINK => link.lower = Some(a.number()).filter(|index| *index != 0),
            MASTER => link.master = Some(a.number()),
            QUEUE_LENGTH => link.queue_length = a.number(),
            GROUP => link.group = a.number(),
            ALIAS => link.alias = Some(a.text()),
            OTHER_NAMES => {
                let names = a.inner();
                let names = names.iter().filter(|a| a.kind == OTHER_NAME);
                link.other_names = names.map(Attribute::text).collect();
            }
            QUEUES_OUT => link.queues[0] = a.number(),
            QUEUES_IN => link.queues[1] = a.number(),
            kind if CHOSEN.iter().any(|(chosen, _)| *chosen == kind) => chosen(&mut link, &a),
            LINK_NETNSID => link.lower_network = Some(a.number()),
            XDP => {
                let attached = find(&a.inner(), XDP_ATTACHED);
                link.program = attached.is_some_and(|a| a.value.first().is_some_and(|n| *n != 0));
            }
            LINKINFO => about(&mut link, &a),
            _ => {}
        }
    }
    // A link without one below says itself.
    link.lower = link
        .lower
        .filter(|index| *index != link.index || link.lower_network.is_some());
    Ok(link)
}

fn chosen(link: &mut Link, a: &Attribute) {
    if !CHOSEN.contains(&(a.kind, a.number())) {
        link.chosen.extend(a.whole());
    }
}

fn about(link: &mut Link, info: &Attribute) {
    for a in info.inner() {
        match a.kind {
            INFO_KIND => link.kind = a.text(),
            INFO_DATA => link.settings = a.value.to_vec(),
            INFO_SLAVE_DATA => link.port = a.value.to_vec(),
            _ => {}
        }
    }
}

fn header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [index, flags, change] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// What any new link is told, one end of a pair included. Its index is asked for; `network`: where it will be, where that is
/// not the namespace that the socket was opened in.
fn begin(link: &Link, network: Option<BorrowedFd>) -> Vec<u8> {
    let mut body = header(link.index, 0, 0);
    body.extend(text(NAME, &link.name));
    body.extend(attribute(MTU, &link.mtu.to_ne_bytes()));
    if !link.mac.is_empty() {
        body.extend(attribute(ADDRESS, &link.mac));
    }
    body.extend(attribute(QUEUE_LENGTH, &link.queue_length.to_ne_bytes()));
    for (kind, number) in [QUEUES_OUT, QUEUES_IN].into_iter().zip(link.queues) {
        if number != 0 {
            body.extend(attribute(kind, &number.to_ne_bytes()));
        }
    }
    if let Some(network) = network {
        body.extend(attribute(NET_NS_FD, &network.as_raw_fd().to_ne_bytes()));
    }
    body
}

/// Makes a link, switched off, with this one below where there is one.
pub fn make(netlink: &mut Netlink, link: &Link, lower: Option<u32>) -> Result<()> {
    make_in(netlink, link, lower, None)
}

/// The same in another network namespace; what is below is in this one.
pub fn make_in(
    netlink: &mut Netlink,
    link: &Link,
    lower: Option<u32>,
    network: Option<BorrowedFd>,
) -> Result<()> {
    let mut body = begin(link, network);
    if let Some(index) = lower {
        body.extend(attribute(LINK, &index.to_ne_bytes()));
    }
    let mut info = vec![text(INFO_KIND, &link.kind)];
    if !link.settings.is_empty() {
        info.push(attribute(INFO_DATA | 0x8000, &settable(link)));
    }
    body.extend(nested(LINKINFO, &info));
    new(netlink, link, &body)
}

/// Makes a pair of links, both switched off: one in this namespace, the other here too or in another network namespace.
pub fn make_pair(
    netlink: &mut Netlink,
    one: &Link,
    two: &Link,
    network: Option<BorrowedFd>,
) -> Result<()> {
    let mut body = begin(one, None);
    let peer = attribute(VETH_PEER | 0x8000, &begin(two, network));
    body.extend(nested(
        LINKINFO,
        &[text(INFO_KIND, "veth"), nested(INFO_DATA, &[peer])],
    ));
    new(netlink, one, &body)
}

fn new(netlink: &mut Netlink, link: &Link, body: &[u8]) -> Result<()> {
    let what = format!("make the link {} of kind {}", link.name, link.kind);
    netlink.change(&what, NEWLINK, CREATE | EXCLUSIVE, body)
}

/// Makes a link (by index, `flags` and all) a port of another, with the settings of a port.
pub fn enslave(netlink: &mut Netlink, link: &Link, index: u32, master: u32) -> Result<()> {
    let what = format!("make the link {} a port of another", link.name);
    let mut body = header(index, 0, 0);
    body.extend(attribute(MASTER, &master.to_ne_bytes()));
    netlink.change(&what, NEWLINK, 0, &body)?;
    if link.port.is_empty() {
        return Ok(());
    }
    let mut body = header(index, 0, 0);
    let of_port = attribute(INFO_SLAVE_DATA | 0x8000, &writable(&link.port));
    body.extend(nested(LINKINFO, &[text(4, "bridge"), of_port]));
    netlink.change(&what, NEWLINK, 0, &body)
}

/// Of a bridge's port (`IFLA_BRPORT_*`): what can be set, of which the state is the bridge's own affair. Identifiers,
/// timers and counts are only to be read.
fn writable(port: &[u8]) -> Vec<u8> {
    without(port, |kind| matches!(kind, 1 | 13..=23 | 35 | 36 | 38 | 41))
}

/// What is particular to a kind, without what is only to be read: of a bridge (`IFLA_BR_*`) and of a macvlan
/// (`IFLA_MACVLAN_*`).
fn settable(link: &Link) -> Vec<u8> {
    let mut settings = without(&link.settings, |kind| match link.kind.as_str() {
        // Filtering by VLAN (7) is refused even where it is only to be off, by a kernel without it; those that have it
        // are not taken.
        "bridge" => matches!(kind, 7 | 10..=19 | 40 | MULTI_BOOLOPT | 47 | 48),
        "macvlan" | "macvtap" => matches!(kind, 6 | 8),
        _ => false,
    });
    if link.kind == "macvlan" && find(&attributes(&link.settings), MACVLAN_SOURCES).is_some() {
        settings.extend(attribute(MACVLAN_TO_DO, &MACVLAN_SET.to_ne_bytes()));
    }
    if let Some(options) = find(&attributes(&link.settings), MULTI_BOOLOPT)
        && link.kind == "bridge"
    {
        settings.extend(bridge_options(&options));
    }
    settings
}

/// `IFLA_MACVLAN_MACADDR_DATA`, whose packets a macvlan takes; `IFLA_MACVLAN_MACADDR_MODE`, `MACVLAN_MACADDR_SET`.
const MACVLAN_SOURCES: u16 = 5;
const MACVLAN_TO_DO: u16 = 3;
const MACVLAN_SET: u32 = 3;

/// `IFLA_BR_MULTI_BOOLOPT`.
const MULTI_BOOLOPT: u16 = 46;

/// `struct br_boolopt_multi`, with those options named that are on: it is refused where it names one that the kernel lacks.
fn bridge_options(a: &Attribute) -> Vec<u8> {
    attribute(
        a.kind,
        &[a.number().to_ne_bytes(), a.number().to_ne_bytes()].concat(),
    )
}

fn without(settings: &[u8], readable: impl Fn(u16) -> bool) -> Vec<u8> {
    let all = attributes(settings);
    let kept = all.iter().filter(|a| !readable(a.kind));
    kept.flat_map(Attribute::whole).collect()
}

/// Sets flags, group, names and what was chosen of a link by its index.
pub fn settle(netlink: &mut Netlink, link: &Link, index: u32) -> Result<()> {
    let what = format!("set up the link {}", link.name);
    let mut body = header(index, link.flags & (BY_HAND | UP), BY_HAND | UP);
    body.extend(attribute(GROUP, &link.group.to_ne_bytes()));
    if link.kind.is_empty() && link.mtu != 0 {
        body.extend(attribute(MTU, &link.mtu.to_ne_bytes()));
    }
    if link.kind == "tun" {
        // It was made without being told.
        body.extend(attribute(MTU, &link.mtu.to_ne_bytes()));
        body.extend(attribute(QUEUE_LENGTH, &link.queue_length.to_ne_bytes()));
        if !link.mac.is_empty() {
            body.extend(attribute(ADDRESS, &link.mac));
        }
    }
    if let Some(alias) = &link.alias {
        body.extend(text(ALIAS, alias));
    }
    let chosen = without(&link.chosen, |kind| !CHOSEN.iter().any(|(c, _)| *c == kind));
    body.extend(chosen);
    netlink.change(&what, NEWLINK, 0, &body)?;
    for name in &link.other_names {
        let mut body = header(index, 0, 0);
        body.extend(nested(OTHER_NAMES, &[text(OTHER_NAME, name)]));
        // It is settled once more at times.
        match netlink.change(&what, NEWLINKPROP, CREATE | EXCLUSIVE, &body) {
            Err(e) if e.raw() == Some(libc::EEXIST) => {}
            told => told?,
        }
    }
    Ok(())
}

/// Whether a bridge filters by VLAN (`IFLA_BR_VLAN_FILTERING`).
pub fn filters_vlans(bridge: &Link) -> bool {
    find(&attributes(&bridge.settings), 7).is_some_and(|a| a.value.first() != Some(&0))
}

/// What links here call another network namespace ([`Link::lower_network`]); none: nothing here speaks of it.
pub fn number(netlink: &mut Netlink, network: BorrowedFd) -> Result<Option<u32>> {
    // struct rtgenmsg, padded.
    let mut body = vec![0; 4];
    body.extend(attribute(OF_FD, &network.as_raw_fd().to_ne_bytes()));
    let answer = netlink.ask("number a network namespace", GETNSID, &body)?;
    let all = attributes(answer.body.get(4..).unwrap_or_default());
    let number = find(&all, NSID).map(|a| a.number());
    Ok(number.filter(|number| *number as i32 >= 0))
}

/// Opens a socket to the tables of links and ways.
pub fn open() -> Result<Netlink> {
    Netlink::open(NETLINK_ROUTE)
}
