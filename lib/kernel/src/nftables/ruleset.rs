//! The rule set of a network namespace, as nf_tables lists it, told it again in one batch that takes effect as a whole
//! (net/netfilter/nf_tables_api.c). Whatever an expression holds stays as the kernel has said it.

use super::expression;
use crate::netlink::{
    APPEND, Attribute, CREATE, Message, NETLINK_NETFILTER, Netlink, attribute, attributes, find,
    message, nested, text,
};
use crate::{Error, Result};
use std::collections::HashSet;

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `struct nfgenmsg`.
const HEADER: usize = 4;
const REQUEST: u16 = 1;
const ACK: u16 = 4;

const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;

const TABLE_FLAGS: u16 = 2;
const TABLE_OWNER: u16 = 7;
const CHAIN_FLAGS: u16 = 10;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_COMPAT: u16 = 5;
const SET_ID: u16 = 10;
/// `NFT_CHAIN_BINDING`: a chain without a name, within a rule.
const CHAIN_BINDING: u32 = 4;
/// `NFT_TABLE_F_OWNER`, `NFT_TABLE_F_PERSIST`.
const OWNED: u32 = 6;

/// How a kind of object is listed, how it is told again, and which attributes only tell about it.
struct Kind {
    list: u16,
    new: u16,
    without: &'static [u16],
}

/// In the order in which they are told. Elements are listed set by set.
const KINDS: [Kind; 6] = [
    Kind {
        list: 1,
        new: 0,
        without: &[3, 4, 5, 7],
    },
    Kind {
        list: 4,
        new: NEWCHAIN,
        without: &[2, 6, 9, 11],
    },
    Kind {
        list: 19,
        new: 18,
        without: &[5, 6, 7],
    },
    Kind {
        list: 23,
        new: 22,
        without: &[4, 5, 6],
    },
    Kind {
        list: 10,
        new: NEWSET,
        without: &[SET_ID, 14, 16, 19, 20],
    },
    Kind {
        list: 7,
        new: NEWRULE,
        without: &[3, 6, 8, 9, 10, 11],
    },
];

/// One object: the number of the message that makes it, and what follows that message's header.
pub type Object = Message;

/// All there is in this thread's namespace but tables whose name begins with `but`, in the order in which it can be made.
pub fn list(but: &str) -> Result<Vec<Object>> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let mut found = Vec::new();
    for kind in &KINDS {
        let wanted = |m: &Message| !table_of(&m.body).is_none_or(|name| name.starts_with(but));
        for m in told(&mut netlink, kind)?.into_iter().filter(wanted) {
            judge(kind.new, &m.body)?;
            if kind.new == NEWRULE {
                found.push(object(kind, with_protocol(&expression::settable(&m.body))));
                continue;
            }
            let elements = (kind.new == NEWSET).then(|| m.body.clone());
            found.push(object(kind, m.body));
            if let Some(set) = elements {
                found.extend(self::elements(&mut netlink, &set)?);
            }
        }
    }
    // All sets are there before elements that may speak of them.
    found.sort_by_key(|o| match o.kind {
        NEWSETELEM => 1,
        NEWRULE => 2,
        _ => 0,
    });
    Ok(found)
}

/// What the kernel lists of a kind.
fn told(netlink: &mut Netlink, kind: &Kind) -> Result<Vec<Message>> {
    let what = "list the packet filter";
    match netlink.list(what, SUBSYSTEM | kind.list, &[0; HEADER]) {
        // A kernel without nf_tables.
        Err(e) if matches!(e.raw(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(Vec::new()),
        all => {
            let mut all = all?;
            all.retain(|m| m.kind == SUBSYSTEM | kind.new);
            Ok(all)
        }
    }
}

fn table_of(body: &[u8]) -> Option<String> {
    let all = attributes(body.get(HEADER..)?);
    find(&all, 1).map(|name| name.text())
}

fn object(kind: &Kind, body: Vec<u8>) -> Object {
    let mut kept = body.get(..HEADER).unwrap_or_default().to_vec();
    // nfgenmsg's res_id tells the generation.
    kept.get_mut(2..4).unwrap_or_default().fill(0);
    let all = attributes(body.get(HEADER..).unwrap_or_default());
    let all = all.iter().filter(|a| !kind.without.contains(&a.kind));
    kept.extend(all.flat_map(Attribute::whole));
    Object {
        kind: kind.new,
        body: kept,
    }
}

/// Objects that no message makes again.
fn judge(new: u16, body: &[u8]) -> Result<()> {
    let all = attributes(body.get(HEADER..).unwrap_or_default());
    let name = || table_of(body).unwrap_or_default();
    if new == 0 {
        let flags = find(&all, TABLE_FLAGS).map_or(0, |a| a.big());
        if flags & OWNED != 0 || find(&all, TABLE_OWNER).is_some() {
            return Err(Error::Unsupported {
                what: format!(
                    "the table {} of nf_tables, which belongs to a process",
                    name()
                ),
            });
        }
    }
    if new == NEWCHAIN && find(&all, CHAIN_FLAGS).is_some_and(|a| a.big() & CHAIN_BINDING != 0) {
        return Err(Error::Unsupported {
            what: format!(
                "a chain without a name in the table {} of nf_tables",
                name()
            ),
        });
    }
    Ok(())
}

fn elements(netlink: &mut Netlink, set: &[u8]) -> Result<Vec<Object>> {
    let (head, rest) = set.split_at(HEADER.min(set.len()));
    let all = attributes(rest);
    let (Some(table), Some(name)) = (find(&all, 1), find(&all, 2)) else {
        return Ok(Vec::new());
    };
    let mut ask = vec![head.first().copied().unwrap_or(0), 0, 0, 0];
    ask.extend(text(1, &table.text()));
    ask.extend(text(2, &name.text()));
    let listed = netlink.list("list a set of the packet filter", SUBSYSTEM | 13, &ask)?;
    Ok(listed
        .into_iter()
        .filter(|m| m.kind == SUBSYSTEM | NEWSETELEM)
        .map(|m| {
            let kind = Kind {
                list: 13,
                new: NEWSETELEM,
                without: &[],
            };
            object(&kind, expression::elements(&m.body))
        })
        .collect())
}

/// Matches and targets of iptables ask for the protocol that the rule is about, which the kernel does not say: it is what
/// the rule compares before (net/netfilter/nft_compat.c).
fn with_protocol(body: &[u8]) -> Vec<u8> {
    let all = attributes(body.get(HEADER..).unwrap_or_default());
    let Some(expressions) = find(&all, RULE_EXPRESSIONS) else {
        return body.to_vec();
    };
    let of_bridge = body.first() == Some(&(libc::NFPROTO_BRIDGE as u8));
    let mut of_iptables = false;
    let mut asked = false;
    let mut protocol = None;
    for expression in expressions.inner() {
        let parts = expression.inner();
        let name = find(&parts, 1).map_or(String::new(), |a| a.text());
        let Some(inner) = find(&parts, 2) else {
            continue;
        };
        let inner = inner.inner();
        let number = |kind| find(&inner, kind).map_or(u32::MAX, |a| a.big());
        match name.as_str() {
            "match" | "target" => of_iptables = true,
            // NFT_META_PROTOCOL; what a frame of Ethernet says that it carries.
            "meta" if of_bridge => asked = number(2) == 1,
            "payload" if of_bridge => asked = number(2) == 0 && number(3) == 12 && number(4) == 2,
            // NFT_META_L4PROTO; the protocol's byte in a header of IPv4 or IPv6.
            "meta" => asked = number(2) == 16,
            "payload" => asked = number(2) == 1 && matches!(number(3), 6 | 9) && number(4) == 1,
            "cmp" if asked && protocol.is_none() => {
                let value =
                    find(&inner, 3).and_then(|a| find(&a.inner(), 1).map(|v| v.value.to_vec()));
                let value = match value.as_deref() {
                    Some([number]) if !of_bridge => Some(u32::from(*number)),
                    // In the order in which the frame has it.
                    Some([a, b]) if of_bridge => Some(u32::from(u16::from_ne_bytes([*a, *b]))),
                    _ => None,
                };
                if let Some(number) = value {
                    // NFT_CMP_NEQ is NFT_RULE_COMPAT_F_INV.
                    let inverse = if find(&inner, 2).is_some_and(|a| a.big() == 1) {
                        2
                    } else {
                        0
                    };
                    protocol = Some((number, inverse));
                }
                asked = false;
            }
            _ => {}
        }
    }
    let mut bytes = body.to_vec();
    if let Some((number, flags)) = protocol.filter(|_| of_iptables) {
        bytes.extend(nested(
            RULE_COMPAT,
            &[
                attribute(1, &number.to_be_bytes()),
                attribute(2, &u32::to_be_bytes(flags)),
            ],
        ));
    }
    bytes
}

/// What the message of this number makes.
fn name(kind: u16) -> &'static str {
    match kind {
        0 => "a table",
        NEWCHAIN => "a chain",
        NEWRULE => "a rule",
        NEWSET => "a set",
        NEWSETELEM => "elements of a set",
        _ => "an object",
    }
}

/// The table that an object belongs to: its family and name.
pub fn owner(object: &Object) -> Option<(u8, String)> {
    Some((*object.body.first()?, table_of(&object.body)?))
}

/// The tables there are in this thread's namespace, whosever they are.
pub fn tables() -> Result<HashSet<(u8, String)>> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let all = told(&mut netlink, &KINDS[0])?;
    Ok(all.iter().filter_map(owner).collect())
}

/// Makes all of it in this thread's namespace, or nothing.
pub fn make(objects: &[Object]) -> Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let begin = [0, 0, 0, 10];
    let mut bytes = message(BATCH_BEGIN, REQUEST, 0, &begin);
    let last = objects.len() as u32;
    for (number, object) in (1u32..).zip(objects) {
        let mut body = object.body.clone();
        let flags = match object.kind {
            NEWRULE => CREATE | APPEND,
            _ => CREATE,
        };
        if object.kind == NEWSET {
            body.extend(attribute(SET_ID, &number.to_be_bytes()));
        }
        let ack = if number == last { ACK } else { 0 };
        let kind = SUBSYSTEM | object.kind;
        bytes.extend(message(kind, REQUEST | flags | ack, number, &body));
    }
    bytes.extend(message(BATCH_END, REQUEST, last + 1, &begin));
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    netlink.batch(&bytes, last, |number| {
        let object = objects.get((number as usize).wrapping_sub(1));
        let table = object.and_then(|o| table_of(&o.body));
        match (object, table) {
            (Some(object), Some(table)) => {
                format!(
                    "make {} of the table {table} of nf_tables",
                    name(object.kind)
                )
            }
            _ => "make the rule set of nf_tables".into(),
        }
    })
}
