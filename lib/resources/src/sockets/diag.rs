//! What the kernel lists of the sockets of a container's networks, asked for once, and what has been taken of them.

use super::{Holder, Outside, held, options, tcp, unix};
use crate::namespaces::nested::Sights;
use crate::{Blocker, Error, Result, Source};
use image::ids::{NsId, Pid};
use image::sockets::tcp::Connections;
use kernel::sock_diag::{self, PacketSocket, TcpSocket, UnixSocket};
use kernel::socket;
use kernel::socket::signature::Signature;
use kernel::{Namespace, within};
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

/// What the kernel lists of all sockets of the container's network and of those inside it, and what has been taken of
/// them so far.
#[derive(Debug)]
pub struct Diag {
    /// The network of the socket at hand.
    pub(super) here: Network,
    /// The others.
    pub(super) elsewhere: Vec<Network>,
    pub(super) unix: HashMap<u64, UnixSocket>,
    /// The listening socket that has not yet accepted a client, by the client's inode.
    pub(super) listeners: HashMap<u64, u64>,
    pub(super) packet: Vec<PacketSocket>,
    pub(super) netlink: HashMap<u64, kernel::proc::netlink::Netlink>,
    /// Whom raw and ping sockets are connected to.
    pub(super) raw_peers: HashMap<u64, IpAddr>,
    pub(super) inside: HashMap<kernel::Pid, Pid>,
    /// The container's first process.
    pub(super) first: kernel::Pid,
    /// Where its processes look up names.
    pub(super) sights: Sights,
    /// Unix sockets whose other end is outside are taken without it.
    pub(super) ext_unix: bool,
    /// The container stands still.
    pub(super) frozen: bool,
    /// Inodes of the sockets that its processes have.
    pub(super) held: HashSet<u64>,
    /// Their TCP connections, once somebody has asked.
    pub(super) ends: OnceCell<tcp::Ends>,
    /// TCP connections taken out of the queues of listening sockets.
    pub(super) clients: tcp::Clients,
    /// Unix sockets that have a record, and those that must get one, or else are outside.
    pub(super) taken: HashSet<u64>,
    pub(super) awaited: Vec<(u64, Holder)>,
}

/// One network namespace.
#[derive(Debug)]
pub(super) struct Network {
    /// None: the container's own.
    pub(super) id: Option<NsId>,
    pub(super) inode: u64,
    /// A process in it, in our pid namespace.
    pub(super) network: kernel::Pid,
    pub(super) tcp: Vec<TcpSocket>,
    /// By what they sign, by inode.
    pub(super) keys: HashMap<u64, Vec<Signature>>,
    pub(super) groups: Vec<kernel::proc::igmp::Group>,
    pub(super) fresh: options::Fresh,
    /// What becomes of TCP connections with the outside.
    pub(super) connections: Connections,
}

impl Diag {
    /// Lists the sockets of the network that process `network`, the container's first, is in. When the container is frozen,
    /// or, for a first look, before.
    pub fn take(network: kernel::Pid, inside: &HashMap<kernel::Pid, Pid>) -> Result<Self> {
        let (unix, tcp, keys, packet, inode) = within(network, &[Namespace::Net], || {
            let probe = socket::create(socket::AF_UNIX, socket::SOCK_DGRAM, 0)?;
            let inode = socket::network(std::os::fd::AsFd::as_fd(&probe))?;
            Ok::<_, kernel::Error>((
                sock_diag::unix()?,
                sock_diag::tcp()?,
                sock_diag::tcp_keys()?,
                sock_diag::packet()?,
                inode,
            ))
        })??;
        let proc = kernel::proc::Proc::process(network);
        let listeners = unix
            .iter()
            .flat_map(|l| {
                l.pending
                    .iter()
                    .map(|client| (u64::from(*client), u64::from(l.inode)))
            })
            .collect();
        Ok(Diag {
            here: Network {
                id: None,
                inode,
                network,
                tcp,
                keys,
                groups: kernel::proc::igmp::read(&proc)?,
                fresh: options::Fresh::default(),
                connections: Connections::None,
            },
            elsewhere: Vec::new(),
            listeners,
            unix: unix.into_iter().map(|s| (s.inode.into(), s)).collect(),
            packet,
            netlink: kernel::proc::netlink::read(&proc)?,
            raw_peers: kernel::proc::raw::read(&proc),
            inside: inside.clone(),
            first: network,
            sights: Sights::default(),
            ext_unix: false,
            frozen: true,
            held: HashSet::new(),
            ends: OnceCell::new(),
            clients: tcp::Clients::default(),
            taken: HashSet::new(),
            awaited: Vec::new(),
        })
    }

    /// What becomes of connections with the outside, which are those that lead to none of the sockets `held`.
    pub fn connections(mut self, outside: impl Into<Outside>, held: HashSet<u64>) -> Self {
        let outside = outside.into();
        self.here.connections = outside.connections;
        self.ext_unix = outside.unix;
        self.held = held;
        self
    }

    /// The networks inside the container too, whose connections with others do not travel.
    pub fn networks(mut self, sights: &Sights) -> Result<Self> {
        for (id, pid) in sights.networks.values() {
            let inner = Diag::take(*pid, &HashMap::new())?;
            self.unix.extend(inner.unix);
            self.listeners.extend(inner.listeners);
            self.packet.extend(inner.packet);
            self.netlink.extend(inner.netlink);
            self.raw_peers.extend(inner.raw_peers);
            self.elsewhere.push(Network {
                id: Some(*id),
                ..inner.here
            });
        }
        self.sights = sights.clone();
        Ok(self)
    }

    /// The network of the socket taken last; none: the container's own.
    pub fn network(&self) -> Option<NsId> {
        self.here.id
    }

    /// The mount namespace of a process; none: the container's own.
    pub(super) fn mounts_of(&self, pid: kernel::Pid) -> Option<NsId> {
        let mut all = self.sights.mounts.iter();
        let found = all.find(|(_, _, members)| members.contains(&pid));
        found.map(|(id, ..)| *id)
    }

    /// The TCP sockets of each network, that of the socket taken last first.
    pub(super) fn tcp(&self) -> impl Iterator<Item = &[kernel::sock_diag::TcpSocket]> {
        let networks = [&self.here].into_iter().chain(&self.elsewhere);
        networks.map(|network| &network.tcp[..])
    }

    /// Turns to the network of a socket.
    pub(super) fn turn(&mut self, fd: BorrowedFd, holder: &Holder) -> Result<()> {
        let inode = socket::network(fd)?;
        if inode == self.here.inode {
            return Ok(());
        }
        let mut others = self.elsewhere.iter_mut();
        let Some(other) = others.find(|other| other.inode == inode) else {
            return Err(holder.blocked(
                "a socket of another network namespace than those of the container",
                "close it, or checkpoint the tree it belongs to",
            ));
        };
        std::mem::swap(other, &mut self.here);
        Ok(())
    }

    /// After every open file was taken: each unix socket's other end has been met, or it is outside the container.
    pub fn complete(&self) -> Result<()> {
        let outside: Vec<Blocker> = self
            .awaited
            .iter()
            .filter(|(peer, _)| !self.taken.contains(peer) && !unix::is_left_behind(*peer, self))
            .map(|(peer, holder)| unix::outside(*peer, holder, self))
            .collect();
        if outside.is_empty() {
            Ok(())
        } else {
            Err(Error::Blocked(outside))
        }
    }
}

/// The first look for a [`Source`]: the same as [`blockers`] once the tree is known.
pub fn diag_of(source: &Source) -> Result<Diag> {
    let first = source
        .processes
        .first()
        .map(|p| p.pid)
        .ok_or_else(|| Error::Refused("no process to take".into()))?;
    let pids: Vec<kernel::Pid> = source.processes.iter().map(|p| p.pid).collect();
    let diag = Diag::take(first, &source.inside)?.networks(&source.sights)?;
    let mut diag = diag.connections(
        Outside {
            connections: source.connections,
            unix: source.ext_unix,
        },
        held(&pids),
    );
    diag.clients = source.clients.clone();
    Ok(diag)
}
