//! Links, addresses and routes of the network namespace the calling thread is in (rtnetlink(7)).

use crate::error::Named;
use crate::{Error, Pid, Result};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::net::{IpAddr, Ipv4Addr};

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind as `ip link` says it: `veth`, `bridge`, `tun`; empty for a device and for `lo`.
    pub kind: String,
    /// `lo`.
    pub loopback: bool,
    /// Hardware address.
    pub mac: Vec<u8>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Switched on.
    pub up: bool,
    /// The bridge it is a port of.
    pub master: Option<u32>,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// Valid on its link only, or on this host only.
    pub narrow: bool,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to, with the bits of the network; absent for the default route.
    pub destination: Option<(IpAddr, u8)>,
    /// By way of.
    pub gateway: Option<IpAddr>,
    /// Out of the link of this index.
    pub link: Option<u32>,
    /// Metric.
    pub metric: Option<u32>,
    /// IPv6.
    pub v6: bool,
    /// Made by the kernel with an address, or announced by a router: not to be made again by hand.
    pub automatic: bool,
}

/// A pair of virtual links to be made, one end here, the other in the network namespace of a process.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// Name of our end.
    pub name: &'a str,
    /// Index of the bridge our end is a port of.
    pub bridge: u32,
    /// Name of the other end.
    pub peer: &'a str,
    /// Hardware address of the other end.
    pub peer_mac: [u8; 6],
    /// Index of the other end; 0 for any.
    pub peer_index: u32,
    /// Largest packet of both, bytes.
    pub mtu: u32,
    /// Whose namespace the other end is in.
    pub pid: Pid,
}

/// A socket to the kernel's tables.
#[derive(Debug)]
pub struct Rtnetlink {
    socket: Socket,
    sequence: u32,
}

impl Rtnetlink {
    /// Opens one for the calling thread's network namespace, which it keeps.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).named(|| "open rtnetlink".into())?;
        socket.bind_auto().named(|| "bind rtnetlink".into())?;
        let kernel = SocketAddr::new(0, 0);
        socket
            .connect(&kernel)
            .named(|| "connect rtnetlink".into())?;
        Ok(Rtnetlink {
            socket,
            sequence: 0,
        })
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let ask = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.exchange("list links", ask, NLM_F_DUMP)?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(link(message)),
                _ => None,
            })
            .collect())
    }

    /// A link by its name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// All addresses.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.exchange("list addresses", ask, NLM_F_DUMP)?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => address(message),
                _ => None,
            })
            .collect())
    }

    /// All unicast routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let ask = RouteNetlinkMessage::GetRoute(message);
            match self.exchange("list routes", ask, NLM_F_DUMP) {
                Ok(answers) => found.extend(answers.iter().filter_map(|answer| match answer {
                    RouteNetlinkMessage::NewRoute(message) => route(message),
                    _ => None,
                })),
                // A kernel without IPv6 has no such table.
                Err(e) if e.raw() == Some(libc::EOPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// Makes a bridge, with a hardware address that does not change with its ports.
    pub fn add_bridge(&mut self, name: &str, mac: [u8; 6]) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        let ask = RouteNetlinkMessage::NewLink(message);
        self.change(
            &format!("make the bridge {name}"),
            ask,
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Makes a pair of virtual links.
    pub fn add_veth(&mut self, veth: &Veth) -> Result<()> {
        let mut peer = LinkMessage::default();
        peer.header.index = veth.peer_index;
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer.into()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::Address(veth.peer_mac.to_vec()),
            LinkAttribute::NetNsPid(veth.pid as u32),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(veth.name.into()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::Controller(veth.bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        let ask = RouteNetlinkMessage::NewLink(message);
        self.change(
            &format!("make the link {}", veth.name),
            ask,
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Removes a link.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let ask = RouteNetlinkMessage::DelLink(message);
        self.change(&format!("remove link {index}"), ask, 0)
    }

    /// Switches a link on or off.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        let ask = RouteNetlinkMessage::SetLink(message);
        self.change(&format!("switch link {index} on or off"), ask, 0)
    }

    /// Gives a link an address.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(&address);
        message.header.prefix_len = prefix;
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(address),
            AddressAttribute::Address(address),
        ];
        if let IpAddr::V4(v4) = address
            && prefix < 31
        {
            let host = u32::MAX >> prefix;
            let all = Ipv4Addr::from_bits(v4.to_bits() | host);
            message.attributes.push(AddressAttribute::Broadcast(all));
        }
        let ask = RouteNetlinkMessage::NewAddress(message);
        self.change(
            &format!("give link {index} the address {address}/{prefix}"),
            ask,
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Makes a route.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = if route.v6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        header.table = RouteHeader::RT_TABLE_MAIN;
        header.protocol = RouteProtocol::Boot;
        header.kind = RouteType::Unicast;
        header.scope = match route.gateway {
            Some(_) => RouteScope::Universe,
            None => RouteScope::Link,
        };
        if let Some((to, prefix)) = route.destination {
            header.destination_prefix_length = prefix;
            message
                .attributes
                .push(RouteAttribute::Destination(plain(to)));
        }
        if let Some(gateway) = route.gateway {
            message
                .attributes
                .push(RouteAttribute::Gateway(plain(gateway)));
        }
        if let Some(index) = route.link {
            message.attributes.push(RouteAttribute::Oif(index));
        }
        if let Some(metric) = route.metric {
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        let ask = RouteNetlinkMessage::NewRoute(message);
        self.change("make a route", ask, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn change(&mut self, what: &str, ask: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.exchange(what, ask, flags | NLM_F_ACK).map(drop)
    }

    /// Sends one question; gives all that answers it.
    fn exchange(
        &mut self,
        what: &str,
        ask: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(ask);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).named(|| what.into())?;
        let mut found = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full().named(|| what.into())?;
            for answer in parse(&bytes)? {
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(found),
                        Some(code) => return Err(Error::errno(what, code.get().saturating_neg())),
                    },
                    NetlinkPayload::Overrun(_) => return Err(Error::errno(what, libc::ENOBUFS)),
                    _ => {}
                }
            }
        }
    }
}

/// The messages of one datagram.
fn parse(mut bytes: &[u8]) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
    let mut found = Vec::new();
    while bytes.len() >= 16 {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
            .map_err(|e| Error::unreadable("rtnetlink", e.to_string()))?;
        // Messages are aligned to four bytes (NLMSG_ALIGN in netlink(3)).
        let len = (message.header.length as usize).next_multiple_of(4);
        found.push(message);
        if len == 0 || len > bytes.len() {
            break;
        }
        bytes = &bytes[len..];
    }
    Ok(found)
}

fn family(address: &IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn plain(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        loopback: flags.contains(LinkFlags::Loopback),
        mac: Vec::new(),
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        master: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name.clone(),
            LinkAttribute::Address(mac) => link.mac = mac.clone(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::LinkInfo(of) => {
                for one in of {
                    if let LinkInfo::Kind(kind) = one {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn address(message: &AddressMessage) -> Option<Address> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    Some(Address {
        link: message.header.index,
        // IPv6 has only the second; a point-to-point link's second is the other end (rtnetlink(7)).
        address: find(true).or_else(|| find(false))?,
        prefix: message.header.prefix_len,
        narrow: message.header.scope != AddressScope::Universe,
    })
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let is = |family| header.address_family == family;
    if header.kind != RouteType::Unicast || !(is(AddressFamily::Inet) || is(AddressFamily::Inet6)) {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut route = Route {
        destination: None,
        gateway: None,
        link: None,
        metric: None,
        v6: is(AddressFamily::Inet6),
        automatic: matches!(header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(to) => {
                route.destination = Some((ip(to)?, header.destination_prefix_length));
            }
            RouteAttribute::Gateway(gateway) => route.gateway = ip(gateway),
            RouteAttribute::Oif(index) => route.link = Some(*index),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            _ => {}
        }
    }
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(route)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A network of its own for a test: the namespace of a process that waits to be killed.
    struct Network(Child);

    impl Network {
        fn new() -> Self {
            let mut child = Command::new("unshare")
                .args(["-n", "sh", "-c", "echo; exec sleep 60"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = [0];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
            Network(child)
        }

        fn pid(&self) -> Pid {
            self.0.id() as Pid
        }

        fn within<T: Send>(&self, work: impl FnOnce(&mut Rtnetlink) -> T + Send) -> T {
            crate::within(self.pid(), &[crate::Namespace::Net], || {
                work(&mut Rtnetlink::open().unwrap())
            })
            .unwrap()
        }
    }

    impl Drop for Network {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_bridge_and_a_pair_are_made_found_and_removed() {
        let (host, guest) = (Network::new(), Network::new());
        host.within(|rt| {
            rt.add_bridge("b0", [2, 0, 0, 0, 0, 1]).unwrap();
            let bridge = rt.link("b0").unwrap().unwrap();
            assert_eq!((bridge.kind.as_str(), bridge.up), ("bridge", false));
            rt.set_up(bridge.index, true).unwrap();
            rt.add_address(bridge.index, "10.9.0.1".parse().unwrap(), 24)
                .unwrap();
            rt.add_veth(&Veth {
                name: "out",
                bridge: bridge.index,
                peer: "eth0",
                peer_mac: [2, 0, 0, 0, 0, 9],
                peer_index: 7,
                mtu: 1400,
                pid: guest.pid(),
            })
            .unwrap();
            let out = rt.link("out").unwrap().unwrap();
            assert_eq!((out.kind.as_str(), out.mtu), ("veth", 1400));
            assert_eq!(out.master, Some(bridge.index));
            let found = rt.addresses().unwrap();
            let wanted = found
                .iter()
                .find(|a| a.link == bridge.index && a.prefix == 24);
            assert_eq!(wanted.unwrap().address.to_string(), "10.9.0.1");
        });
        guest.within(|rt| {
            let eth0 = rt.link("eth0").unwrap().unwrap();
            assert_eq!(eth0.mac, [2, 0, 0, 0, 0, 9]);
            rt.set_up(eth0.index, true).unwrap();
            rt.add_address(eth0.index, "10.9.0.2".parse().unwrap(), 24)
                .unwrap();
            let default = Route {
                destination: None,
                gateway: Some("10.9.0.1".parse().unwrap()),
                link: Some(eth0.index),
                metric: None,
                v6: false,
                automatic: false,
            };
            rt.add_route(&default).unwrap();
            let routes = rt.routes().unwrap();
            assert!(routes.contains(&default), "{routes:?}");
            assert!(
                routes
                    .iter()
                    .any(|r| r.automatic && r.destination.is_some())
            );
        });
        host.within(|rt| {
            let out = rt.link("out").unwrap().unwrap();
            rt.delete_link(out.index).unwrap();
            assert!(rt.link("out").unwrap().is_none());
            let error = rt.delete_link(out.index).unwrap_err();
            assert_eq!(error.raw(), Some(libc::ENODEV));
        });
        guest.within(|rt| assert!(rt.link("eth0").unwrap().is_none()));
    }
}
