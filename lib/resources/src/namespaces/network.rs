//! Links, addresses, routes and packet filters (network_namespaces(7)): by rtnetlink(7), nf_tables and ctnetlink. Most of it
//! is kept in the kernel's own words and told again in the same; links have their indexes again where these are free.

use crate::{Blocker, Error, Result};
use image::bytes::Bytes;
use image::namespaces::network::{
    Address, Features, Filter, LegacyFamily, LegacyTable, Link, LinkKind, Network, Queues, Tables,
    Traffic,
};
use kernel::network::links::{self, BY_HAND, UP};
use kernel::network::tables::{self, Table};
use kernel::network::{conntrack, ethtool, ipset, legacy, others, traffic};
use kernel::nftables::ruleset;
use kernel::rtnetlink::{self, Rtnetlink};
use kernel::{Namespace, Pid, within};
use std::collections::HashMap;
use std::net::IpAddr;

mod across;
mod give;
mod sysctls;

pub use across::{Others, There, inside, settle};
pub use give::{Uplinks, loopback, restore, restore_under, resume};

/// The beginning of the names of our own tables of nf_tables, which stay behind.
const OURS: &str = "ferry-";

/// Links that tunnels' modules make in every network namespace (net.core.fb_tunnels_only_for_init_net).
const FALLBACKS: [&str; 10] = [
    "tunl0",
    "gre0",
    "gretap0",
    "erspan0",
    "sit0",
    "ip6tnl0",
    "ip6gre0",
    "ip_vti0",
    "ip6_vti0",
    "ip6gretap0",
];

/// Takes the network of the process's namespace, whose links may lead into these others of the container's.
pub fn dump(root: Pid, others: &Others) -> Result<Network> {
    let seen = look(root, others)?;
    let mtus = seen.links.iter().map(|l| (&l.name[..], l.mtu)).collect();
    let settings = within(root, &[Namespace::Net], || sysctls::changed(&mtus))??;
    let mut links: Vec<Link> = seen
        .links
        .iter()
        .filter_map(|link| Some(record(link, kind(link, &seen.others)?, &seen)))
        .collect();
    links.sort_by_key(|link| (link.kind != LinkKind::Loopback, link.index));
    let [addresses, next_hops, routes, rules, neighbours] = seen.tables;
    Ok(Network {
        links,
        tables: Tables {
            addresses,
            next_hops,
            routes,
            rules,
            neighbours,
        },
        filter: seen.filter,
        traffic: Box::new(Traffic {
            disciplines: bytes(seen.traffic.disciplines),
            classes: bytes(seen.traffic.classes),
            filters: bytes(seen.traffic.filters),
        }),
        sets: seen.sets,
        legacy: seen.legacy.into_iter().map(old_table).collect(),
        connections: seen.connections,
        sysctls: settings,
    })
}

fn bytes(all: Vec<Vec<u8>>) -> Vec<Bytes> {
    all.into_iter().map(Bytes).collect()
}

fn old_table(table: legacy::Table) -> LegacyTable {
    LegacyTable {
        family: match table.family {
            legacy::Family::V4 => LegacyFamily::Ipv4,
            legacy::Family::V6 => LegacyFamily::Ipv6,
            legacy::Family::Arp => LegacyFamily::Arp,
        },
        about: Bytes(table.about),
        entries: Bytes(table.entries),
    }
}

fn record(link: &links::Link, kind: LinkKind, seen: &Seen) -> Link {
    let tool = seen.by_ethtool.get(&link.index).cloned();
    let (features, used) = tool.unwrap_or_default();
    let [outgoing, incoming] = link.queues;
    let pair = matches!(
        kind,
        LinkKind::Pair { .. } | LinkKind::Across { .. } | LinkKind::Inward
    );
    let queues = used.filter(|used| pair && link.kind == "veth" && *used != [1, 1]);
    Link {
        kind,
        other_names: link.other_names.clone(),
        queues: queues.map(|used| Queues {
            most: [incoming, outgoing],
            used,
        }),
        chosen: match kind {
            // Whoever makes it knows how much may go by it.
            LinkKind::Veth => Bytes::default(),
            _ => Bytes(link.chosen.clone()),
        },
        features: Box::new(Features {
            on: features.on,
            off: features.off,
        }),
        addresses: seen
            .addresses
            .iter()
            .filter(|a| a.link == link.index && (link.is_loopback() || !a.narrow))
            .map(|a| Address {
                address: a.address,
                prefix: a.prefix,
            })
            .collect(),
        index: link.index,
        mac: text(&link.mac),
        mtu: link.mtu,
        up: link.flags & UP != 0,
        flags: link.flags & BY_HAND,
        queue_length: link.queue_length,
        group: link.group,
        alias: link.alias.clone(),
        master: link.master,
        settings: Bytes(link.settings.clone()),
        port: Bytes(link.port.clone()),
        name: link.name.clone(),
    }
}

/// In the order in which they are filled.
const TABLES: [Table; 5] = [
    Table::Addresses,
    Table::NextHops,
    Table::Routes,
    Table::Rules,
    Table::Neighbours,
];

/// What there is, as it is seen.
struct Seen {
    others: across::Numbered,
    links: Vec<links::Link>,
    addresses: Vec<rtnetlink::Address>,
    /// Features, and queues in use, of each link by index.
    by_ethtool: HashMap<u32, (ethtool::Features, Option<[u32; 2]>)>,
    /// In the order of [`TABLES`].
    tables: [Vec<Bytes>; 5],
    filter: Vec<Filter>,
    connections: Vec<Bytes>,
    traffic: traffic::Traffic,
    unmovable: Vec<String>,
    sets: Vec<Bytes>,
    legacy: Vec<legacy::Table>,
}

fn look(root: Pid, others: &Others) -> Result<Seen> {
    let legacy = legacy::Names::of(root);
    let seen = within(root, &[Namespace::Net], || -> kernel::Result<Seen> {
        let mut netlink = links::open()?;
        let mut tables: [Vec<Bytes>; 5] = Default::default();
        for (table, entries) in TABLES.into_iter().zip(&mut tables) {
            *entries = tables::list(&mut netlink, table)?
                .into_iter()
                .map(Bytes)
                .collect();
        }
        let filter = ruleset::list(OURS)?
            .into_iter()
            .map(|object| Filter {
                message: object.kind,
                body: Bytes(object.body),
            })
            .collect();
        let links = links::list(&mut netlink)?;
        let tool = ethtool::Ethtool::open()?;
        let by_ethtool = links.iter().filter_map(|link| {
            // Some kinds of links have nothing to choose.
            let features = tool.features(&link.name).ok()?;
            Some((link.index, (features, tool.queues(&link.name))))
        });
        Ok(Seen {
            by_ethtool: by_ethtool.collect(),
            others: others.numbered(&mut netlink)?,
            links,
            addresses: Rtnetlink::open()?.addresses()?,
            tables,
            filter,
            connections: conntrack::list()?.into_iter().map(Bytes).collect(),
            traffic: traffic::list(&mut netlink)?,
            unmovable: others::list()?,
            sets: ipset::list()?.into_iter().map(Bytes).collect(),
            legacy: legacy.tables()?,
        })
    })??;
    Ok(seen)
}

fn kind(link: &links::Link, others: &across::Numbered) -> Option<LinkKind> {
    let here = link.lower_network.is_none();
    match (link.kind.as_str(), link.lower) {
        _ if link.is_loopback() => Some(LinkKind::Loopback),
        ("veth", Some(peer)) if here => Some(LinkKind::Pair { peer }),
        ("macvlan", Some(lower)) if here => Some(LinkKind::Macvlan { lower }),
        ("veth" | "macvlan", Some(below)) if let Some(kind) = others.kind(link, below) => {
            Some(kind)
        }
        ("macvlan", _) if others.has(link) => None,
        ("veth", _) => Some(LinkKind::Veth),
        ("macvlan", _) => Some(LinkKind::Veth),
        ("tun", _) => Some(LinkKind::Tun),
        ("bridge", _) => Some(LinkKind::Bridge),
        ("dummy", _) => Some(LinkKind::Dummy),
        ("ifb", _) => Some(LinkKind::Ifb),
        _ => None,
    }
}

/// A hardware address as `ip link` writes it.
pub fn text(mac: &[u8]) -> String {
    let bytes: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
    bytes.join(":")
}

/// Reads what [`text`] wrote.
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut fields = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(fields.next()?, 16).ok()?;
    }
    fields.next().is_none().then_some(bytes)
}

/// The addresses a process is reached by: neither loopback nor link-local, and in a network of its own those of the links
/// that lead outside.
pub fn addresses(root: Pid) -> Result<Vec<IpAddr>> {
    let own = super::is_own(root, kernel::namespaces::Kind::Network)?;
    let others = match own {
        true => inside(root)?,
        false => Others::default(),
    };
    let (links, numbered, listed) = within(root, &[Namespace::Net], || {
        let mut netlink = links::open()?;
        let links = links::list(&mut netlink)?;
        let others = others.numbered(&mut netlink)?;
        Ok::<_, kernel::Error>((links, others, Rtnetlink::open()?.addresses()?))
    })??;
    let leads_outside = |index: u32| {
        let link = links.iter().find(|l| l.index == index);
        link.is_some_and(|l| kind(l, &numbered) == Some(LinkKind::Veth))
    };
    Ok(listed
        .into_iter()
        .filter(|a| !a.narrow && !a.address.is_loopback() && (!own || leads_outside(a.link)))
        .map(|a| a.address)
        .collect())
}

/// What of a network cannot be made again.
pub fn blockers(root: Pid, others: &Others) -> Result<Vec<Blocker>> {
    let blocker = |place: String, what: String, remedy: &str| Blocker {
        pid: root,
        place,
        what,
        remedy: remedy.into(),
    };
    let seen = match look(root, others) {
        Err(Error::Kernel(kernel::Error::Unsupported { what })) => {
            return Ok(vec![blocker("network".into(), what, "remove it")]);
        }
        seen => seen?,
    };
    let mut found = Vec::new();
    for link in &seen.links {
        let place = || format!("network link {}", link.name);
        // Devices that the kernel makes in every namespace of itself are not the container's doing; switched off they carry nothing.
        let own = FALLBACKS.contains(&link.name.as_str()) && link.flags & UP == 0;
        if kind(link, &seen.others).is_none() && !own {
            let what = match link.kind.as_str() {
                "" => "a network device of the host's".into(),
                kind => format!("a link of kind {kind}"),
            };
            let remedy = "remove it, and reach the container by a veth pair";
            found.push(blocker(place(), what, remedy));
        }
        if link.kind == "bridge" && links::filters_vlans(link) {
            let what = "a bridge that filters by VLAN".into();
            found.push(blocker(place(), what, "switch that off (vlan_filtering 0)"));
        }
        if link.program {
            let what = "a link with a program of eBPF (XDP)".into();
            found.push(blocker(place(), what, "detach it before the checkpoint"));
        }
        let of_link = |(i, _): &&(u32, String)| *i == link.index;
        for (_, what) in seen.traffic.others.iter().filter(of_link) {
            let remedy = "remove it before the checkpoint (tc qdisc del, tc filter del)";
            found.push(blocker(place(), what.clone(), remedy));
        }
    }
    for what in seen.unmovable {
        found.push(blocker(
            "network".into(),
            what,
            "remove it before the checkpoint",
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_as_they_are_written() {
        let bytes = [2, 0x42, 0xac, 0, 0, 0xff];
        assert_eq!(text(&bytes), "02:42:ac:00:00:ff");
        assert_eq!(mac(&text(&bytes)), Some(bytes));
        for bad in ["", "02:42", "02:42:ac:00:00:ff:00", "02:42:ac:00:00:fff"] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
