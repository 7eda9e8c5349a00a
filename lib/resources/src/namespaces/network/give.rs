//! A network given back, in steps: links and tables before there is anything else, packet filters when all is there. What is tied
//! to a link of another network of the container comes in between ([`super::across`]).

use super::{OURS, TABLES, mac, sysctls};
use crate::{Error, Result};
use image::bytes::Bytes;
use image::namespaces::network::{LegacyFamily, LegacyTable, Link, LinkKind, Network};
use kernel::netlink::{Message, Netlink};
use kernel::network::links::{self, UP};
use kernel::network::tables::{self, Table};
use kernel::network::{conntrack, ethtool, ipset, legacy, traffic};
use kernel::nftables::ruleset;
use kernel::{Namespace, Pid, tun, within};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::AsFd;

/// Whether the links that lead outside have the addresses they had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uplinks {
    /// They have, and what goes by them is told again.
    Kept,
    /// They have others: what rests on the old ones is left out.
    New,
}

/// Bytes that all links of a container may have in their records together.
const MOST: usize = 1 << 24;

/// Gives the namespace of process `pid` its links, sysctls, addresses and routes. What leads outside is there already.
pub fn restore(pid: Pid, network: &Network) -> Result<()> {
    restore_under(pid, network, Uplinks::Kept)
}

/// The same, under links that may have other addresses.
pub fn restore_under(pid: Pid, network: &Network, uplinks: Uplinks) -> Result<()> {
    within(pid, &[Namespace::Net], || {
        let mut netlink = links::open()?;
        let there = make(&mut netlink, network)?;
        configure(&mut netlink, network, uplinks, &there, |kind| !spans(kind))
    })?
}

/// Whether a link is tied to one in another network of the container.
pub(super) fn spans(kind: LinkKind) -> bool {
    matches!(
        kind,
        LinkKind::Across { .. } | LinkKind::MacvlanAcross { .. } | LinkKind::Inward
    )
}

/// Sets up those links that are wanted, and fills the tables with what speaks of links that are there; what is there of it stays.
pub(super) fn configure(
    netlink: &mut Netlink,
    network: &Network,
    uplinks: Uplinks,
    there: &HashMap<u32, u32>,
    wanted: impl Fn(LinkKind) -> bool,
) -> Result<()> {
    let index = |then: u32| there.get(&then).copied();
    let mut tied = network.links.iter().filter(|link| spans(link.kind));
    let whole = tied.all(|link| index(link.index).is_some());
    let is_here = |name: &str| {
        let link = network.links.iter().find(|l| l.name == name);
        link.is_some_and(|l| there.contains_key(&l.index))
    };
    // Before the links are on, which take addresses of themselves by these settings, and again after.
    sysctls::set(&network.sysctls, is_here)?;
    let links = network.links.iter().filter(|link| wanted(link.kind));
    let tool = ethtool::Ethtool::open()?;
    for link in links {
        let (Some(now), wanted) = (index(link.index), plain(link)?) else {
            continue;
        };
        if let Some(master) = link.master.and_then(index) {
            links::enslave(netlink, &wanted, now, master)?;
        }
        links::settle(netlink, &wanted, now)?;
        choose(&tool, link)?;
    }
    if !whole {
        return Ok(()); // ways may rest on what is not there yet
    }
    // What speaks of a link that has other addresses now, or that is not here, is left out.
    let kept = |then: u32| match network.links.iter().find(|l| l.index == then)?.kind {
        LinkKind::Veth if uplinks == Uplinks::New => None,
        _ => index(then),
    };
    let plain = |all: &[Bytes]| all.iter().map(|b| b.0.clone()).collect();
    let traffic = traffic::Traffic {
        disciplines: plain(&network.traffic.disciplines),
        classes: plain(&network.traffic.classes),
        filters: plain(&network.traffic.filters),
        ..traffic::Traffic::default()
    };
    traffic::check(&traffic)?;
    traffic::make(netlink, &traffic, index)?;
    let t = &network.tables;
    let entries = [
        &t.addresses,
        &t.next_hops,
        &t.routes,
        &t.rules,
        &t.neighbours,
    ];
    for (table, entries) in TABLES.into_iter().zip(entries) {
        let mut now = Vec::new();
        for entry in entries {
            tables::check(table, &entry.0)?;
            now.extend(tables::moved(table, &entry.0, kept));
        }
        // An image always has rules; one that is made by hand and has none means those of any namespace.
        if table == Table::Rules && !now.is_empty() {
            tables::prune_rules(netlink, &now)?;
        }
        tables::fill(netlink, table, &now)?;
    }
    sysctls::set(&network.sysctls, is_here)?;
    Ok(())
}

/// What a link does itself, and by how many queues.
fn choose(tool: &ethtool::Ethtool, link: &Link) -> Result<()> {
    let features = ethtool::Features {
        on: link.features.on.clone(),
        off: link.features.off.clone(),
    };
    if features != ethtool::Features::default() {
        tool.choose(&link.name, &features)?;
    }
    if let Some(queues) = link.queues {
        tool.use_queues(&link.name, queues.used)?;
    }
    Ok(())
}

pub(super) fn refused(what: String) -> Error {
    Error::Refused(what)
}

/// Makes the links that are not there, and gives what index each has now, by the one it had.
fn make(netlink: &mut Netlink, network: &Network) -> Result<HashMap<u32, u32>> {
    let records = &network.links;
    let bytes: usize = records
        .iter()
        .map(|l| l.settings.0.len() + l.port.0.len() + l.chosen.0.len())
        .sum();
    let mut indexes = HashSet::new();
    if bytes > MOST || !records.iter().all(|l| indexes.insert(l.index)) {
        return Err(refused("the image has links that no kernel has".into()));
    }
    let mut now = find(netlink, records)?;
    // What lies below comes first.
    let mut order: Vec<&Link> = records.iter().collect();
    order.sort_by_key(|link| matches!(link.kind, LinkKind::Macvlan { .. }));
    for link in order {
        if now.contains_key(&link.index) {
            continue;
        }
        let by_index = |index: u32| records.iter().find(|l| l.index == index);
        let wanted = plain(link)?;
        match link.kind {
            LinkKind::Loopback | LinkKind::Veth => continue,
            LinkKind::Across { .. } | LinkKind::MacvlanAcross { .. } | LinkKind::Inward => continue,
            LinkKind::Bridge | LinkKind::Dummy | LinkKind::Ifb => {
                anywhere(&wanted, |link| links::make(netlink, link, None))?
            }
            LinkKind::Tun => anywhere(&wanted, make_tun)?,
            LinkKind::Macvlan { lower } => {
                let below = now.get(&lower).copied().ok_or_else(|| {
                    refused(format!(
                        "the link {} lies on one that is not here; restore with a network that has it",
                        link.name
                    ))
                })?;
                anywhere(&wanted, |link| links::make(netlink, link, Some(below)))?;
            }
            LinkKind::Pair { peer } => {
                let other = by_index(peer)
                    .filter(|other| other.kind == LinkKind::Pair { peer: link.index })
                    .ok_or_else(|| {
                        refused(format!(
                            "the image has one end of the pair of links {} and not the other",
                            link.name
                        ))
                    })?;
                let other = plain(other)?;
                match links::make_pair(netlink, &wanted, &other, None) {
                    Err(e) if taken(&e) => {
                        let free = |link: &links::Link| links::Link {
                            index: 0,
                            ..link.clone()
                        };
                        links::make_pair(netlink, &free(&wanted), &free(&other), None)?;
                    }
                    made => made?,
                }
            }
        }
        now = find(netlink, records)?;
    }
    Ok(now)
}

/// Makes a link that stays until a descriptor is attached to it, if it had any, and longer if it did.
fn make_tun(link: &links::Link) -> kernel::Result<()> {
    let node = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|e| kernel::Error::io("open /dev/net/tun", &e))?;
    let (user, group, flags) = tun::settings(&link.settings);
    let fd = node.as_fd();
    tun::attach(fd, &link.name, flags, link.index)?;
    tun::owned_by(fd, user, group)?;
    tun::persist(fd, true)
}

/// The index that each of these has now, by name.
pub(super) fn find(netlink: &mut Netlink, records: &[Link]) -> Result<HashMap<u32, u32>> {
    let present = links::list(netlink)?;
    let by_name: HashMap<&str, u32> = present.iter().map(|l| (&l.name[..], l.index)).collect();
    Ok(records
        .iter()
        .filter_map(|link| Some((link.index, *by_name.get(&link.name[..])?)))
        .collect())
}

const EEXIST: i32 = 17;
const EBUSY: i32 = 16;

pub(super) fn taken(error: &kernel::Error) -> bool {
    matches!(error.raw(), Some(EEXIST | EBUSY))
}

/// With the index it had, or with any.
pub(super) fn anywhere(
    link: &links::Link,
    mut make: impl FnMut(&links::Link) -> kernel::Result<()>,
) -> Result<()> {
    match make(link) {
        Err(e) if taken(&e) => Ok(make(&links::Link {
            index: 0,
            ..link.clone()
        })?),
        made => Ok(made?),
    }
}

/// A record in the kernel's terms.
pub(super) fn plain(link: &Link) -> Result<links::Link> {
    let mac = match link.mac.as_str() {
        "" => Vec::new(),
        written => mac(written)
            .ok_or_else(|| refused(format!("the image has a link with the address {written}")))?
            .to_vec(),
    };
    let kind = match link.kind {
        LinkKind::Loopback => "",
        LinkKind::Veth | LinkKind::Pair { .. } | LinkKind::Across { .. } | LinkKind::Inward => {
            "veth"
        }
        LinkKind::Bridge => "bridge",
        LinkKind::Tun => "tun",
        LinkKind::Dummy => "dummy",
        LinkKind::Ifb => "ifb",
        LinkKind::Macvlan { .. } | LinkKind::MacvlanAcross { .. } => "macvlan",
    };
    Ok(links::Link {
        index: link.index,
        name: link.name.clone(),
        kind: kind.into(),
        flags: link.flags | if link.up { UP } else { 0 },
        mac,
        mtu: link.mtu,
        queue_length: link.queue_length,
        group: link.group,
        alias: link.alias.clone(),
        other_names: link.other_names.clone(),
        queues: link.queues.map_or([0; 2], |q| [q.most[1], q.most[0]]),
        chosen: link.chosen.0.clone(),
        settings: link.settings.0.clone(),
        port: link.port.0.clone(),
        ..links::Link::default()
    })
}

/// The second step, when nothing is left to be done in the network of process `pid`: its packet filter, and the connections
/// that this knows. Tables that an engine has made are its own. A word where some of the connections stay unknown.
pub fn resume(pid: Pid, network: &Network, uplinks: Uplinks) -> Result<Option<String>> {
    let nothing = network.filter.is_empty() && network.sets.is_empty();
    if nothing && network.legacy.is_empty() {
        return Ok(None);
    }
    within(pid, &[Namespace::Net], || {
        // Rules speak of sets.
        let sets: Vec<Vec<u8>> = network.sets.iter().map(|s| s.0.clone()).collect();
        ipset::make(&sets)?;
        for table in &network.legacy {
            legacy::make(&old_table(table))?;
        }
        let there = ruleset::tables()?;
        let objects: Vec<Message> = network
            .filter
            .iter()
            .map(|object| Message {
                kind: object.message,
                body: object.body.0.clone(),
            })
            .collect();
        let new = |object: &Message| {
            ruleset::owner(object)
                .is_some_and(|owner| !there.contains(&owner) && !owner.1.starts_with(OURS))
        };
        let wanted: Vec<Message> = objects.into_iter().filter(new).collect();
        ruleset::make(&wanted)?;
        // Those by an address that is gone are over.
        let gone: Vec<IpAddr> = match uplinks {
            Uplinks::Kept => Vec::new(),
            Uplinks::New => {
                let outside = network.links.iter().filter(|l| l.kind == LinkKind::Veth);
                outside
                    .flat_map(|l| &l.addresses)
                    .map(|a| a.address)
                    .collect()
            }
        };
        let known = network.connections.iter().map(|c| c.0.clone());
        let known: Vec<_> = known.filter(|c| !conntrack::speaks_of(c, &gone)).collect();
        match conntrack::fill(&known)? {
            0 => Ok(None),
            failed => Ok(Some(format!(
                "{failed} of {} connections that the packet filter knew could not be told to it again",
                known.len()
            ))),
        }
    })?
}

fn old_table(table: &LegacyTable) -> legacy::Table {
    legacy::Table {
        family: match table.family {
            LegacyFamily::Ipv4 => legacy::Family::V4,
            LegacyFamily::Ipv6 => legacy::Family::V6,
            LegacyFamily::Arp => legacy::Family::Arp,
        },
        about: table.about.0.clone(),
        entries: table.entries.0.clone(),
    }
}

/// Brings up the loopback of the namespace of process `pid`.
pub fn loopback(pid: Pid) -> Result<()> {
    within(pid, &[Namespace::Net], || {
        let mut netlink = links::open()?;
        for link in links::list(&mut netlink)?
            .iter()
            .filter(|l| l.is_loopback())
        {
            let on = links::Link {
                flags: link.flags | UP,
                ..link.clone()
            };
            links::settle(&mut netlink, &on, link.index)?;
        }
        Ok(())
    })?
}
