//! Expressions and elements of sets as they are told again: the kernel lists values that it does not take back, as they say
//! nothing (net/netfilter/nft_exthdr.c, nft_osf.c, nft_dynset.c, nf_tables_api.c).

use crate::netlink::{Attribute, attributes, find, nested};

/// `struct nfgenmsg`.
const HEADER: usize = 4;
const RULE_EXPRESSIONS: u16 = 4;
const NAME: u16 = 1;
const DATA: u16 = 2;

/// A rule whose expressions can be told again.
pub fn settable(rule: &[u8]) -> Vec<u8> {
    rewritten(rule, RULE_EXPRESSIONS, |expression| {
        let parts = expression.inner();
        let name = find(&parts, NAME).map_or(String::new(), |a| a.text());
        let parts = parts.iter().map(|part| match part.kind {
            DATA => {
                let all = part.inner();
                let kept = all.iter().filter(|a| !says_nothing(&name, &all, a));
                nested(DATA, &kept.map(Attribute::whole).collect::<Vec<_>>())
            }
            _ => part.whole(),
        });
        nested(expression.kind, &parts.collect::<Vec<_>>())
    })
}

fn says_nothing(expression: &str, all: &[Attribute], a: &Attribute) -> bool {
    let is_zero = || a.value.iter().all(|byte| *byte == 0);
    match (expression, a.kind) {
        // NFTA_EXTHDR_FLAGS where it sets (NFTA_EXTHDR_SREG): a segment's size of TCP.
        ("exthdr", 5) if find(all, 7).is_some() => true,
        // Where it takes an option out, all but NFTA_EXTHDR_TYPE and NFTA_EXTHDR_OP.
        ("exthdr", kind) => find(all, 1).or(find(all, 7)).is_none() && !matches!(kind, 2 | 6),
        // NFTA_OSF_FLAGS.
        ("osf", 3) => is_zero(),
        // NFTA_DYNSET_TIMEOUT: a set without times has none.
        ("dynset", 6) => is_zero(),
        _ => false,
    }
}

/// Elements of a set that can be told again: the end of an interval has nothing of its own.
pub fn elements(listed: &[u8]) -> Vec<u8> {
    const ELEMENTS: u16 = 3;
    const ELEMENT_FLAGS: u16 = 3;
    const INTERVAL_END: u32 = 1;
    rewritten(listed, ELEMENTS, |element| {
        let parts = element.inner();
        let is_end = find(&parts, ELEMENT_FLAGS).is_some_and(|a| a.big() & INTERVAL_END != 0);
        // NFTA_SET_ELEM_TIMEOUT, NFTA_SET_ELEM_EXPIRATION.
        let kept = parts
            .iter()
            .filter(|a| !(is_end && matches!(a.kind, 4 | 5)));
        nested(
            element.kind,
            &kept.map(Attribute::whole).collect::<Vec<_>>(),
        )
    })
}

/// The object with each part of its list `of` written anew.
fn rewritten(body: &[u8], of: u16, part: impl Fn(&Attribute) -> Vec<u8>) -> Vec<u8> {
    let (head, rest) = body.split_at(HEADER.min(body.len()));
    let mut bytes = head.to_vec();
    for a in attributes(rest) {
        match a.kind == of {
            true => {
                let parts: Vec<_> = a.inner().iter().map(&part).collect();
                bytes.extend(nested(of, &parts));
            }
            false => bytes.extend(a.whole()),
        }
    }
    bytes
}
