//! Sockets: one room per family. They are taken one at a time, as open files are, and given back all together: first
//! made, bound, listening and paired ([`restore`]), then, when every other open file is there to be passed along, their
//! queues are filled and the last connections made ([`Opened::fill`]).

use crate::{Blocker, Error, Result, Source, Target};
use image::ids::{FileId, Pid};
use image::sockets::tcp::Connections;
use image::sockets::{Address, Socket, Version};
use kernel::sock_diag::{self, PacketSocket, TcpSocket, UnixSocket};
use kernel::socket;
use kernel::{Namespace, within};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub mod netlink;
pub mod options;
pub mod packet;
pub mod raw;
pub mod tcp;
pub mod udp;
pub mod unix;

/// What the kernel lists of all sockets of the container's network, and what has been taken of them so far.
#[derive(Debug)]
pub struct Diag {
    /// A process in that network, in our pid namespace.
    network: kernel::Pid,
    /// The inode of that network namespace.
    inode: u64,
    unix: HashMap<u64, UnixSocket>,
    /// The listening socket that has not yet accepted a client, by the client's inode.
    listeners: HashMap<u64, u64>,
    tcp: Vec<TcpSocket>,
    packet: Vec<PacketSocket>,
    netlink: HashMap<u64, kernel::proc::netlink::Netlink>,
    groups: Vec<kernel::proc::igmp::Group>,
    /// Whom raw and ping sockets are connected to.
    raw_peers: HashMap<u64, IpAddr>,
    inside: HashMap<kernel::Pid, Pid>,
    fresh: options::Fresh,
    /// What becomes of TCP connections with the outside.
    connections: Connections,
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
    /// Lists the sockets of the network that process `network` is in. When the container is frozen, or, for a first look,
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
            network,
            inode,
            listeners,
            unix: unix.into_iter().map(|s| (s.inode.into(), s)).collect(),
            tcp,
            packet,
            netlink: kernel::proc::netlink::read(&proc)?,
            groups: kernel::proc::igmp::read(&proc)?,
            raw_peers: kernel::proc::raw::read(&proc),
            inside: inside.clone(),
            fresh: options::Fresh::default(),
            connections: Connections::None,
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
        self.connections = outside.connections;
        self.ext_unix = outside.unix;
        self.held = held;
        self
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
    if socket::network(fd)? != diag.inode {
        return Err(holder.blocked(
            "a socket of another network namespace than the container's",
            "close it, or checkpoint the tree it belongs to",
        ));
    }
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
pub fn blockers(pids: &[kernel::Pid], outside: Outside) -> Result<Vec<Blocker>> {
    let Some(first) = pids.first() else {
        return Ok(Vec::new());
    };
    let mut diag = Diag::take(*first, &HashMap::new())?.connections(outside, held(pids));
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
    let judged = match kind {
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

/// Sockets made, between the two steps of giving them back.
#[derive(Debug)]
pub struct Opened {
    unix: unix::Made,
    waiting: tcp::Waiting,
}

/// Makes all sockets, as far as that goes without other open files, and puts them among the target's files. Their status
/// flags are left to the room of open files.
pub fn restore(sockets: &[(FileId, &Socket)], target: &mut Target) -> Result<Opened> {
    let root = target.root_pid;
    let addresses = target.addresses.clone();
    let connections = target.connections;
    let pings = sockets
        .iter()
        .any(|(_, s)| matches!(s, Socket::Raw(raw) if raw.ping));
    let _range = match pings {
        true => Some(raw::Range::widen(root)?),
        false => None,
    };
    let (made, unix, waiting) = within(root, &[Namespace::Net, Namespace::Mount], || {
        let mut made = HashMap::new();
        let unix = unix::restore(
            &chosen(sockets, |s| {
                if let Socket::Unix(u) = s {
                    Some(u)
                } else {
                    None
                }
            }),
            &mut made,
        )?;
        for (id, socket) in sockets {
            let fd = match socket {
                Socket::Unix(_) | Socket::Tcp(_) => continue,
                Socket::Udp(udp) => udp::restore(udp, &addresses)?,
                Socket::Netlink(netlink) => netlink::restore(netlink)?,
                Socket::Raw(raw) => raw::restore(raw, &addresses)?,
                Socket::Packet(packet) => packet::restore(packet)?,
            };
            made.insert(*id, fd);
        }
        let tcp = chosen(sockets, |s| {
            if let Socket::Tcp(t) = s {
                Some(t)
            } else {
                None
            }
        });
        let waiting = tcp::restore(&tcp, &addresses, connections, &mut made)?;
        Ok::<_, Error>((made, unix, waiting))
    })??;
    target.files.extend(made);
    Ok(Opened { unix, waiting })
}

impl Opened {
    /// Fills the queues and makes the last connections. All open files of the container are among the target's by now. What
    /// is given back is silent until the container runs.
    pub fn fill(self, sockets: &[(FileId, &Socket)], target: &Target) -> Result<tcp::Waiting> {
        let pids: HashMap<Pid, kernel::Pid> = target
            .processes
            .values()
            .map(|p| (p.inside, p.pid))
            .collect();
        let files = &target.files;
        within(target.root_pid, &[Namespace::Net, Namespace::Mount], || {
            let unix = chosen(sockets, |s| {
                if let Socket::Unix(u) = s {
                    Some(u)
                } else {
                    None
                }
            });
            unix::fill(self.unix, &unix, files, &pids)?;
            for (id, raw) in chosen(sockets, |s| {
                if let Socket::Raw(r) = s {
                    Some(r)
                } else {
                    None
                }
            }) {
                raw::fill(raw, target.file(id)?.as_fd())?;
            }
            Ok::<_, Error>(())
        })??;
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
    Ok(Diag::take(first, &source.inside)?.connections(
        Outside {
            connections: source.connections,
            unix: source.ext_unix,
        },
        held(&pids),
    ))
}
