//! The messages: netlink(7) attributes, most numbers in network byte order.

use super::PASSES;
use std::net::IpAddr;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const APPEND: u16 = 0x800;

/// `NFPROTO_INET`: tables for IPv4 and IPv6.
const INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `NFT_TABLE_F_OWNER`.
pub(super) const OWNED: u32 = 2;
/// `NF_INET_LOCAL_IN`, `NF_INET_LOCAL_OUT`.
pub(super) const LOCAL_IN: u32 = 1;
pub(super) const LOCAL_OUT: u32 = 3;
/// `NF_INET_FORWARD`.
pub(super) const FORWARD: u32 = 2;
const NLMSG_ERROR: u16 = 2;

/// Registers of four bytes (`NFT_REG32_00`).
const FIRST: u32 = 8;
const META_MARK: u32 = 3;
pub(super) const META_IIF: u32 = 4;
pub(super) const META_OIF: u32 = 5;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
/// The loopback interface of every network namespace.
const LOOPBACK: u32 = 1;
const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;
/// Where a TCP header has its flags.
const FLAGS: u32 = 13;

/// `nft list` shows the sets as `addr . addr . inet_service . inet_service` by these (include/datatype.h of nftables).
const TYPE_IPADDR: u32 = 7;
const TYPE_IP6ADDR: u32 = 8;
const TYPE_SERVICE: u32 = 13;

/// Expressions of a rule, as its attribute holds them.
pub(super) type Rule = Vec<u8>;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `NLA_F_NESTED`.
fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &parts.concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// `NFTA_DATA_VALUE` in an attribute.
fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
    nested(kind, &[attribute(1, bytes)])
}

/// `NFTA_LIST_ELEM` with the expression's name and parts.
fn expression(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, parts)])
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, FIRST), number(2, key)])
}

fn compare(operation: u32, with: &[u8]) -> Vec<u8> {
    expression(
        "cmp",
        &[number(1, FIRST), number(2, operation), value(3, with)],
    )
}

fn load(register: u32, header: u32, offset: u32, len: u32) -> Vec<u8> {
    let parts = [
        number(1, register),
        number(2, header),
        number(3, offset),
        number(4, len),
    ];
    expression("payload", &parts)
}

/// Keeps these bits of the first register.
fn mask(bits: u8) -> Vec<u8> {
    let parts = [
        number(1, FIRST),
        number(2, FIRST),
        number(3, 1),
        value(4, &[bits]),
        value(5, &[0]),
    ];
    expression("bitwise", &parts)
}

/// `NF_DROP`, into the verdict register.
fn drop_it() -> Vec<u8> {
    let verdict = nested(2, &[nested(2, &[number(1, 0)])]);
    expression("immediate", &[number(1, 0), verdict])
}

fn is_tcp() -> Vec<u8> {
    [
        meta(META_L4PROTO),
        compare(EQUAL, &[libc::IPPROTO_TCP as u8]),
    ]
    .concat()
}

/// Drops the first segment of a connection to this port, or to any, unless it is ours.
pub(super) fn syn(port: Option<u16>) -> Rule {
    let mut rule = vec![
        is_tcp(),
        load(FIRST, TRANSPORT_HEADER, FLAGS, 1),
        mask(SYN_ACK),
        compare(EQUAL, &[SYN]),
        meta(META_MARK),
        compare(UNEQUAL, &PASSES.to_ne_bytes()),
    ];
    if let Some(port) = port {
        rule.push(load(FIRST, TRANSPORT_HEADER, 2, 2));
        rule.push(compare(EQUAL, &port.to_be_bytes()));
    }
    rule.push(drop_it());
    rule.concat()
}

/// Drops what comes by, or goes to (`META_IIF`, `META_OIF`), another interface than loopback, and belongs to a connection
/// that is made already.
pub(super) fn under_way(interface: u32) -> Rule {
    [
        meta(interface),
        compare(UNEQUAL, &LOOPBACK.to_ne_bytes()),
        not_new(),
    ]
    .concat()
}

/// Drops what goes to this address and belongs to a connection that is made already.
pub(super) fn to(address: IpAddr) -> Rule {
    let (protocol, at, bytes) = match address {
        IpAddr::V4(v4) => (NFPROTO_IPV4, 16, v4.octets().to_vec()),
        IpAddr::V6(v6) => (NFPROTO_IPV6, 24, v6.octets().to_vec()),
    };
    [
        meta(META_NFPROTO),
        compare(EQUAL, &[protocol]),
        load(FIRST, NETWORK_HEADER, at, bytes.len() as u32),
        compare(EQUAL, &bytes),
        not_new(),
    ]
    .concat()
}

/// Drops TCP without the flag that makes a connection.
fn not_new() -> Rule {
    [
        is_tcp(),
        load(FIRST, TRANSPORT_HEADER, FLAGS, 1),
        mask(SYN),
        compare(EQUAL, &[0]),
        drop_it(),
    ]
    .concat()
}

/// Drops what belongs to a connection in a set, unless it is ours.
pub(super) fn in_set(v6: bool, set: &str) -> Rule {
    let (protocol, from, len) = match v6 {
        false => (NFPROTO_IPV4, 12, 4),
        true => (NFPROTO_IPV6, 8, 16),
    };
    let second = FIRST + len / 4;
    let ports = FIRST + len / 2;
    [
        meta(META_NFPROTO),
        compare(EQUAL, &[protocol]),
        is_tcp(),
        meta(META_MARK),
        compare(UNEQUAL, &PASSES.to_ne_bytes()),
        load(FIRST, NETWORK_HEADER, from, len),
        load(second, NETWORK_HEADER, from + len, len),
        load(ports, TRANSPORT_HEADER, 0, 2),
        load(ports + 1, TRANSPORT_HEADER, 2, 2),
        expression("lookup", &[text(1, set), number(2, FIRST)]),
        drop_it(),
    ]
    .concat()
}

/// Messages that take effect together or not at all.
pub(super) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where the last message begins.
    last: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Batch {
            bytes: Vec::new(),
            sequence: 0,
            last: 0,
        };
        batch.message(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, &[]);
        batch
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, parts: &[Vec<u8>]) {
        let parts = parts.concat();
        self.last = self.bytes.len();
        self.bytes.extend(((20 + parts.len()) as u32).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        // struct nfgenmsg.
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(parts);
        self.sequence += 1;
    }

    fn order(&mut self, kind: u16, flags: u16, parts: &[Vec<u8>]) {
        self.message(SUBSYSTEM << 8 | kind, REQUEST | flags, INET, 0, parts);
    }

    pub(super) fn table(&mut self, name: &str, flags: u32) {
        self.order(
            NEWTABLE,
            CREATE | EXCLUSIVE,
            &[text(1, name), number(2, flags)],
        );
    }

    pub(super) fn delete_table(&mut self, name: &str) {
        self.order(DELTABLE, 0, &[text(1, name)]);
    }

    /// A question, which stands alone.
    pub(super) fn get_table(name: &str) -> Batch {
        let mut batch = Batch {
            bytes: Vec::new(),
            sequence: 0,
            last: 0,
        };
        batch.order(GETTABLE, 0, &[text(1, name)]);
        batch
    }

    /// A chain of filters at a hook, before those of others, that lets pass what no rule of it drops.
    pub(super) fn chain(&mut self, table: &str, name: &str, hook: u32) {
        let at = nested(4, &[number(1, hook), attribute(2, &PRIORITY.to_be_bytes())]);
        let accept = number(5, 1);
        self.order(
            NEWCHAIN,
            CREATE,
            &[text(1, table), text(3, name), at, accept, text(7, "filter")],
        );
    }

    pub(super) fn set(&mut self, table: &str, name: &str, v6: bool) {
        let (address, len) = match v6 {
            false => (TYPE_IPADDR, 16),
            true => (TYPE_IP6ADDR, 40),
        };
        let types = [address, address, TYPE_SERVICE, TYPE_SERVICE];
        let kind = types.into_iter().fold(0, |all, one| all << 6 | one);
        self.order(
            NEWSET,
            CREATE,
            &[
                text(1, table),
                text(2, name),
                number(3, 0),
                number(4, kind),
                number(5, len),
                number(10, u32::from(v6) + 1),
            ],
        );
    }

    pub(super) fn rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        let expressions = nested(4, std::slice::from_ref(rule));
        self.order(
            NEWRULE,
            CREATE | APPEND,
            &[text(1, table), text(2, chain), expressions],
        );
    }

    pub(super) fn elements(&mut self, table: &str, set: &str, keys: &[Vec<u8>]) {
        let list: Vec<Vec<u8>> = keys.iter().map(|key| nested(1, &[value(1, key)])).collect();
        self.order(
            NEWSETELEM,
            CREATE,
            &[text(1, table), text(2, set), nested(3, &list)],
        );
    }

    /// All of it, and the number of the message whose acknowledgement says that all is done.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let last = self.sequence - 1;
        if let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            let with = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&with.to_ne_bytes());
        }
        if last > 0 {
            self.message(BATCH_END, REQUEST, 0, SUBSYSTEM, &[]);
        }
        (self.bytes, last)
    }
}

/// Before connection tracking (`NF_IP_PRI_RAW`), which must not take what is dropped for the state of things.
const PRIORITY: i32 = -300;

/// What an answer says: the error number of the first that failed, 0 where the message `last` is acknowledged, nothing
/// yet otherwise.
pub(super) fn verdict(mut answer: &[u8], last: u32) -> Option<i32> {
    while let Some(header) = answer.get(..16) {
        let word = |at: usize| {
            header
                .get(at..at + 4)?
                .try_into()
                .ok()
                .map(u32::from_ne_bytes)
        };
        let (len, sequence) = (word(0)? as usize, word(8)?);
        let errno = answer.get(16..20).map(|e| [e[0], e[1], e[2], e[3]]);
        if u16::from_ne_bytes([header[4], header[5]]) == NLMSG_ERROR
            && let Some(errno) = errno.map(i32::from_ne_bytes)
            && (errno != 0 || sequence == last)
        {
            return Some(-errno);
        }
        answer = answer
            .get(len.max(16).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    None
}
