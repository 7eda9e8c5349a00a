//! What a network namespace holds beside links and tables, and that cannot be made again here.

use crate::Result;
use crate::netlink::{NETLINK_ROUTE, NETLINK_XFRM, Netlink};
use crate::within::in_a_new_network;

const GETSA: u16 = 0x12;
const GETPOLICY: u16 = 0x15;
const GETADDRLABEL: u16 = 74;

/// What there is of it in this thread's namespace, in words.
pub fn list() -> Result<Vec<String>> {
    let mut found = Vec::new();
    if ipsec()? {
        found.push("states or policies of IPsec (ip xfrm)".into());
    }
    if forwards_multicasts() {
        found.push("interfaces of multicast routing (ip mroute)".into());
    }
    if labels()? != in_a_new_network(labels)?? {
        found.push("labels of addresses that somebody has changed (ip addrlabel)".into());
    }
    Ok(found)
}

fn ipsec() -> Result<bool> {
    let mut netlink = match Netlink::open(NETLINK_XFRM) {
        // The kernel has no IPsec.
        Err(e) if e.raw() == Some(libc::EPROTONOSUPPORT) => return Ok(false),
        netlink => netlink?,
    };
    for kind in [GETSA, GETPOLICY] {
        if !netlink.list("list what IPsec has", kind, &[])?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first line says what the columns are.
fn forwards_multicasts() -> bool {
    ["ip_mr_vif", "ip6_mr_vif"].iter().any(|name| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        text.is_ok_and(|text| text.lines().count() > 1)
    })
}

fn labels() -> Result<Vec<Vec<u8>>> {
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    // struct ifaddrlblmsg, of which the last word counts changes.
    let mut ask = vec![0; 12];
    ask[0] = libc::AF_INET6 as u8;
    let listed = match netlink.list("list labels of addresses", GETADDRLABEL, &ask) {
        Err(e) if matches!(e.raw(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => Vec::new(),
        listed => listed?,
    };
    let without_count = |mut body: Vec<u8>| {
        body.get_mut(8..12).unwrap_or_default().fill(0);
        body
    };
    let mut all: Vec<Vec<u8>> = listed.into_iter().map(|m| without_count(m.body)).collect();
    all.sort_unstable();
    Ok(all)
}
