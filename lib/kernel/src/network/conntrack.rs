//! Connections that the packet filter knows (ctnetlink: net/netfilter/nf_conntrack_netlink.c), listed and made again.

use crate::Result;
use crate::netlink::{
    Attribute, CREATE, EXCLUSIVE, NETLINK_NETFILTER, Netlink, attribute, attributes, find, nested,
};

const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
/// `struct nfgenmsg`.
const HEADER: usize = 4;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const NAT_SOURCE: u16 = 6;
const TIMEOUT: u16 = 7;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const USE: u16 = 11;
const ID: u16 = 12;
const NAT_DESTINATION: u16 = 13;
const TIMESTAMP: u16 = 20;
/// `IPS_EXPECTED`, `IPS_CONFIRMED`, `IPS_DYING`, `IPS_SRC_NAT_DONE`, `IPS_DST_NAT_DONE`, and what hardware does: the
/// kernel's own to set.
const NOT_OURS: u32 = 1 | 8 | 0x200 | 0x180 | 0x4000 | 0x8000;
const SRC_NAT: u32 = 0x10;
const DST_NAT: u32 = 0x20;

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
        STATUS,
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
    // One that lasts as long as something else does says no time.
    if find(&all, TIMEOUT).is_none() {
        bytes.extend(attribute(TIMEOUT, &600u32.to_be_bytes()));
    }
    let (_, reply) = (find(&all, ORIGINAL)?, find(&all, REPLY)?);
    for (bit, kind, address, port) in [
        (SRC_NAT, NAT_SOURCE, [2, 4], 3),
        (DST_NAT, NAT_DESTINATION, [1, 3], 2),
    ] {
        if status & bit != 0 {
            bytes.extend(translation(&reply, kind, address, port)?);
        }
    }
    let status = status & !(NOT_OURS | SRC_NAT | DST_NAT);
    bytes.extend(attribute(STATUS, &status.to_be_bytes()));
    Some(bytes)
}

/// What an address is translated to, read from the way back: `CTA_NAT_V4_MINIP`, `CTA_NAT_V6_MINIP` and their ends, and
/// the port.
fn translation(reply: &Attribute, kind: u16, address: [u16; 2], port: u16) -> Option<Vec<u8>> {
    let inner = reply.inner();
    let (ip, protocol) = (find(&inner, 1)?, find(&inner, 2)?);
    let (ip, protocol) = (ip.inner(), protocol.inner());
    let to = address.iter().find_map(|kind| find(&ip, *kind))?;
    let (least, most) = if to.value.len() == 4 { (1, 2) } else { (4, 5) };
    let mut parts = vec![attribute(least, to.value), attribute(most, to.value)];
    if let Some(port) = find(&protocol, port) {
        parts.push(nested(
            3,
            &[attribute(1, port.value), attribute(2, port.value)],
        ));
    }
    Some(nested(kind, &parts))
}

/// Makes connections known to the packet filter of this thread's namespace; those that are known already stay. Gives the
/// number of those that could not be.
pub fn fill(entries: &[Vec<u8>]) -> Result<usize> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let mut failed = 0;
    for body in entries {
        let what = "make a tracked connection";
        match netlink.change(what, NEW, CREATE | EXCLUSIVE, body) {
            Err(e) if e.raw() == Some(libc::EEXIST) => {}
            Err(_) => failed += 1,
            Ok(()) => {}
        }
    }
    Ok(failed)
}
