//! Sockets: one room per family. They are taken one at a time, as open files are, and given back all together: first
//! made, bound, listening and paired ([`restore`]), then, when every other open file is there to be passed along, their
//! queues are filled and the last connections made ([`Opened::fill`]).

use crate::namespaces::nested::Sights;
use crate::{Blocker, Error, Result, Source, Target};
use image::ids::{FileId, NsId, Pid};
use image::sockets::tcp::Connections;
use image::sockets::unix::Unix;
use image::sockets::{Address, Socket, Version};
use kernel::sock_diag::{self, PacketSocket, TcpSocket, UnixSocket};
use kernel::socket;
use kernel::{Namespace, within};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub mod netlink;
pub mod options;
pub mod packet;
pub mod raw;
pub mod tcp;
pub mod udp;
pub mod unix;

/// What the kernel lists of all sockets of the container's network and of those inside it, and what has been taken of
/// them so far.
#[derive(Debug)]
pub struct Diag {
    /// The network of the socket at hand.
    here: Network,
    /// The others.
    elsewhere: Vec<Network>,
    unix: HashMap<u64, UnixSocket>,
    /// The listening socket that has not yet accepted a client, by the client's inode.
    listeners: HashMap<u64, u64>,
    packet: Vec<PacketSocket>,
    netlink: HashMap<u64, kernel::proc::netlink::Netlink>,
    /// Whom raw and ping sockets are connected to.
    raw_peers: HashMap<u64, IpAddr>,
    inside: HashMap<kernel::Pid, Pid>,
    /// The container's first process.
    first: kernel::Pid,
    /// Where its processes look up names.
    sights: Sights,
    /// Unix sockets whose other end is outside are taken without it.
    ext_unix: bool,
    /// The container stands still.
    frozen: bool,
    /// Inodes of the sockets that its processes have.
    held: HashSet<u64>,
    /// Unix sockets that have a record, and those that must get one, or else are outside.
    taken: HashSet<u64>,
    awaited: Vec<(u64, Holder)>,
}

/// One network namespace.
#[derive(Debug)]
struct Network {
    /// None: the container's own.
    id: Option<NsId>,
    inode: u64,
    /// A process in it, in our pid namespace.
    network: kernel::Pid,
    tcp: Vec<TcpSocket>,
    groups: Vec<kernel::proc::igmp::Group>,
    fresh: options::Fresh,
    /// What becomes of TCP connections with the outside.
    connections: Connections,
}

/// What becomes of sockets whose other end is outside the container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outside {
    /// TCP connections.
    pub connections: Connections,
    /// Unix sockets are taken without their other end, and not refused.
    pub unix: bool,
}

impl From<Connections> for Outside {
    fn from(connections: Connections) -> Self {
        Outside {
            connections,
            unix: false,
        }
    }
}

/// Who holds a socket: for messages, and to look up paths as that process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The process, in our pid namespace.
    pub pid: kernel::Pid,
    /// Its descriptor; `None` for one in flight.
    pub number: Option<i32>,
}

impl Holder {
    fn blocker(&self, what: impl Into<String>, remedy: &str) -> Blocker {
        Blocker {
            pid: self.pid,
            place: self.number.map_or("a descriptor in flight".into(), |n| {
                format!("descriptor {n}")
            }),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn blocked(&self, what: impl Into<String>, remedy: &str) -> Error {
        Error::Blocked(vec![self.blocker(what, remedy)])
    }
}

const TRY_AGAIN: &str = "try again: it is a matter of a moment";

impl Diag {
    /// Lists the sockets of the network that process `network`, the container's first, is in. When the container is frozen, or, for a first look,
    /// before.
    pub fn take(network: kernel::Pid, inside: &HashMap<kernel::Pid, Pid>) -> Result<Self> {
        let (unix, tcp, packet, inode) = within(network, &[Namespace::Net], || {
            let probe = socket::create(socket::AF_UNIX, socket::SOCK_DGRAM, 0)?;
            let inode = socket::network(std::os::fd::AsFd::as_fd(&probe))?;
            Ok::<_, kernel::Error>((
                sock_diag::unix()?,
                sock_diag::tcp()?,
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
    fn mounts_of(&self, pid: kernel::Pid) -> Option<NsId> {
        let mut all = self.sights.mounts.iter();
        let found = all.find(|(_, _, members)| members.contains(&pid));
        found.map(|(id, ..)| *id)
    }

    /// Turns to the network of a socket.
    fn turn(&mut self, fd: BorrowedFd, holder: &Holder) -> Result<()> {
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

/// Takes a socket. `in_flight` gets descriptors found in queues, which may be open nowhere else, and gives them their ids.
pub fn dump(
    fd: BorrowedFd,
    holder: Holder,
    diag: &mut Diag,
    in_flight: &mut dyn FnMut(OwnedFd) -> Result<FileId>,
) -> Result<Socket> {
    let kind = kind_of(fd)?;
    options::judge(fd, &holder)?;
    diag.turn(fd, &holder)?;
    Ok(match kind {
        (socket::AF_UNIX, ..) => Socket::Unix(unix::dump(fd, holder, diag, in_flight)?),
        (socket::AF_INET | socket::AF_INET6, socket::SOCK_STREAM, socket::IPPROTO_TCP) => {
            Socket::Tcp(tcp::dump(fd, kind, holder, diag)?)
        }
        (
            socket::AF_INET | socket::AF_INET6,
            socket::SOCK_DGRAM,
            socket::IPPROTO_UDP | socket::IPPROTO_UDPLITE,
        ) => Socket::Udp(udp::dump(fd, kind, holder, diag)?),
        (
            socket::AF_INET | socket::AF_INET6,
            socket::SOCK_DGRAM,
            socket::IPPROTO_ICMP | socket::IPPROTO_ICMPV6,
        )
        | (socket::AF_INET | socket::AF_INET6, socket::SOCK_RAW, _) => {
            Socket::Raw(raw::dump(fd, kind, diag)?)
        }
        (socket::AF_NETLINK, ..) => Socket::Netlink(netlink::dump(fd, kind, holder, diag)?),
        (socket::AF_PACKET, ..) => Socket::Packet(packet::dump(fd, kind, holder, diag)?),
        _ => return Err(unknown(kind, &holder)),
    })
}

/// Everything among the sockets of these processes (in our pid namespace, the container's first process first) that cannot
/// be taken. A look at a running container: what is found may be gone a moment later, and the other way round; [`dump`]
/// judges by the same rules.
pub fn blockers(pids: &[kernel::Pid], outside: Outside, sights: &Sights) -> Result<Vec<Blocker>> {
    let Some(first) = pids.first() else {
        return Ok(Vec::new());
    };
    let diag = Diag::take(*first, &HashMap::new())?.networks(sights)?;
    let mut diag = diag.connections(outside, held(pids));
    diag.frozen = false;
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for pid in pids {
        let Ok(pidfd) = kernel::pidfd::PidFd::open(*pid) else {
            continue;
        };
        let proc = kernel::proc::Proc::process(*pid);
        for number in proc.numbers("fd").unwrap_or_default() {
            let link = proc.link(&format!("fd/{number}")).unwrap_or_default();
            if !link.to_string_lossy().starts_with("socket:[") || !seen.insert(link) {
                continue;
            }
            // What is closed meanwhile is no blocker.
            let Ok(fd) = pidfd.borrow(number) else {
                continue;
            };
            let holder = Holder {
                pid: *pid,
                number: Some(number),
            };
            found.extend(blocker(std::os::fd::AsFd::as_fd(&fd), holder, &mut diag)?);
        }
    }
    for (peer, holder) in &diag.awaited {
        // One that only a queue holds is not seen here; `Diag::complete` knows.
        if !diag.ext_unix && !diag.taken.contains(peer) && unix::owner(*peer).is_some() {
            found.push(unix::outside(*peer, holder, &diag));
        }
    }
    Ok(found)
}

/// Inodes of the sockets that processes have by descriptor.
pub fn held(pids: &[kernel::Pid]) -> HashSet<u64> {
    pids.iter()
        .flat_map(|pid| sockets_of(*pid))
        .map(|(_, inode)| inode)
        .collect()
}

/// The sockets among the descriptors of a process, with their inodes; none of one that has ended.
fn sockets_of(pid: kernel::Pid) -> Vec<(i32, u64)> {
    let proc = kernel::proc::Proc::process(pid);
    let numbers = proc.numbers("fd").unwrap_or_default();
    let socket = |number: i32| {
        let link = proc.link(&format!("fd/{number}")).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        Some((number, inode.parse().ok()?))
    };
    numbers.into_iter().filter_map(socket).collect()
}

fn blocker(fd: BorrowedFd, holder: Holder, diag: &mut Diag) -> Result<Vec<Blocker>> {
    let kind = kind_of(fd)?;
    let judge = |diag: &mut Diag| match kind {
        (socket::AF_UNIX, ..) => unix::judge(fd, holder, diag),
        (socket::AF_INET | socket::AF_INET6, socket::SOCK_STREAM, socket::IPPROTO_TCP) => {
            tcp::judge(fd, holder, diag)
        }
        (socket::AF_INET | socket::AF_INET6, socket::SOCK_DGRAM | socket::SOCK_RAW, _) => {
            udp::judge(fd, kind, holder)
        }
        (socket::AF_NETLINK, ..) => Ok(()),
        (socket::AF_PACKET, ..) => packet::judge(fd, holder, diag),
        _ => Err(unknown(kind, &holder)),
    };
    let judged = diag.turn(fd, &holder).and_then(|()| judge(diag));
    match judged.and_then(|()| options::judge(fd, &holder)) {
        Ok(()) => Ok(Vec::new()),
        Err(Error::Blocked(blockers)) => Ok(blockers),
        Err(error) => Err(error),
    }
}

fn unknown((family, kind, protocol): (i32, i32, i32), holder: &Holder) -> Error {
    let name = match (family, protocol) {
        (socket::AF_INET | socket::AF_INET6, socket::IPPROTO_MPTCP) => "MPTCP".into(),
        (socket::AF_INET | socket::AF_INET6, 33) => "DCCP".into(),
        (socket::AF_INET | socket::AF_INET6, 132) => "SCTP".into(),
        (socket::AF_INET | socket::AF_INET6, 256) => "SMC".into(),
        (socket::AF_INET | socket::AF_INET6, other) => {
            format!("type {kind} and protocol {other} of IP")
        }
        (15, _) => "AF_KEY".into(),
        (16, _) => "AF_NETLINK".into(),
        (21, _) => "AF_RDS".into(),
        (24, _) => "AF_PPPOX".into(),
        (29, _) => "AF_CAN".into(),
        (30, _) => "AF_TIPC".into(),
        (31, _) => "AF_BLUETOOTH".into(),
        (33, _) => "AF_RXRPC".into(),
        (38, _) => "AF_ALG".into(),
        (40, _) => "AF_VSOCK".into(),
        (41, _) => "AF_KCM".into(),
        (42, _) => "AF_QIPCRTR".into(),
        (43, _) => "AF_SMC".into(),
        (44, _) => "AF_XDP".into(),
        (45, _) => "AF_MCTP".into(),
        (other, _) => format!("family {other}"),
    };
    holder.blocked(
        format!("a socket of {name}"),
        "close it before the checkpoint: the kernel does not give its state away",
    )
}

/// Family, type and protocol.
fn kind_of(fd: BorrowedFd) -> Result<(i32, i32, i32)> {
    let ask = |name| socket::number(fd, socket::SOL_SOCKET, name);
    Ok((
        ask(socket::SO_DOMAIN)?,
        ask(socket::SO_TYPE)?,
        ask(socket::SO_PROTOCOL)?,
    ))
}

/// Sockets made, between the two steps of giving them back: those of each network.
#[derive(Debug, Default)]
pub struct Opened {
    unix: Vec<(kernel::Pid, Option<NsId>, unix::Made)>,
    waiting: tcp::Waiting,
}

/// A socket of an image: its open file, its network ([`OpenFile`](image::files::OpenFile)), and itself.
pub type Listed<'a> = (FileId, Option<NsId>, &'a Socket);

/// Makes all sockets, as far as that goes without other open files, and puts them among the target's files. Their status
/// flags are left to the room of open files.
pub fn restore(sockets: &[Listed], target: &mut Target) -> Result<Opened> {
    let networks: BTreeSet<Option<NsId>> = sockets.iter().map(|(_, network, _)| *network).collect();
    let mut opened = Opened::default();
    let mut made = HashMap::new();
    for network in networks {
        let there = match network {
            None => target.root_pid,
            Some(id) => target.inners.pid(id).ok_or_else(|| {
                Error::Refused(format!(
                    "the image has a socket of network namespace {}, which is not in it",
                    id.0
                ))
            })?,
        };
        let (unix, waiting) = within_network(there, network, sockets, target, &mut made)?;
        opened.unix.push((there, network, unix));
        opened.waiting.join(waiting);
    }
    target.files.extend(made);
    Ok(opened)
}

/// Makes those of one network, which process `there` is in.
fn within_network(
    there: kernel::Pid,
    network: Option<NsId>,
    sockets: &[Listed],
    target: &Target,
    made: &mut HashMap<FileId, OwnedFd>,
) -> Result<(unix::Made, tcp::Waiting)> {
    // Inside the container nothing goes on that leads out, and no address has changed.
    let (addresses, connections) = match network {
        None => (target.addresses.clone(), target.connections),
        Some(_) => (Vec::new(), Connections::None),
    };
    let own = of_network(sockets, network);
    let pings = own
        .iter()
        .any(|(_, s)| matches!(s, Socket::Raw(raw) if raw.ping));
    let _range = match pings {
        true => Some(raw::Range::widen(there)?),
        false => None,
    };
    let all = chosen(&of_all(sockets), unix_of);
    let views = unix::views(&chosen(&own, unix_of), target)?;
    in_both(there, target.root_pid, || {
        let unix = unix::restore(&chosen(&own, unix_of), &all, views, made)?;
        for (id, socket) in &own {
            let fd = match socket {
                Socket::Unix(_) | Socket::Tcp(_) => continue,
                Socket::Udp(udp) => udp::restore(udp, &addresses)?,
                Socket::Netlink(netlink) => netlink::restore(netlink)?,
                Socket::Raw(raw) => raw::restore(raw, &addresses)?,
                Socket::Packet(packet) => packet::restore(packet)?,
            };
            made.insert(*id, fd);
        }
        let tcp = chosen(&own, |s| match s {
            Socket::Tcp(tcp) => Some(tcp),
            _ => None,
        });
        let waiting = tcp::restore(&tcp, &addresses, connections, made)?;
        Ok((unix, waiting))
    })
}

/// Runs `work` in the network of process `there`, with the files of the container's process `root`.
fn in_both<T: Send>(
    there: kernel::Pid,
    root: kernel::Pid,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    within(there, &[Namespace::Net], || {
        within(root, &[Namespace::Mount], work)
    })??
}

fn of_all<'a>(sockets: &[Listed<'a>]) -> Vec<(FileId, &'a Socket)> {
    sockets.iter().map(|(id, _, s)| (*id, *s)).collect()
}

fn of_network<'a>(sockets: &[Listed<'a>], network: Option<NsId>) -> Vec<(FileId, &'a Socket)> {
    let own = sockets.iter().filter(|(_, of, _)| *of == network);
    own.map(|(id, _, s)| (*id, *s)).collect()
}

fn unix_of(socket: &Socket) -> Option<&Unix> {
    match socket {
        Socket::Unix(unix) => Some(unix),
        _ => None,
    }
}

impl Opened {
    /// Fills the queues and makes the last connections. All open files of the container are among the target's by now. What
    /// is given back is silent until the container runs.
    pub fn fill(self, sockets: &[Listed], target: &Target) -> Result<tcp::Waiting> {
        let pids: HashMap<Pid, kernel::Pid> = target
            .processes
            .values()
            .map(|p| (p.inside, p.pid))
            .collect();
        let files = &target.files;
        let all = chosen(&of_all(sockets), unix_of);
        for (there, network, unix) in self.unix {
            let own = of_network(sockets, network);
            in_both(there, target.root_pid, || {
                unix::fill(unix, &chosen(&own, unix_of), &all, files, &pids)?;
                let raws = chosen(&own, |s| match s {
                    Socket::Raw(raw) => Some(raw),
                    _ => None,
                });
                for (id, raw) in raws {
                    raw::fill(raw, target.file(id)?.as_fd())?;
                }
                Ok(())
            })?;
        }
        Ok(self.waiting)
    }
}

fn chosen<'a, T>(
    sockets: &[(FileId, &'a Socket)],
    only: impl Fn(&'a Socket) -> Option<&'a T>,
) -> Vec<(FileId, &'a T)> {
    sockets
        .iter()
        .filter_map(|(id, socket)| Some((*id, only(socket)?)))
        .collect()
}

fn version_of(family: i32) -> Version {
    if family == socket::AF_INET6 {
        Version::V6
    } else {
        Version::V4
    }
}

fn family_of(version: Version) -> i32 {
    match version {
        Version::V4 => socket::AF_INET,
        Version::V6 => socket::AF_INET6,
    }
}

/// The kernel's bytes as a record.
fn address(bytes: &[u8]) -> Result<Address> {
    match socket::address::parse_internet(bytes) {
        Some(found) => Ok(record(found)),
        None => Err(kernel::Error::unreadable("socket address", "not an internet address").into()),
    }
}

/// An address of the standard library as a record.
fn record(address: SocketAddr) -> Address {
    Address {
        ip: address.ip(),
        port: address.port(),
        scope: match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        },
    }
}

fn local(fd: BorrowedFd) -> Result<Address> {
    address(&socket::name(fd)?)
}

fn remote(fd: BorrowedFd) -> Result<Option<Address>> {
    socket::peer(fd)?.map(|bytes| address(&bytes)).transpose()
}

/// A record as an address of the standard library.
fn socket_address(address: &Address) -> SocketAddr {
    match address.ip {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, address.port, 0, address.scope).into(),
    }
}

/// A record as the kernel's bytes.
fn bytes_of(address: &Address) -> Vec<u8> {
    socket::address::internet(&socket_address(address))
}

/// An address that may have changed with the host: what it is now.
fn moved(address: &Address, addresses: &[(IpAddr, IpAddr)]) -> Address {
    let plain = address.ip.to_canonical();
    let Some((_, new)) = addresses.iter().find(|(old, _)| *old == plain) else {
        return *address;
    };
    let ip = match (address.ip, new) {
        (IpAddr::V6(_), IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
        _ => *new,
    };
    Address { ip, ..*address }
}

/// Binds to an address that may have changed, and says what to do where it is not here.
fn bind(fd: BorrowedFd, to: &Address, addresses: &[(IpAddr, IpAddr)]) -> Result<()> {
    let to = moved(to, addresses);
    socket::bind(fd, &bytes_of(&to)).map_err(|error| {
        let at = socket_address(&to);
        match error.raw() {
            Some(EADDRNOTAVAIL) => Error::Refused(format!(
                "a socket is bound to {at}, an address that is not here: restore with a network that has it, or bind to all addresses"
            )),
            Some(EADDRINUSE) => Error::Refused(format!(
                "a socket is bound to {at}, which is in use here: stop what uses it, or restore with a network of its own (-n NAME)"
            )),
            _ => error.into(),
        }
    })
}

const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;

/// The first look for a [`Source`]: the same as [`blockers`] once the tree is known.
pub fn diag_of(source: &Source) -> Result<Diag> {
    let first = source
        .processes
        .first()
        .map(|p| p.pid)
        .ok_or_else(|| Error::Refused("no process to take".into()))?;
    let pids: Vec<kernel::Pid> = source.processes.iter().map(|p| p.pid).collect();
    let diag = Diag::take(first, &source.inside)?.networks(&source.sights)?;
    Ok(diag.connections(
        Outside {
            connections: source.connections,
            unix: source.ext_unix,
        },
        held(&pids),
    ))
}
