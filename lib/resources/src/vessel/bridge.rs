//! The network of native containers: a bridge of our own with a subnet that collides with nothing on this host, one pair
//! of links and one address for each. The bridge is made with the first container and goes with the last; the subnet is
//! remembered by the bridge's own address.

use super::registry::{self, Entry, Lock};
use crate::{Error, Result};
use kernel::rtnetlink::{Link, Route, Rtnetlink, Veth};
use kernel::{Namespace, Pid, within};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

/// Its name.
pub const BRIDGE: &str = "ferry0";
/// Bits of the subnet.
const PREFIX: u8 = 20;
/// Subnets to choose from: little-used corners of the private ranges (RFC 1918).
const SUBNETS: [Ipv4Addr; 6] = [
    Ipv4Addr::new(10, 213, 64, 0),
    Ipv4Addr::new(10, 214, 64, 0),
    Ipv4Addr::new(10, 215, 64, 0),
    Ipv4Addr::new(10, 216, 64, 0),
    Ipv4Addr::new(172, 30, 208, 0),
    Ipv4Addr::new(192, 168, 224, 0),
];

/// A network of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnet {
    first: u32,
    prefix: u8,
}

impl Subnet {
    pub(super) fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Subnet {
            first: address.to_bits() & mask,
            prefix,
        }
    }

    fn last(&self) -> u32 {
        self.first | u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0)
    }

    pub(super) fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last()).contains(&address.to_bits())
    }

    fn overlaps(&self, other: &Subnet) -> bool {
        self.first <= other.last() && other.first <= self.last()
    }

    /// The bridge's own address: the first in the network.
    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + 1)
    }

    /// The lowest address that nobody has.
    fn free(&self, used: &[IpAddr]) -> Option<Ipv4Addr> {
        (self.first + 2..self.last())
            .map(Ipv4Addr::from_bits)
            .find(|a| !used.contains(&IpAddr::V4(*a)))
    }
}

/// A place on the bridge, before the container is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: Ipv4Addr,
    pub(super) link: String,
    pub(super) gateway: Ipv4Addr,
    prefix: u8,
    bridge: u32,
}

/// Chooses an address: `wanted`, or the lowest that is free. Makes the bridge where it is not there.
pub(super) fn place(
    _lock: &Lock,
    entries: &[Entry],
    wanted: Option<(Ipv4Addr, u8)>,
    warnings: &mut Vec<String>,
) -> Result<Place> {
    let mut rt = Rtnetlink::open()?;
    let (bridge, subnet) = match rt.link(BRIDGE)? {
        Some(bridge) => found(&mut rt, bridge)?,
        None => make(&mut rt, wanted, warnings)?,
    };
    let used: Vec<IpAddr> = entries.iter().flat_map(|e| e.addresses.clone()).collect();
    let address = match wanted {
        None => subnet.free(&used).ok_or_else(|| {
            Error::Refused(format!(
                "all addresses of the bridge {BRIDGE} are taken; end a container"
            ))
        })?,
        Some((address, _)) if !subnet.contains(address) || address == subnet.gateway() => {
            return Err(Error::Refused(format!(
                "the container had the address {address}, which is not in the subnet of the bridge {BRIDGE} here \
                 ({}/{}); say --network bridge for a new address, none, or host",
                Ipv4Addr::from_bits(subnet.first),
                subnet.prefix
            )));
        }
        Some((address, _)) if used.contains(&IpAddr::V4(address)) => {
            return Err(Error::Refused(format!(
                "the container's address {address} is taken by another native container; say --network bridge for a \
                 new one"
            )));
        }
        Some((address, _)) => address,
    };
    Ok(Place {
        address,
        link: format!("ferry-{:x}", address.to_bits()),
        gateway: subnet.gateway(),
        prefix: subnet.prefix,
        bridge,
    })
}

fn found(rt: &mut Rtnetlink, bridge: Link) -> Result<(u32, Subnet)> {
    let addresses = rt.addresses()?;
    let own = addresses.iter().find_map(|a| match a.address {
        IpAddr::V4(v4) if a.link == bridge.index => Some(Subnet::new(v4, a.prefix)),
        _ => None,
    });
    match own {
        Some(subnet) if bridge.kind == "bridge" && subnet.prefix <= 29 => {
            Ok((bridge.index, subnet))
        }
        _ => Err(Error::Refused(format!(
            "the link {BRIDGE} is no bridge of ours: a bridge with an IPv4 network of its own; remove or rename it"
        ))),
    }
}

/// Makes the bridge. A container that keeps its address brings its subnet along, if that is free here.
fn make(
    rt: &mut Rtnetlink,
    wanted: Option<(Ipv4Addr, u8)>,
    warnings: &mut Vec<String>,
) -> Result<(u32, Subnet)> {
    let mut taken = vec![];
    for route in rt.routes()? {
        if let Some((IpAddr::V4(to), prefix)) = route.destination {
            taken.push(Subnet::new(to, prefix));
        }
    }
    for address in rt.addresses()? {
        if let IpAddr::V4(v4) = address.address {
            taken.push(Subnet::new(v4, address.prefix));
        }
    }
    let wanted = wanted.map(|(address, prefix)| Subnet::new(address, prefix));
    let own = SUBNETS.map(|subnet| Subnet::new(subnet, PREFIX));
    let subnet = wanted
        .into_iter()
        .chain(own)
        .find(|subnet| !taken.iter().any(|other| other.overlaps(subnet)))
        .ok_or_else(|| {
            Error::Refused(format!(
                "every subnet for the bridge {BRIDGE} collides with a route of this host; say --network host or none"
            ))
        })?;
    rt.add_bridge(BRIDGE, hardware(subnet.gateway()))?;
    let mut set = || -> Result<u32> {
        let link = rt.link(BRIDGE)?;
        let index = link.map(|l| l.index).unwrap_or(0);
        rt.add_address(index, subnet.gateway().into(), subnet.prefix)?;
        rt.set_up(index, true)?;
        Ok(index)
    };
    let index = set().inspect_err(|_| {
        detach(BRIDGE);
    })?;
    if let Err(why) = masquerade(&subnet) {
        warnings.push(format!(
            "no way beyond this host for containers on {BRIDGE} ({why}); they reach it and each other"
        ));
    }
    Ok((index, subnet))
}

/// Makes the pair of links for the container of process `pid` and brings up its end, which gets this index (0: any).
pub(super) fn attach(place: &Place, pid: Pid, name: &str, mtu: u32, index: u32) -> Result<()> {
    let mut rt = Rtnetlink::open()?;
    if rt.link(&place.link)?.is_some() {
        // The address was free, so this is of a container that is gone.
        detach(&place.link);
    }
    rt.add_veth(&Veth {
        name: &place.link,
        bridge: place.bridge,
        peer: name,
        peer_mac: hardware(place.address),
        peer_index: index,
        mtu,
        pid,
    })?;
    if let Some(link) = rt.link(&place.link)? {
        rt.set_up(link.index, true)?;
    }
    within(pid, &[Namespace::Net], || -> Result<()> {
        let mut rt = Rtnetlink::open()?;
        for link in rt.links()? {
            if link.loopback {
                rt.set_up(link.index, true)?;
            }
            if link.name == name {
                rt.add_address(link.index, place.address.into(), place.prefix)?;
                rt.set_up(link.index, true)?;
                rt.add_route(&Route {
                    destination: None,
                    gateway: Some(place.gateway.into()),
                    link: Some(link.index),
                    metric: None,
                    v6: false,
                    automatic: false,
                })?;
            }
        }
        Ok(())
    })?
}

/// Removes a link of ours, if it is there.
pub(super) fn detach(link: &str) {
    if let Ok(mut rt) = Rtnetlink::open()
        && let Ok(Some(found)) = rt.link(link)
    {
        let _ = rt.delete_link(found.index);
    }
}

/// Removes the bridge when no container has an address on it.
pub(super) fn remove_if_unused(_lock: &Lock) {
    let used = registry::read_all().is_ok_and(|all| all.iter().any(|e| e.link.is_some()));
    let Ok(mut rt) = Rtnetlink::open() else {
        return;
    };
    let Ok(Some(bridge)) = rt.link(BRIDGE) else {
        return;
    };
    let ports = rt.links().unwrap_or_default();
    if used || ports.iter().any(|l| l.master == Some(bridge.index)) {
        return;
    }
    let _ = nft("delete table ip ferry\n");
    let _ = rt.delete_link(bridge.index);
}

/// A locally administered hardware address, made of the IP address: a container that keeps the one keeps the other.
fn hardware(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x46, a, b, c, d]
}

/// Lets containers reach what the host reaches, under the host's address. A TCP connection that has come here with its
/// container is not new: it keeps its own.
fn masquerade(subnet: &Subnet) -> std::result::Result<(), String> {
    let network = Ipv4Addr::from_bits(subnet.first);
    nft(&format!(
        "table ip ferry {{\n\
         chain postrouting {{ type nat hook postrouting priority 100; \
         tcp flags & (syn | ack) != syn accept; \
         ip saddr {network}/{} oifname != \"{BRIDGE}\" masquerade; }}\n}}\n",
        subnet.prefix
    ))?;
    let mut rt = Rtnetlink::open().map_err(|e| e.to_string())?;
    let routes = rt.routes().map_err(|e| e.to_string())?;
    let links = rt.links().map_err(|e| e.to_string())?;
    let out = links.iter().filter(|l| {
        let default = |r: &Route| r.destination.is_none() && r.link == Some(l.index) && !r.v6;
        l.name == BRIDGE || routes.iter().any(default)
    });
    for link in out {
        let path = format!("/proc/sys/net/ipv4/conf/{}/forwarding", link.name);
        std::fs::write(&path, "1").map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(())
}

fn nft(rules: &str) -> std::result::Result<(), String> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    // What it sets must not come after what the keeper takes away when we are killed.
    let mut child = kernel::own::child::bound(&mut command)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "nft is not installed".to_string(),
            _ => format!("nft: {e}"),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = std::io::Write::write_all(&mut stdin, rules.as_bytes());
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("nft: {status}")),
        Err(e) => Err(format!("nft: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_out_from_the_lowest() {
        let subnet = Subnet::new(Ipv4Addr::new(10, 0, 0, 77), 29);
        let all: Vec<_> = (72..80).map(|n| Ipv4Addr::new(10, 0, 0, n)).collect();
        assert!(all.iter().all(|a| subnet.contains(*a)));
        assert_eq!(subnet.gateway(), all[1]);
        assert_eq!(subnet.free(&[]), Some(all[2]));
        let used: Vec<IpAddr> = all[2..6].iter().map(|a| IpAddr::V4(*a)).collect();
        assert_eq!(subnet.free(&used), Some(all[6]));
        let used: Vec<IpAddr> = all.iter().map(|a| IpAddr::V4(*a)).collect();
        assert_eq!(subnet.free(&used), None);
    }

    #[test]
    fn networks_overlap_where_one_holds_the_other() {
        let big = Subnet::new(Ipv4Addr::new(10, 0, 0, 0), 8);
        let small = Subnet::new(Ipv4Addr::new(10, 213, 64, 0), 20);
        let other = Subnet::new(Ipv4Addr::new(192, 0, 2, 0), 24);
        let all = Subnet::new(Ipv4Addr::new(0, 0, 0, 0), 0);
        assert!(big.overlaps(&small) && small.overlaps(&big) && all.overlaps(&other));
        assert!(!big.overlaps(&other) && !other.overlaps(&small));
    }
}
