//! Traffic control (tc(8), net/sched/): queueing disciplines that somebody has chosen, their classes and filters, of those
//! kinds that the kernel takes as it lists them, but for what is said here.

use crate::netlink::{
    Attribute, CREATE, EXCLUSIVE, Netlink, attribute, attributes, find, nested, word,
};
use crate::{Error, Result};
use std::collections::{HashMap, HashSet};

const NEWQDISC: u16 = 36;
const GETQDISC: u16 = 38;
const NEWCLASS: u16 = 40;
const GETCLASS: u16 = 42;
const NEWFILTER: u16 = 44;
const GETFILTER: u16 = 46;
/// `struct tcmsg`: family, interface, handle, parent, info.
const HEADER: usize = 20;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const CHAIN: u16 = 11;
const INGRESS_BLOCK: u16 = 13;
const EGRESS_BLOCK: u16 = 14;

const DISCIPLINES: [&str; 7] = [
    "htb",
    "tbf",
    "pfifo",
    "bfifo",
    "pfifo_fast",
    "ingress",
    "clsact",
];

const HTB_INIT: u16 = 2;
const U32_HASH: u16 = 2;
const U32_DIVISOR: u16 = 4;
const U32_POLICE: u16 = 6;
const U32_ACTIONS: u16 = 7;
const U32_COUNTS: u16 = 9;
const U32_FLAGS: u16 = 11;
/// The number of a hash table in `TC_U32_HTID`.
const TABLE: u32 = 0xfff0_0000;
const MIRRED_TIMES: u16 = 1;
const MIRRED: u16 = 2;
/// Where `struct tc_mirred` has the link's index.
const MIRRED_LINK: usize = 24;

/// All of a namespace, each without its message's header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// `RTM_NEWQDISC`.
    pub disciplines: Vec<Vec<u8>>,
    /// `RTM_NEWTCLASS`.
    pub classes: Vec<Vec<u8>>,
    /// `RTM_NEWTFILTER`.
    pub filters: Vec<Vec<u8>>,
    /// What of it cannot be made again: the link's index, and what it is.
    pub others: Vec<(u32, String)>,
}

fn head(link: u32, handle: u32, parent: u32) -> Vec<u8> {
    let words = [0, link, handle, parent, 0];
    words.iter().flat_map(|w: &u32| w.to_ne_bytes()).collect()
}

fn rest(body: &[u8]) -> Vec<Attribute<'_>> {
    attributes(body.get(HEADER..).unwrap_or_default())
}

fn kind(body: &[u8]) -> String {
    find(&rest(body), KIND).map_or(String::new(), |a| a.text())
}

fn link(body: &[u8]) -> u32 {
    word(body, 4).unwrap_or(0)
}

/// What there is in the namespace that the socket was opened in.
pub fn list(netlink: &mut Netlink) -> Result<Traffic> {
    let mut found = Traffic::default();
    let what = "list queueing disciplines";
    for m in netlink.list(what, GETQDISC, &[0; HEADER])? {
        // Those that the kernel chooses have no handle.
        let Some(handle @ 1..) = word(&m.body, 8).filter(|_| m.kind == NEWQDISC) else {
            continue;
        };
        let (index, kind) = (link(&m.body), kind(&m.body));
        let all = rest(&m.body);
        let shared = [INGRESS_BLOCK, EGRESS_BLOCK];
        if !DISCIPLINES.contains(&&kind[..]) || shared.iter().any(|n| find(&all, *n).is_some()) {
            let what = format!("a queueing discipline that was chosen ({kind})");
            found.others.push((index, what));
            continue;
        }
        found.disciplines.push(discipline(&m.body, &kind));
        let mut parents = match kind.as_str() {
            // TC_H_MIN_INGRESS and TC_H_MIN_EGRESS.
            "clsact" => vec![0xffff_fff2, 0xffff_fff3],
            _ => vec![handle],
        };
        if kind == "htb" {
            let ask = head(index, 0, 0);
            for m in netlink.list("list classes of traffic", GETCLASS, &ask)? {
                let id = word(&m.body, 8).unwrap_or(0);
                // Of a class below another one the discipline is in the upper half of its number.
                if m.kind == NEWCLASS && id >> 16 == handle >> 16 {
                    found.classes.push(only(&m.body, &[KIND, OPTIONS]));
                    parents.push(id);
                }
            }
        }
        for parent in parents {
            let ask = head(index, 0, parent);
            let listed = netlink.list("list filters of traffic", GETFILTER, &ask)?;
            filters(&mut found, listed.into_iter().map(|m| (m.kind, m.body)));
        }
    }
    found.classes = from_the_root(found.classes);
    let mut seen = HashSet::new();
    found.filters.retain(|f| seen.insert(f.clone()));
    Ok(found)
}

/// Classes with their parents before them: below one that it does not know the kernel puts a class at the root.
fn from_the_root(mut left: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut sorted = Vec::new();
    loop {
        let ids: HashSet<_> = left.iter().map(|c| (link(c), word(c, 8))).collect();
        let waits = |c: &Vec<u8>| ids.contains(&(link(c), word(c, 12)));
        let (later, now): (Vec<_>, Vec<_>) = left.into_iter().partition(waits);
        let done = now.is_empty();
        sorted.extend(now);
        left = later;
        if done {
            return sorted;
        }
    }
}

fn only(body: &[u8], kept: &[u16]) -> Vec<u8> {
    let mut bytes = body.get(..HEADER).unwrap_or_default().to_vec();
    // What a class or a discipline says here, but no filter: who uses it.
    bytes.get_mut(16..HEADER).unwrap_or_default().fill(0);
    let all = rest(body);
    let all = all.iter().filter(|a| kept.contains(&a.kind));
    bytes.extend(all.flat_map(Attribute::whole));
    bytes
}

fn discipline(body: &[u8], kind: &str) -> Vec<u8> {
    if kind != "htb" {
        return only(body, &[KIND, OPTIONS]);
    }
    let mut bytes = only(body, &[KIND]);
    let all = rest(body);
    let options = find(&all, OPTIONS).map_or(Vec::new(), |a| a.inner());
    let parts: Vec<Vec<u8>> = options
        .iter()
        .map(|a| match a.value.split_at_checked(4) {
            // TCA_HTB_INIT is listed with a version in full, and told only with its upper half (HTB_VER).
            Some((_, rest)) if a.kind == HTB_INIT => attribute(
                HTB_INIT,
                &[&(a.number() >> 16).to_ne_bytes(), rest].concat(),
            ),
            _ => a.whole(),
        })
        .collect();
    bytes.extend(nested(OPTIONS, &parts));
    bytes
}

/// The filters of one parent. The kernel makes the first hash table of each priority itself and numbers these as they come;
/// tables come before who speaks of them.
fn filters(found: &mut Traffic, listed: impl Iterator<Item = (u16, Vec<u8>)>) {
    let listed: Vec<(u16, Vec<u8>)> = listed.collect();
    // By priority, protocol and chain.
    let of = |body: &[u8]| (word(body, 16), find(&rest(body), CHAIN).map(|a| a.number()));
    let mut roots = HashMap::new();
    for (_, body) in &listed {
        if let Some(table @ 0x8000_0000..) = word(body, 8).filter(|handle| handle & !TABLE == 0) {
            roots.insert(of(body), table);
        }
    }
    let mut kept = Vec::new();
    for (message, body) in listed {
        if message != NEWFILTER {
            continue;
        }
        let (index, kind) = (link(&body), kind(&body));
        let handle = word(&body, 8).unwrap_or(0);
        let all = rest(&body);
        let Some(options) = find(&all, OPTIONS).map(|a| a.inner()) else {
            // That there is one of this priority, before what it holds.
            if kind != "u32" {
                found
                    .others
                    .push((index, format!("a filter of traffic ({kind})")));
            }
            continue;
        };
        if kind != "u32" {
            found
                .others
                .push((index, format!("a filter of traffic ({kind})")));
            continue;
        }
        let root = roots.get(&of(&body)).copied().unwrap_or(0);
        if handle == root {
            continue;
        }
        match settings(&options, root) {
            Err(what) => found.others.push((index, what)),
            Ok(settings) => {
                let mut bytes = body.get(..HEADER).unwrap_or_default().to_vec();
                if handle & TABLE == root {
                    let within = (handle & !TABLE).to_ne_bytes();
                    bytes
                        .get_mut(8..12)
                        .unwrap_or_default()
                        .copy_from_slice(&within);
                }
                let said = all.iter().filter(|a| matches!(a.kind, KIND | CHAIN));
                bytes.extend(said.flat_map(Attribute::whole));
                bytes.extend(nested(OPTIONS, &settings));
                let is_table = find(&options, U32_DIVISOR).is_some();
                kept.push((root, !is_table, bytes));
            }
        }
    }
    kept.sort_by_key(|(root, no_table, _)| (*root, *no_table));
    found
        .filters
        .extend(kept.into_iter().map(|(_, _, bytes)| bytes));
}

fn settings(options: &[Attribute], root: u32) -> std::result::Result<Vec<Vec<u8>>, String> {
    let mut parts = Vec::new();
    for a in options {
        match a.kind {
            U32_COUNTS => {}
            U32_HASH if a.number() & TABLE == root => {}
            U32_POLICE => return Err("a filter of traffic that polices".into()),
            // TCA_CLS_FLAGS_SKIP_HW and TCA_CLS_FLAGS_SKIP_SW; the others only tell.
            U32_FLAGS => parts.push(attribute(U32_FLAGS, &(a.number() & 3).to_ne_bytes())),
            U32_ACTIONS => {
                let actions: std::result::Result<Vec<_>, _> =
                    a.inner().iter().map(|one| action(one)).collect();
                parts.push(nested(U32_ACTIONS, &actions?));
            }
            _ => parts.push(a.whole()),
        }
    }
    Ok(parts)
}

fn action(a: &Attribute) -> std::result::Result<Vec<u8>, String> {
    let inner = a.inner();
    let name = find(&inner, KIND).map_or(String::new(), |a| a.text());
    if name != "mirred" {
        return Err(format!("a filter of traffic with the action {name}"));
    }
    let options = find(&inner, OPTIONS).map_or(Vec::new(), |a| a.inner());
    let options = options.iter().filter(|o| o.kind != MIRRED_TIMES);
    let options: Vec<Vec<u8>> = options.map(Attribute::whole).collect();
    let name = find(&inner, KIND).map_or(Vec::new(), |a| a.whole());
    Ok(nested(a.kind, &[name, nested(OPTIONS, &options)]))
}

/// The attributes with the indexes that the links of actions have now.
fn moved(all: &[Attribute], index: &impl Fn(u32) -> Option<u32>, path: &[u16]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for a in all {
        match path {
            [MIRRED] if a.kind == MIRRED => {
                let mut value = a.value.to_vec();
                let now = index(word(&value, MIRRED_LINK)?)?.to_ne_bytes();
                value
                    .get_mut(MIRRED_LINK..MIRRED_LINK + 4)?
                    .copy_from_slice(&now);
                bytes.extend(attribute(MIRRED, &value));
            }
            // Actions are numbered.
            [first, deeper @ ..] if !deeper.is_empty() && (a.kind == *first || *first == 0) => {
                let inner = moved(&a.inner(), index, deeper)?;
                bytes.extend(attribute(a.kind | 0x8000, &inner));
            }
            _ => bytes.extend(a.whole()),
        }
    }
    Some(bytes)
}

/// Makes all of it under the indexes that the links have now; what belongs to links that are not here is left out.
pub fn make(
    netlink: &mut Netlink,
    traffic: &Traffic,
    index: impl Fn(u32) -> Option<u32>,
) -> Result<()> {
    let now = |body: &Vec<u8>, path: &[u16]| {
        let mut bytes = body.get(..HEADER)?.to_vec();
        bytes[4..8].copy_from_slice(&index(link(body))?.to_ne_bytes());
        bytes.extend(moved(&rest(body), &index, path)?);
        Some(bytes)
    };
    let disciplines = traffic.disciplines.iter().map(|body| (NEWQDISC, body));
    let classes = traffic.classes.iter().map(|body| (NEWCLASS, body));
    let mut left: Vec<(u16, Vec<u8>)> = disciplines
        .chain(classes)
        .filter_map(|(kind, body)| Some((kind, now(body, &[])?)))
        .collect();
    // Each waits for what it is below.
    while !left.is_empty() {
        let mut later = Vec::new();
        let mut failed = None;
        for (message, body) in &left {
            let what = format!("make a queueing discipline or class ({})", kind(body));
            match netlink.change(&what, *message, CREATE | EXCLUSIVE, body) {
                Err(e) if e.raw() == Some(libc::EEXIST) => {}
                Err(e) => {
                    failed = Some(e);
                    later.push((*message, body.clone()));
                }
                Ok(()) => {}
            }
        }
        match failed {
            Some(e) if later.len() == left.len() => return Err(e),
            _ => left = later,
        }
    }
    let path = [OPTIONS, U32_ACTIONS, 0, OPTIONS, MIRRED];
    for body in traffic.filters.iter().filter_map(|body| now(body, &path)) {
        let what = format!("make a filter of traffic ({})", kind(&body));
        netlink.change(&what, NEWFILTER, CREATE | EXCLUSIVE, &body)?;
    }
    Ok(())
}

/// That these are messages at all.
pub fn check(traffic: &Traffic) -> Result<()> {
    let all = [&traffic.disciplines, &traffic.classes, &traffic.filters];
    match all.into_iter().flatten().all(|body| body.len() >= HEADER) {
        true => Ok(()),
        false => Err(Error::unreadable("network", "not a queueing discipline")),
    }
}
