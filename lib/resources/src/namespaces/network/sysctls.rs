//! Settings under `/proc/sys/net`: those that a new network namespace has otherwise (net/sysctl_net.c). Each is kept by
//! name and said again in the same words.

use crate::{Error, Result};
use kernel::within::in_a_new_network;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Those that are always kept: programs rest on them, and a new namespace elsewhere may have them otherwise.
const ALWAYS: [&str; 6] = [
    "net/core/somaxconn",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ping_group_range",
    "net/ipv4/tcp_keepalive_time",
];

/// Bytes that one may have, and names of them.
const MOST: usize = 4096;

type Values = BTreeMap<String, String>;

/// What differs from a new namespace, in the one this thread is in. `mtus` are the links' own.
pub fn changed(mtus: &BTreeMap<&str, u32>) -> Result<Values> {
    let mut all = read()?;
    // Each link's own is what it can carry, unless somebody chose less.
    all.retain(|name, value| match group(name) {
        Some(("net/ipv6/conf", link, "mtu")) => {
            mtus.get(link).is_none_or(|mtu| *value != mtu.to_string())
        }
        // Off, the packet filter takes no packet of a connection made known again.
        _ => true,
    });
    Ok(differing(all, &in_a_new_network(read)??))
}

/// Those that count. Where a setting of one link differs that of all links is kept: some of them are told to all links at once.
fn differing(all: Values, new: &Values) -> Values {
    let differs = |name: &str, value: &String| match group(name) {
        Some((of, link, what)) => {
            let like = if link == "all" || link == "lo" {
                link
            } else {
                "default"
            };
            new.get(&format!("{of}/{like}/{what}")) != Some(value)
        }
        None => new.get(name) != Some(value),
    };
    let of_links: BTreeSet<(String, String)> = all
        .iter()
        .filter(|(name, value)| differs(name, value))
        .filter_map(|(name, _)| group(name))
        .map(|(of, _, what)| (of.to_string(), what.to_string()))
        .collect();
    let kept = |name: &str, value: &String| match group(name) {
        Some((of, _, what)) => of_links.contains(&(of.to_string(), what.to_string())),
        None => ALWAYS.contains(&name) || differs(name, value),
    };
    all.into_iter()
        .filter(|(name, value)| kept(name, value))
        .collect()
}

/// Of a setting that each link has: the directory, the link (or `all`, or `default`), and the setting.
fn group(name: &str) -> Option<(&str, &str, &str)> {
    let (rest, what) = name.rsplit_once('/')?;
    let (of, link) = rest.rsplit_once('/')?;
    let each = of.ends_with("/conf") || of.ends_with("/neigh");
    each.then_some((of, link, what))
}

/// All that can be written and read.
fn read() -> Result<Values> {
    let mut found = Values::new();
    let mut left = vec!["net".to_string()];
    while let Some(directory) = left.pop() {
        let path = format!("/proc/sys/{directory}");
        let failed = |e: &std::io::Error| kernel::Error::io(format!("list {path}"), e);
        for entry in std::fs::read_dir(&path).map_err(|e| failed(&e))? {
            let entry = entry.map_err(|e| failed(&e))?;
            let name = format!("{directory}/{}", entry.file_name().to_string_lossy());
            let kind = entry.metadata().map_err(|e| failed(&e))?;
            if kind.is_dir() {
                left.push(name);
            } else if kind.permissions().mode() & 0o600 == 0o600
                // What has no value yet cannot be read (stable_secret).
                && let Some(value) = value(&name)
            {
                found.insert(name, value);
            }
        }
    }
    Ok(found)
}

fn value(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Sets those that are otherwise in the namespace this thread is in; of links, of those that `is_here` says. To be called again
/// when all links are on: some settings change others, and some change with the links.
pub fn set(values: &Values, is_here: impl Fn(&str) -> bool) -> Result<()> {
    let mut order: Vec<(&String, &String)> = values.iter().collect();
    // What is said to all comes before what is said to one.
    order.sort_by_key(|(name, _)| match group(name) {
        None => 0,
        Some((_, "all", _)) => 1,
        Some((_, "default", _)) => 2,
        Some(_) => 3,
    });
    for (name, wanted) in order {
        check(name, wanted)?;
        if let Some((_, link, _)) = group(name)
            && !matches!(link, "all" | "default")
            && !is_here(link)
        {
            continue;
        }
        if value(name).as_ref() == Some(wanted) {
            continue;
        }
        let path = format!("/proc/sys/{name}");
        if !Path::new(&path).exists() {
            return Err(Error::Refused(format!(
                "the image sets the sysctl {name}, which this kernel does not have for a network namespace"
            )));
        }
        std::fs::write(&path, format!("{wanted}\n"))
            .map_err(|e| kernel::Error::io(format!("write {wanted} to {path}"), &e))?;
    }
    Ok(())
}

/// That this is a name beneath `/proc/sys/net`, where a namespace shows only what is its own.
fn check(name: &str, value: &str) -> Result<()> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    let beneath = name
        .strip_prefix("net/")
        .is_some_and(|rest| rest.split('/').all(plain));
    if beneath && name.len() < MOST && value.len() < MOST {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "the image sets the sysctl {name}, which is not one of a network namespace's"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(all: &[(&str, &str)]) -> Values {
        let pair = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        all.iter().map(pair).collect()
    }

    #[test]
    fn what_differs_is_kept_and_for_links_of_all_of_them() {
        let new = values(&[
            ("net/core/somaxconn", "4096"),
            ("net/ipv4/tcp_sack", "1"),
            ("net/ipv4/tcp_ecn", "2"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/default/arp_ignore", "0"),
            ("net/ipv4/conf/lo/rp_filter", "0"),
        ]);
        let now = values(&[
            ("net/core/somaxconn", "4096"),
            ("net/ipv4/tcp_sack", "0"),
            ("net/ipv4/tcp_ecn", "2"),
            ("net/ipv4/conf/all/rp_filter", "1"),
            ("net/ipv4/conf/eth0/rp_filter", "0"),
            ("net/ipv4/conf/eth0/arp_ignore", "0"),
        ]);
        let kept = values(&[
            ("net/core/somaxconn", "4096"),
            ("net/ipv4/tcp_sack", "0"),
            ("net/ipv4/conf/all/rp_filter", "1"),
            ("net/ipv4/conf/eth0/rp_filter", "0"),
        ]);
        assert_eq!(differing(now, &new), kept);
    }

    #[test]
    fn only_names_beneath_net_are_set() {
        for bad in [
            "kernel/hostname",
            "net/../kernel/hostname",
            "net//core",
            "net/",
            "net",
        ] {
            let outcome = set(&values(&[(bad, "1")]), |_| true);
            assert!(
                outcome
                    .unwrap_err()
                    .to_string()
                    .contains("which is not one"),
                "{bad}"
            );
        }
    }
}
