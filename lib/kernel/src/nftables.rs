//! Packet filters of our own in the network namespace the calling thread is in: tables of nf_tables that drop the
//! packets of some TCP connections (include/uapi/linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c). The messages
//! are few and always the same, so they are written here byte by byte.

use crate::error::Named;
use crate::{Error, Result};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_NETFILTER};
use std::net::{IpAddr, SocketAddr};

mod expression;
mod message;
pub mod ruleset;

use message::{Batch, Rule};

/// Packets with this mark (`SO_MARK`) are ours and pass (see [`crate::socket::segment`]). Container networks give meanings
/// to bits from 0x100 upwards.
pub const PASSES: u32 = 0xfe;

const IPV4: &str = "ipv4";
const IPV6: &str = "ipv6";
const INPUT: &str = "input";
const OUTPUT: &str = "output";
const FORWARD: &str = "forward";
/// The chains there are, each with its hook.
const CHAINS: [(&str, u32); 3] = [
    (INPUT, message::LOCAL_IN),
    (OUTPUT, message::LOCAL_OUT),
    (FORWARD, message::FORWARD),
];
/// How many connections go in one message.
const PIECE: usize = 256;

/// A TCP connection: our end, the other end.
pub type Connection = (SocketAddr, SocketAddr);

/// A table that is there as long as this value, and no longer than our process: the kernel takes it away with its owner
/// (since 5.12; on older ones a kill -9 leaves it behind).
#[derive(Debug)]
pub struct Table {
    socket: Socket,
    name: String,
    owned: bool,
}

/// Which new connections are not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Newcomers {
    /// None is.
    All,
    /// Those to these ports.
    To(Vec<u16>),
}

impl Table {
    /// Drops what begins a connection with one of ours, and what belongs to the connections that are
    /// [added](Table::add).
    pub fn hush(name: &str, newcomers: &Newcomers) -> Result<Self> {
        let mut rules = vec![];
        match newcomers {
            Newcomers::All => rules.push((INPUT, message::syn(None))),
            Newcomers::To(ports) => {
                rules.extend(ports.iter().map(|port| (INPUT, message::syn(Some(*port)))));
            }
        }
        rules.extend(of_connections());
        Self::owned(name, &rules)
    }

    /// Drops all of TCP that does not stay within this host, but what makes new connections.
    pub fn hush_all(name: &str) -> Result<Self> {
        let rules = [
            (INPUT, message::under_way(message::META_IIF)),
            (OUTPUT, message::under_way(message::META_OIF)),
        ];
        Self::owned(name, &rules)
    }

    /// Drops all of TCP that goes from this network or through it to one of these addresses, but what makes new connections.
    pub fn hush_ways(name: &str, addresses: &[IpAddr]) -> Result<Self> {
        let rules: Vec<(&str, Rule)> = addresses
            .iter()
            .flat_map(|address| [OUTPUT, FORWARD].map(|chain| (chain, message::to(*address))))
            .collect();
        Self::owned(name, &rules)
    }

    fn owned(name: &str, rules: &[(&str, Rule)]) -> Result<Self> {
        let mut socket = open()?;
        let owned = match talk(&mut socket, table(name, message::OWNED, rules)) {
            Ok(()) => true,
            Err(e) if matches!(e.raw(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                talk(&mut socket, table(name, 0, rules))?;
                false
            }
            Err(e) => return Err(e),
        };
        Ok(Table {
            socket,
            name: name.into(),
            owned,
        })
    }

    /// The packets of these connections are dropped from now on, both ways.
    pub fn add(&mut self, connections: &[Connection]) -> Result<()> {
        add(&mut self.socket, &self.name, connections)
    }

    /// Makes another table beside this one, in the same network, that drops the packets of these connections until it is
    /// [removed](remove) or the network namespace ends. What was left under that name before goes.
    pub fn leave(&mut self, name: &str, connections: &[Connection]) -> Result<()> {
        remove_by(&mut self.socket, name)?;
        talk(&mut self.socket, table(name, 0, &of_connections()))?;
        add(&mut self.socket, name, connections)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if !self.owned {
            let mut batch = Batch::new();
            batch.delete_table(&self.name);
            let _ = talk(&mut self.socket, batch);
        }
    }
}

/// Removes a table that [`Table::leave`] has made; whether it was there.
pub fn remove(name: &str) -> Result<bool> {
    remove_by(&mut open()?, name)
}

fn remove_by(socket: &mut Socket, name: &str) -> Result<bool> {
    let mut batch = Batch::new();
    batch.delete_table(name);
    match talk(socket, batch) {
        Ok(()) => Ok(true),
        Err(e) if e.raw() == Some(libc::ENOENT) => Ok(false),
        // No nf_tables, no table.
        Err(Error::Unsupported { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether there is a table of this name.
pub fn is_there(name: &str) -> Result<bool> {
    match talk(&mut open()?, Batch::get_table(name)) {
        Ok(()) => Ok(true),
        Err(e) if e.raw() == Some(libc::ENOENT) => Ok(false),
        Err(Error::Unsupported { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The rules that look connections up in the sets of their address family.
fn of_connections() -> Vec<(&'static str, Rule)> {
    [INPUT, OUTPUT]
        .into_iter()
        .flat_map(|chain| {
            [
                (chain, message::in_set(false, IPV4)),
                (chain, message::in_set(true, IPV6)),
            ]
        })
        .collect()
}

fn table(name: &str, flags: u32, rules: &[(&str, Rule)]) -> Batch {
    let mut batch = Batch::new();
    batch.table(name, flags);
    for (chain, hook) in CHAINS {
        if rules.iter().any(|(used, _)| *used == chain) {
            batch.chain(name, chain, hook);
        }
    }
    batch.set(name, IPV4, false);
    batch.set(name, IPV6, true);
    for (chain, rule) in rules {
        batch.rule(name, chain, rule);
    }
    batch
}

fn add(socket: &mut Socket, name: &str, connections: &[Connection]) -> Result<()> {
    let plain = |a: &SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let both: Vec<Connection> = connections
        .iter()
        .map(|(here, there)| (plain(here), plain(there)))
        .flat_map(|(here, there)| [(here, there), (there, here)])
        .collect();
    for (set, v6) in [(IPV4, false), (IPV6, true)] {
        let mut of_family: Vec<Vec<u8>> = both
            .iter()
            .filter(|(from, _)| from.is_ipv6() == v6)
            .map(key)
            .collect();
        of_family.sort_unstable();
        of_family.dedup();
        for piece in of_family.chunks(PIECE) {
            let mut batch = Batch::new();
            batch.elements(name, set, piece);
            talk(socket, batch)?;
        }
    }
    Ok(())
}

/// What the rules put together of a packet: addresses, then each port in a word of its own.
fn key((from, to): &Connection) -> Vec<u8> {
    let mut key = Vec::with_capacity(40);
    for end in [from, to] {
        match end.ip() {
            IpAddr::V4(ip) => key.extend(ip.octets()),
            IpAddr::V6(ip) => key.extend(ip.octets()),
        }
    }
    for end in [from, to] {
        key.extend(end.port().to_be_bytes());
        key.extend([0; 2]);
    }
    key
}

fn open() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER).named(|| "open netfilter netlink".into())?;
    // The owner of a table is known by this address.
    socket
        .bind_auto()
        .named(|| "bind netfilter netlink".into())?;
    Ok(socket)
}

fn talk(socket: &mut Socket, batch: Batch) -> Result<()> {
    let (bytes, last) = batch.finish();
    let what = || "drop packets by nf_tables".to_string();
    socket
        .send_to(&bytes, &NetlinkAddress::new(0, 0), 0)
        .named(what)?;
    loop {
        let (answer, _) = socket.recv_from_full().named(what)?;
        match message::verdict(&answer, last) {
            None => {}
            Some(0) => return Ok(()),
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
                return Err(Error::Unsupported {
                    what: "this kernel has no nf_tables (CONFIG_NF_TABLES_INET), which keep the other ends of TCP connections \
                           from noticing"
                        .into(),
                });
            }
            Some(errno) => return Err(Error::errno(what(), errno)),
        }
    }
}

#[cfg(test)]
mod tests;
