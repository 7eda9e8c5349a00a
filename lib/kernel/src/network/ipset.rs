//! Sets of ipset(8) (net/netfilter/ipset/ip_set_core.c), listed and made again. What the rules of iptables look up is not
//! a set's name but its index, so each has that again.

use crate::netlink::{
    Attribute, EXCLUSIVE, NETLINK_NETFILTER, Netlink, attribute, attributes, find, nested, text,
};
use crate::{Error, Result};

const SUBSYSTEM: u16 = 6 << 8;
const CREATE: u16 = 2;
const DESTROY: u16 = 3;
const LIST: u16 = 7;
const SAVE: u16 = 8;
const ADD: u16 = 9;
/// `struct nfgenmsg`.
const HEADER: usize = 4;

const PROTOCOL: u16 = 1;
const NAME: u16 = 2;
const TYPE: u16 = 3;
const REVISION: u16 = 4;
const FAMILY: u16 = 5;
const SETTINGS: u16 = 7;
const ELEMENTS: u16 = 8;
const LINE: u16 = 9;
const INDEX: u16 = 11;
/// `NLA_F_NET_BYTEORDER`.
const NETWORK_ORDER: u16 = 0x4000;
/// `IPSET_PROTOCOL`.
const VERSION: u8 = 7;

/// All of this thread's namespace, as the kernel lists them, without their messages' headers: a set comes first and its elements
/// with it and after it.
pub fn list() -> Result<Vec<Vec<u8>>> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let mut ask = vec![0; HEADER];
    ask.extend(attribute(PROTOCOL, &[VERSION]));
    match netlink.list("list the sets of ipset", SUBSYSTEM | SAVE, &ask) {
        Ok(all) => Ok(all
            .into_iter()
            .filter(|m| m.kind == SUBSYSTEM | LIST)
            .map(|m| m.body)
            .collect()),
        // The kernel has no sets.
        Err(e) if matches!(e.raw(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// One message of the list.
struct Listed<'a>(Vec<Attribute<'a>>);

impl Listed<'_> {
    fn name(&self) -> String {
        find(&self.0, NAME).map_or(String::new(), |a| a.text())
    }

    /// Where the list begins with a set, its index.
    fn index(&self) -> Option<u16> {
        find(&self.0, TYPE)?;
        let value = find(&self.0, INDEX)?.value;
        Some(u16::from_be_bytes([*value.first()?, *value.get(1)?]))
    }

    fn create(&self) -> Vec<u8> {
        let mut body = begin(&self.name());
        for a in &self.0 {
            match a.kind {
                TYPE | REVISION | FAMILY => body.extend(a.whole()),
                SETTINGS => {
                    // IPSET_ATTR_ELEMENTS, IPSET_ATTR_REFERENCES and IPSET_ATTR_MEMSIZE only tell.
                    let kept = a.inner();
                    let kept = kept.iter().filter(|s| !(24..=26).contains(&s.kind));
                    let kept: Vec<Vec<u8>> = kept.map(|s| said(s, &[1, 2, 12])).collect();
                    body.extend(nested(SETTINGS, &kept));
                }
                _ => {}
            }
        }
        body
    }

    fn add(&self) -> Option<Vec<u8>> {
        let elements = find(&self.0, ELEMENTS).filter(|a| !a.value.is_empty())?;
        let mut body = begin(&self.name());
        body.extend(attribute(LINE, &1u32.to_be_bytes()));
        // Of elements it is IPSET_ATTR_IP, IPSET_ATTR_IP_TO, IPSET_ATTR_IP2 and IPSET_ATTR_IP2_TO.
        let element = |e: &Attribute| {
            let parts: Vec<Vec<u8>> = e.inner().iter().map(|a| said(a, &[1, 2, 20, 22])).collect();
            nested(SETTINGS, &parts)
        };
        let parts: Vec<Vec<u8>> = elements.inner().iter().map(element).collect();
        body.extend(nested(ELEMENTS, &parts));
        Some(body)
    }
}

/// An attribute as it is told. Addresses are in one of these, and are listed without what the kernel insists on when it is
/// told them: that they are in network order (`ip_set_get_ipaddr4`).
fn said(a: &Attribute, addresses: &[u16]) -> Vec<u8> {
    let inner = a.inner();
    let family = |kind| matches!(kind, 1 | 2);
    match &inner[..] {
        [address] if addresses.contains(&a.kind) && family(address.kind) => nested(
            a.kind,
            &[attribute(address.kind | NETWORK_ORDER, address.value)],
        ),
        _ => a.whole(),
    }
}

fn begin(name: &str) -> Vec<u8> {
    let mut body = vec![0; HEADER];
    body.extend(attribute(PROTOCOL, &[VERSION]));
    body.extend(text(NAME, name));
    body
}

/// A set that only takes an index.
fn filler(name: &str) -> Vec<u8> {
    let mut body = begin(name);
    body.extend(text(TYPE, "bitmap:port"));
    body.extend(attribute(REVISION, &[0]));
    body.extend(attribute(FAMILY, &[0]));
    // IPSET_ATTR_PORT_FROM, IPSET_ATTR_PORT_TO.
    let ports = [4, 5].map(|kind| attribute(kind | NETWORK_ORDER, &[0, 0]));
    body.extend(nested(SETTINGS, &ports));
    body
}

/// Makes all of them in this thread's namespace, where there are none yet.
pub fn make(listed: &[Vec<u8>]) -> Result<()> {
    let listed: Vec<Listed> = listed
        .iter()
        .map(|body| Listed(attributes(body.get(HEADER..).unwrap_or_default())))
        .collect();
    let mut sets: Vec<(u16, &Listed)> = listed
        .iter()
        .filter_map(|set| Some((set.index()?, set)))
        .collect();
    sets.sort_by_key(|(index, _)| *index);
    if !sets.windows(2).all(|two| two[0].0 < two[1].0) {
        return Err(Error::unreadable(
            "ipset",
            "the image has two sets of one index",
        ));
    }
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let mut create =
        |what: String, body: &[u8]| netlink.change(&what, SUBSYSTEM | CREATE, EXCLUSIVE, body);
    // A new one takes the first index that is free.
    let mut fillers = Vec::new();
    let mut next = 0;
    for (index, set) in sets {
        for free in next..index {
            let name = format!("ferry-{free}");
            create(format!("make the set {name} of ipset"), &filler(&name))?;
            fillers.push(name);
        }
        create(
            format!("make the set {} of ipset", set.name()),
            &set.create(),
        )?;
        next = index + 1;
    }
    for name in &fillers {
        let what = format!("remove the set {name} of ipset");
        netlink.change(&what, SUBSYSTEM | DESTROY, 0, &begin(name))?;
    }
    // Sets of sets are listed last.
    for set in &listed {
        if let Some(body) = set.add() {
            let what = format!("fill the set {} of ipset", set.name());
            netlink.change(&what, SUBSYSTEM | ADD, 0, &body)?;
        }
    }
    Ok(())
}
