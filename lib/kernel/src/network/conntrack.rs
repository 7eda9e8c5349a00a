//! Connections that the packet filter knows (ctnetlink: net/netfilter/nf_conntrack_netlink.c), listed and made again.

use crate::Result;
use crate::netlink::{
    Attribute, CREATE, EXCLUSIVE, NETLINK_NETFILTER, Netlink, attribute, attributes, find, nested,
};
use std::net::IpAddr;

const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
/// `struct nfgenmsg`.
const HEADER: usize = 4;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL: u16 = 4;
const NAT_SOURCE: u16 = 6;
const TIMEOUT: u16 = 7;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const USE: u16 = 11;
const ID: u16 = 12;
const NAT_DESTINATION: u16 = 13;
const MASTER: u16 = 14;
const TIMESTAMP: u16 = 20;

/// `IPS_CONFIRMED`: whoever makes one says so.
const CONFIRMED: u32 = 8;
/// `IPS_DYING`, `IPS_SRC_NAT_DONE`, `IPS_DST_NAT_DONE`, and what hardware does: the kernel's own to set.
const NOT_OURS: u32 = 0x200 | 0x180 | 0x4000 | 0x8000;
const SRC_NAT: u32 = 0x10;
const DST_NAT: u32 = 0x20;

/// Of a tuple (`CTA_TUPLE_IP`, `CTA_TUPLE_PROTO`), the numbers of what its source and its destination say: addresses of IPv4
/// and IPv6 and the port, or the identifier of an echo, which is that of both ends.
const IP: u16 = 1;
const PORTS: u16 = 2;
const SOURCE: [(u16, u16); 5] = [(IP, 1), (IP, 3), (PORTS, 2), (PORTS, 4), (PORTS, 7)];
const DESTINATION: [(u16, u16); 5] = [(IP, 2), (IP, 4), (PORTS, 3), (PORTS, 4), (PORTS, 7)];

/// All of the namespace of this thread, without their messages' headers; none where the kernel does not list them.
pub fn list() -> Result<Vec<Vec<u8>>> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    match netlink.list("list tracked connections", GET, &[0; HEADER]) {
        Ok(all) => Ok(all
            .iter()
            .filter(|m| m.kind == NEW)
            .filter_map(|m| cleaned(&m.body))
            .collect()),
        // The kernel has no connection tracking, or none to be listed.
        Err(e)
            if matches!(
                e.raw(),
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT)
            ) =>
        {
            Ok(Vec::new())
        }
        Err(e) => Err(e),
    }
}

/// The connection as it is told to be made.
fn cleaned(body: &[u8]) -> Option<Vec<u8>> {
    let (head, rest) = body.split_at_checked(HEADER)?;
    let all = attributes(rest);
    let status = find(&all, STATUS)?.big();
    let mut bytes = head.to_vec();
    // struct nfgenmsg: res_id.
    bytes[2..4].fill(0);
    let unsaid = [
        REPLY,
        STATUS,
        PROTOCOL,
        NAT_SOURCE,
        NAT_DESTINATION,
        COUNTERS_ORIGINAL,
        COUNTERS_REPLY,
        USE,
        ID,
        TIMESTAMP,
    ];
    let kept = all.iter().filter(|a| !unsaid.contains(&a.kind));
    bytes.extend(kept.flat_map(Attribute::whole));
    if let Some(protocol) = find(&all, PROTOCOL) {
        bytes.extend(said_of(&protocol));
    }
    // One that lasts as long as something else does says no time.
    if find(&all, TIMEOUT).is_none() {
        bytes.extend(attribute(TIMEOUT, &600u32.to_be_bytes()));
    }
    // The way back as it would be without translations, which the kernel makes anew.
    let (original, reply) = (find(&all, ORIGINAL)?, find(&all, REPLY)?);
    let mut back = reply.whole();
    for (bit, kind, translated, was) in [
        (SRC_NAT, NAT_SOURCE, DESTINATION, SOURCE),
        (DST_NAT, NAT_DESTINATION, SOURCE, DESTINATION),
    ] {
        if status & bit != 0 {
            bytes.extend(translation(&reply, kind, translated)?);
            back = undone(attributes(&back).first()?, &original, translated, was);
        }
    }
    bytes.extend(back);
    let status = status & !(NOT_OURS | SRC_NAT | DST_NAT) | CONFIRMED;
    bytes.extend(attribute(STATUS, &status.to_be_bytes()));
    Some(bytes)
}

/// What it says of its protocol (`CTA_PROTOINFO`). Flags of TCP's ends count as far as a mask says (`struct nf_ct_tcp_flags`),
/// which is not listed.
fn said_of(protocol: &Attribute) -> Vec<u8> {
    const TCP: u16 = 1;
    const FLAGS: [u16; 2] = [4, 5];
    let with_mask = |part: &Attribute| match part.value {
        [flags, _] if FLAGS.contains(&part.kind) => attribute(part.kind, &[*flags, 0xff]),
        _ => part.whole(),
    };
    let parts = protocol.inner();
    let parts = parts.iter().map(|part| match part.kind {
        TCP => nested(TCP, &part.inner().iter().map(with_mask).collect::<Vec<_>>()),
        _ => part.whole(),
    });
    nested(PROTOCOL, &parts.collect::<Vec<_>>())
}

/// What one end's address and port are translated to, read from the way back: `CTA_NAT_V4_MINIP`, `CTA_NAT_V6_MINIP` and their
/// ends, and the port.
fn translation(reply: &Attribute, kind: u16, end: [(u16, u16); 5]) -> Option<Vec<u8>> {
    let inner = reply.inner();
    let said = |of: u16| {
        let part = find(&inner, of)?.inner();
        let mut all = end.iter().filter(|(parent, _)| *parent == of);
        all.find_map(|(_, kind)| find(&part, *kind))
    };
    let to = said(IP)?;
    let (least, most) = if to.value.len() == 4 { (1, 2) } else { (4, 5) };
    let mut parts = vec![attribute(least, to.value), attribute(most, to.value)];
    if let Some(port) = said(PORTS) {
        parts.push(nested(
            3,
            &[attribute(1, port.value), attribute(2, port.value)],
        ));
    }
    Some(nested(kind, &parts))
}

/// The way back with what `end` of it says as the original's `was` says it.
fn undone(
    reply: &Attribute,
    original: &Attribute,
    end: [(u16, u16); 5],
    was: [(u16, u16); 5],
) -> Vec<u8> {
    let originals = original.inner();
    let part = |parent: &Attribute| {
        let from = find(&originals, parent.kind).map_or(Vec::new(), |a| a.inner());
        let inner = parent.inner();
        let parts = inner.iter().map(|a| {
            let at = end.iter().position(|e| *e == (parent.kind, a.kind));
            let wanted = at.and_then(|at| was.get(at));
            match wanted.and_then(|(_, kind)| find(&from, *kind)) {
                Some(value) => attribute(a.kind, value.value),
                None => a.whole(),
            }
        });
        nested(parent.kind, &parts.collect::<Vec<_>>())
    };
    let parts = reply.inner();
    let parts = parts.iter().map(|a| match a.kind {
        IP | PORTS => part(a),
        _ => a.whole(),
    });
    nested(REPLY, &parts.collect::<Vec<_>>())
}

/// Whether one of the addresses is an end of a connection.
pub fn speaks_of(entry: &[u8], addresses: &[IpAddr]) -> bool {
    let all = attributes(entry.get(HEADER..).unwrap_or_default());
    let tuples = all.iter().filter(|a| matches!(a.kind, ORIGINAL | REPLY));
    let mut said = tuples
        .filter_map(|tuple| find(&tuple.inner(), IP))
        .flat_map(|ip| ip.inner());
    said.any(|a| {
        let v4 = <[u8; 4]>::try_from(a.value).map(IpAddr::from);
        let address = v4.or_else(|_| <[u8; 16]>::try_from(a.value).map(IpAddr::from));
        address.is_ok_and(|address| addresses.contains(&address))
    })
}

/// Makes connections known to the packet filter of this thread's namespace; those that are known already stay. Gives the
/// number of those that could not be.
pub fn fill(entries: &[Vec<u8>]) -> Result<usize> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let mut failed = 0;
    // One that another has led to (a transfer of FTP's) needs that.
    let led_to = |body: &&Vec<u8>| {
        let all = attributes(body.get(HEADER..).unwrap_or_default());
        find(&all, MASTER).is_some()
    };
    let (later, first): (Vec<_>, Vec<_>) = entries.iter().partition(led_to);
    for body in first.into_iter().chain(later) {
        let what = "make a tracked connection";
        match netlink.change(what, NEW, CREATE | EXCLUSIVE, body) {
            Err(e) if e.raw() == Some(libc::EEXIST) => {}
            Err(_) => failed += 1,
            Ok(()) => {}
        }
    }
    Ok(failed)
}
