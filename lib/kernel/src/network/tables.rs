//! Addresses, routes, rules and neighbours (rtnetlink(7)) as the kernel lists them, told it again in the same words.
//! Where an entry speaks of a link it does so by its index, which may be another one by then.

use crate::netlink::{
    Attribute, CREATE, EXCLUSIVE, Netlink, REPLACE, attribute, attributes, find, nested, word,
};
use crate::{Error, Result};

const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const GETNEIGH: u16 = 30;
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
const GETRULE: u16 = 34;
const NEWNEXTHOP: u16 = 104;
const GETNEXTHOP: u16 = 106;

const AF_BRIDGE: u8 = 7;

/// The tables, in the order in which they are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `struct ifaddrmsg`.
    Addresses,
    /// `struct nhmsg`.
    NextHops,
    /// `struct rtmsg`.
    Routes,
    /// `struct fib_rule_hdr`.
    Rules,
    /// `struct ndmsg`: permanent entries, those that answer for others, and what bridges were told.
    Neighbours,
}

impl Table {
    /// Bytes before the attributes.
    fn header(self) -> usize {
        match self {
            Table::Addresses | Table::NextHops => 8,
            Table::Routes | Table::Rules | Table::Neighbours => 12,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Table::Addresses => "address",
            Table::NextHops => "next hop",
            Table::Routes => "route",
            Table::Rules => "rule",
            Table::Neighbours => "neighbour",
        }
    }
}

/// What of a table is not there of itself, in the namespace that the socket was opened in: each without its message's
/// header.
pub fn list(netlink: &mut Netlink, table: Table) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let asked = match table {
        Table::Addresses => vec![vec![0; 8]],
        Table::NextHops => vec![vec![0; 8]],
        Table::Routes | Table::Rules => [libc::AF_INET as u8, libc::AF_INET6 as u8]
            .map(|family| head(family, 12))
            .to_vec(),
        Table::Neighbours => {
            let mut proxies = vec![0; 12];
            proxies[10] = PROXY;
            vec![vec![0; 12], proxies, head(AF_BRIDGE, 12)]
        }
    };
    let (ask, new) = match table {
        Table::Addresses => (GETADDR, NEWADDR),
        Table::NextHops => (GETNEXTHOP, NEWNEXTHOP),
        Table::Routes => (GETROUTE, NEWROUTE),
        Table::Rules => (GETRULE, NEWRULE),
        Table::Neighbours => (GETNEIGH, NEWNEIGH),
    };
    for body in asked {
        match netlink.list(&format!("list each {}", table.name()), ask, &body) {
            Ok(all) => found.extend(
                all.into_iter()
                    .filter(|m| m.kind == new)
                    .filter_map(|m| cleaned(table, &m.body)),
            ),
            // A kernel without this family has no such table.
            Err(e) if matches!(e.raw(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => {}
            Err(e) => return Err(e),
        }
    }
    if table == Table::NextHops {
        // Those that are made of others come after these.
        found.sort_by_key(|body| find(&attributes(body.get(8..).unwrap_or_default()), 2).is_some());
    }
    Ok(found)
}

fn head(family: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[0] = family;
    bytes
}

/// `NTF_SELF`, `NTF_PROXY`.
const SELF: u8 = 2;
const PROXY: u8 = 8;
/// `RTA_CACHEINFO` (`struct rta_cacheinfo`), `RTA_EXPIRES`.
const CACHE: u16 = 12;
const EXPIRES: u16 = 23;
const KERNEL: u8 = 2;
const ROUTER: u8 = 9;
/// `NUD_NOARP`, `NUD_PERMANENT`.
const NOARP: u16 = 0x40;
const PERMANENT: u16 = 0x80;
const CLONED: u32 = 0x200;
/// `IFA_F_TEMPORARY`, `IFA_F_NODAD`, `IFA_F_DADFAILED | IFA_F_TENTATIVE`.
const TEMPORARY: u32 = 1;
const NODAD: u32 = 2;
const UNSURE: u32 = 0x48;
/// `RTNH_F_PERVASIVE | RTNH_F_ONLINK`: what is not a state of the link.
const WANTED: u32 = 6;

/// The entry without what only tells about it; `None` for one that makes itself.
fn cleaned(table: Table, body: &[u8]) -> Option<Vec<u8>> {
    let mut head = body.get(..table.header())?.to_vec();
    let all = attributes(body.get(table.header()..)?);
    let without: &[u16] = match table {
        Table::Addresses => {
            let flags = find(&all, 8).map_or(u32::from(head[2]), |a| a.number());
            // One that the kernel makes of the hardware address, once the link is on (IFAPROT_KERNEL_*).
            let own = find(&all, 11).is_some_and(|a| a.value.first().is_some_and(|n| *n != 0));
            if flags & TEMPORARY != 0 && head[0] == libc::AF_INET6 as u8 || own {
                return None;
            }
            // IFA_STATS never comes here; IFA_FLAGS is written anew.
            let flags = match i32::from(head[0]) {
                libc::AF_INET6 => flags & !UNSURE | NODAD,
                // IFA_F_SECONDARY follows from the order.
                _ => flags & !1,
            };
            head[2] = flags as u8;
            let mut bytes = head;
            bytes.extend(
                all.iter()
                    .filter(|a| a.kind != 8)
                    .flat_map(Attribute::whole),
            );
            bytes.extend(attribute(8, &flags.to_ne_bytes()));
            return Some(bytes);
        }
        Table::NextHops => {
            set_word(&mut head, 4, WANTED)?;
            // Its scope follows from the rest; NHA_OP_FLAGS asks for statistics.
            head[1] = 0;
            &[14, 15]
        }
        Table::Routes => {
            let (protocol, flags) = (head[5], word(&head, 8)?);
            if matches!(protocol, KERNEL | ROUTER) || flags & CLONED != 0 {
                return None;
            }
            set_word(&mut head, 8, WANTED)?;
            // RTA_CACHEINFO (its rta_expires is what remains, in hundredths of a second), and where the way is an object of its own (RTA_NH_ID) what it says.
            match find(&all, 30) {
                Some(_) => &[CACHE, 4, 5, 9, 18, EXPIRES],
                None => &[CACHE, EXPIRES],
            }
        }
        Table::Rules => {
            // FIB_RULE_PERMANENT | FIB_RULE_INVERT; the others are states.
            set_word(&mut head, 8, 3)?;
            &[]
        }
        Table::Neighbours => {
            let state = u16::from_ne_bytes([head[8], head[9]]);
            let kept = match head[0] {
                // Of bridges what was told them; permanent are the ports' own addresses.
                AF_BRIDGE if find(&all, 9).is_some() => state & NOARP != 0,
                // A link takes packets to these addresses too; those of groups it finds by itself.
                AF_BRIDGE => {
                    let group = find(&all, 2)
                        .is_none_or(|mac| mac.value.first().is_none_or(|b| b & 1 != 0));
                    head[10] & SELF != 0 && state & PERMANENT != 0 && !group
                }
                _ => state & PERMANENT != 0 || head[10] & PROXY != 0,
            };
            if !kept {
                return None;
            }
            if head[0] == AF_BRIDGE && head[10] & SELF == 0 {
                // NTF_MASTER: for the bridge, not for the port.
                head[10] |= 4;
            }
            // NDA_CACHEINFO, NDA_PROBES, NDA_MASTER.
            &[3, 4, 9]
        }
    };
    let mut bytes = head;
    if table == Table::Rules && find(&all, PRIORITY).is_none() {
        // The first of all, which the kernel does not say.
        bytes.extend(attribute(PRIORITY, &[0; 4]));
    }
    if table == Table::Routes
        && let Some(left) = find(&all, CACHE)
            .and_then(|a| word(a.value, 8))
            .filter(|left| *left != 0)
    {
        bytes.extend(attribute(EXPIRES, &left.div_ceil(100).to_ne_bytes()));
    }
    let kept = all.iter().filter(|a| !without.contains(&a.kind));
    for a in kept {
        match (table, a.kind) {
            (Table::Routes, MULTIPATH) => bytes.extend(attribute(MULTIPATH, &hops(a.value, Some)?)),
            // NHA_RES_GROUP without NHA_RES_GROUP_UNBALANCED_TIME, which only tells.
            (Table::NextHops, 12) => {
                let inner = a.inner();
                let kept = inner.iter().filter(|a| a.kind != 4);
                bytes.extend(nested(12, &kept.map(Attribute::whole).collect::<Vec<_>>()));
            }
            _ => bytes.extend(a.whole()),
        }
    }
    Some(bytes)
}

fn set_word(bytes: &mut [u8], at: usize, mask: u32) -> Option<()> {
    let with = word(bytes, at)? & mask;
    bytes
        .get_mut(at..at + 4)?
        .copy_from_slice(&with.to_ne_bytes());
    Some(())
}

/// `RTA_MULTIPATH`, `FRA_PRIORITY`.
const MULTIPATH: u16 = 9;
const PRIORITY: u16 = 6;

/// Each `struct rtnexthop`, with its link's index as it is now and without its link's state; `None` where it has none.
fn hops(mut value: &[u8], index: impl Fn(u32) -> Option<u32>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some((head, _)) = value.split_at_checked(8) {
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let rest = value.get(8..len)?;
        bytes.extend([head[0], head[1], head[2] & WANTED as u8, head[3]]);
        bytes.extend(index(word(head, 4)?)?.to_ne_bytes());
        bytes.extend(rest);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        value = value.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(bytes)
}

/// The entry with the indexes that its links have now; `None` where one of them has none here.
pub fn moved(table: Table, body: &[u8], index: impl Fn(u32) -> Option<u32>) -> Option<Vec<u8>> {
    let mut bytes = body.get(..table.header())?.to_vec();
    let in_header = match table {
        Table::Addresses | Table::Neighbours => Some(4),
        Table::NextHops | Table::Routes | Table::Rules => None,
    };
    if let Some(at) = in_header {
        // A neighbour for whom is answered everywhere has none.
        let now = match word(&bytes, at)? {
            0 => 0,
            then => index(then)?,
        };
        bytes
            .get_mut(at..at + 4)?
            .copy_from_slice(&now.to_ne_bytes());
    }
    for a in attributes(body.get(table.header()..)?) {
        match (table, a.kind) {
            // RTA_IIF and RTA_OIF, NHA_OIF, NDA_IFINDEX.
            (Table::Routes, 3 | 4) | (Table::NextHops, 5) | (Table::Neighbours, 8) => {
                bytes.extend(attribute(a.kind, &index(a.number())?.to_ne_bytes()));
            }
            (Table::Routes, MULTIPATH) => {
                bytes.extend(attribute(MULTIPATH, &hops(a.value, &index)?));
            }
            _ => bytes.extend(a.whole()),
        }
    }
    Some(bytes)
}

/// The index of the link that an address belongs to.
pub fn link_of(address: &[u8]) -> Option<u32> {
    word(address, 4)
}

/// Tells the kernel the entries of a table; each that is there already may stay. They may rest on each other, in any order.
pub fn fill(netlink: &mut Netlink, table: Table, entries: &[Vec<u8>]) -> Result<()> {
    let (kind, flags) = match table {
        Table::Addresses => (NEWADDR, CREATE | REPLACE),
        Table::NextHops => (NEWNEXTHOP, CREATE | EXCLUSIVE),
        Table::Routes => (NEWROUTE, CREATE | EXCLUSIVE),
        Table::Rules => (NEWRULE, CREATE | EXCLUSIVE),
        Table::Neighbours => (NEWNEIGH, CREATE | REPLACE),
    };
    let what = format!("make a {}", table.name());
    let mut left: Vec<&Vec<u8>> = entries.iter().collect();
    if table == Table::Addresses {
        // Of IPv6 the last one comes first, and is the first to be chosen.
        let is_v6 = |body: &&Vec<u8>| body.first() == Some(&(libc::AF_INET6 as u8));
        let (later, first): (Vec<_>, Vec<_>) = left.into_iter().partition(is_v6);
        left = first.into_iter().chain(later.into_iter().rev()).collect();
    }
    while !left.is_empty() {
        let mut later = Vec::new();
        let mut failed = None;
        for body in &left {
            match netlink.change(&what, kind, flags, body) {
                Err(e) if e.raw() == Some(libc::EEXIST) => {}
                Err(e) => {
                    failed = Some(e);
                    later.push(*body);
                }
                Ok(()) => {}
            }
        }
        match failed {
            Some(e) if later.len() == left.len() => return Err(e),
            _ => left = later,
        }
    }
    Ok(())
}

/// Takes away the rules that a new namespace has and that are not among these.
pub fn prune_rules(netlink: &mut Netlink, wanted: &[Vec<u8>]) -> Result<()> {
    for there in list(netlink, Table::Rules)? {
        if !wanted.contains(&there) {
            netlink.change("remove a rule", DELRULE, 0, &there)?;
        }
    }
    Ok(())
}

/// That the tables of an image are entries at all.
pub fn check(table: Table, body: &[u8]) -> Result<()> {
    match body.len() >= table.header() && body.len() <= 1 << 16 {
        true => Ok(()),
        false => Err(Error::unreadable(
            "network",
            format!("not a {}", table.name()),
        )),
    }
}
