//! Links, addresses and routes (network_namespaces(7)), by rtnetlink(7).

use crate::{Blocker, Result};
use image::namespaces::network::{Address, Link, LinkKind, Network, Route};
use kernel::rtnetlink::{self, Rtnetlink};
use kernel::{Namespace, Pid, within};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Sysctls of a network namespace that programs rest on, and that a new one may have otherwise.
const SYSCTLS: [&str; 6] = [
    "net/core/somaxconn",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ping_group_range",
    "net/ipv4/tcp_keepalive_time",
];

/// Takes the network of the process's namespace.
pub fn dump(root: Pid) -> Result<Network> {
    let (links, addresses, routes, sysctls) = look(root)?;
    let names: BTreeMap<u32, String> = links.iter().map(|l| (l.index, l.name.clone())).collect();
    let mut links: Vec<Link> = links
        .into_iter()
        .filter_map(|link| {
            Some(Link {
                kind: kind(&link)?,
                addresses: addresses
                    .iter()
                    .filter(|a| a.link == link.index && (link.loopback || !a.narrow))
                    .map(|a| Address {
                        address: a.address,
                        prefix: a.prefix,
                    })
                    .collect(),
                index: link.index,
                mac: text(&link.mac),
                mtu: link.mtu,
                up: link.up,
                name: link.name,
            })
        })
        .collect();
    links.sort_by_key(|link| (link.kind != LinkKind::Loopback, link.index));
    let routes = routes
        .iter()
        .filter(|route| !route.automatic)
        .filter_map(|route| {
            Some(Route {
                destination: route
                    .destination
                    .map(|(address, prefix)| Address { address, prefix }),
                gateway: route.gateway,
                link: names.get(&route.link?)?.clone(),
                metric: route.metric,
                version: if route.v6 { 6 } else { 4 },
            })
        })
        .collect();
    Ok(Network {
        links,
        routes,
        sysctls,
    })
}

type Seen = (
    Vec<rtnetlink::Link>,
    Vec<rtnetlink::Address>,
    Vec<rtnetlink::Route>,
    BTreeMap<String, String>,
);

fn look(root: Pid) -> Result<Seen> {
    let seen = within(root, &[Namespace::Net], || -> kernel::Result<Seen> {
        let mut rt = Rtnetlink::open()?;
        let sysctls = SYSCTLS.iter().filter_map(|name| {
            let value = sysctl(name)?;
            Some((name.to_string(), value))
        });
        Ok((
            rt.links()?,
            rt.addresses()?,
            rt.routes()?,
            sysctls.collect(),
        ))
    })??;
    Ok(seen)
}

fn sysctl(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn kind(link: &rtnetlink::Link) -> Option<LinkKind> {
    match link.kind.as_str() {
        _ if link.loopback => Some(LinkKind::Loopback),
        "veth" => Some(LinkKind::Veth),
        _ => None,
    }
}

/// A hardware address as `ip link` writes it.
pub fn text(mac: &[u8]) -> String {
    let bytes: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
    bytes.join(":")
}

/// Reads what [`text`] wrote.
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut fields = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(fields.next()?, 16).ok()?;
    }
    fields.next().is_none().then_some(bytes)
}

/// The addresses a process is reached by: neither loopback nor link-local.
pub fn addresses(root: Pid) -> Result<Vec<IpAddr>> {
    let (_, addresses, ..) = look(root)?;
    Ok(addresses
        .into_iter()
        .filter(|a| !a.narrow && !a.address.is_loopback())
        .map(|a| a.address)
        .collect())
}

/// Links that cannot be made again.
pub fn blockers(root: Pid) -> Result<Vec<Blocker>> {
    let (links, ..) = look(root)?;
    // Devices that the kernel makes in every namespace of itself (net.core.fb_tunnels_only_for_init_net) are not the
    // container's doing; switched off they carry nothing.
    Ok(links
        .iter()
        .filter(|link| kind(link).is_none() && link.up)
        .map(|link| Blocker {
            pid: root,
            place: format!("network link {}", link.name),
            what: match link.kind.as_str() {
                "" => "a network device of the host's".into(),
                kind => format!("a link of kind {kind}"),
            },
            remedy: "remove it or switch it off, and reach the container by a veth pair".into(),
        })
        .collect())
}

/// Gives the namespace of process `pid` its loopback, sysctls, addresses and routes; the links are there already.
pub fn restore(pid: Pid, network: &Network) -> Result<()> {
    within(pid, &[Namespace::Net], || configure(network))?
}

/// Brings up the loopback of the namespace of process `pid`.
pub fn loopback(pid: Pid) -> Result<()> {
    within(pid, &[Namespace::Net], || {
        let mut rt = Rtnetlink::open()?;
        for link in rt.links()?.iter().filter(|link| link.loopback) {
            rt.set_up(link.index, true)?;
        }
        Ok(())
    })?
}

fn configure(network: &Network) -> Result<()> {
    let mut rt = Rtnetlink::open()?;
    let present = rt.links()?;
    let index = |name: &str| present.iter().find(|l| l.name == name).map(|l| l.index);
    for link in &network.links {
        let Some(index) = index(&link.name) else {
            continue;
        };
        for a in &link.addresses {
            if link.kind == LinkKind::Loopback && a.address.is_loopback() {
                continue; // there of itself once it is up
            }
            rt.add_address(index, a.address, a.prefix)?;
        }
        rt.set_up(index, link.up)?;
    }
    for route in &network.routes {
        let Some(link) = index(&route.link) else {
            continue;
        };
        let made = rt.add_route(&rtnetlink::Route {
            destination: route.destination.map(|a| (a.address, a.prefix)),
            gateway: route.gateway,
            link: Some(link),
            metric: route.metric.filter(|_| route.version == 4),
            v6: route.version == 6,
            automatic: false,
        });
        match made {
            Err(e) if e.raw() == Some(nix::errno::Errno::EEXIST as i32) => {}
            made => made?,
        }
    }
    for (name, value) in &network.sysctls {
        if !SYSCTLS.contains(&name.as_str()) {
            return Err(crate::Error::Refused(format!(
                "the image sets the sysctl {name}, which is not one of a network namespace's"
            )));
        }
        if sysctl(name).as_ref() != Some(value) {
            let path = format!("/proc/sys/{name}");
            std::fs::write(&path, value)
                .map_err(|e| kernel::Error::io(format!("write {path}"), &e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_as_they_are_written() {
        let bytes = [2, 0x42, 0xac, 0, 0, 0xff];
        assert_eq!(text(&bytes), "02:42:ac:00:00:ff");
        assert_eq!(mac(&text(&bytes)), Some(bytes));
        for bad in ["", "02:42", "02:42:ac:00:00:ff:00", "02:42:ac:00:00:fff"] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
