//! Sockets: one room per family. They are taken one at a time, as open files are, and given back all together: first
//! made, bound, listening and paired ([`restore`]), then, when every other open file is there to be passed along, their
//! queues are filled and the last connections made ([`Opened::fill`]).

use crate::namespaces::nested::Sights;
use crate::{Blocker, Error, Result, Target, target as targets};
use image::ids::{FileId, NsId, Pid};
use image::sockets::Socket;
use image::sockets::tcp::{Connections, Tcp};
use image::sockets::unix::Unix;
use kernel::namespaces::{Kind, identity};
use kernel::socket;
use kernel::{Namespace, within};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

mod address;
mod diag;
pub mod netlink;
pub mod options;
pub mod packet;
pub mod raw;
pub mod tcp;
pub mod udp;
pub mod unix;

use address::{
    address, bind, bytes_of, family_of, local, moved, record, remote, socket_address, version_of,
};
pub use diag::{Diag, diag_of};
use unix::makers::{self, Makers};

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
        (
            socket::AF_INET | socket::AF_INET6,
            socket::SOCK_STREAM,
            socket::IPPROTO_TCP | socket::IPPROTO_MPTCP,
        ) => Socket::Tcp(tcp::dump(fd, kind, holder, diag)?),
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
            udp::judge(fd, holder)?;
            Socket::Raw(raw::dump(fd, kind, diag)?)
        }
        (socket::AF_NETLINK, ..) => Socket::Netlink(netlink::dump(fd, kind, holder, diag)?),
        (socket::AF_PACKET, ..) => Socket::Packet(packet::dump(fd, kind, holder, diag)?),
        _ => return Err(unknown(kind, &holder)),
    })
}

/// Everything among the sockets of these tasks (in our pid namespace, the container's first process first) that cannot
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
        let Ok(pidfd) = kernel::pidfd::PidFd::task(*pid) else {
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

/// Inodes of the sockets that tasks have by descriptor.
pub fn held(pids: &[kernel::Pid]) -> HashSet<u64> {
    pids.iter()
        .flat_map(|pid| sockets_of(*pid))
        .map(|(_, inode)| inode)
        .collect()
}

/// The sockets among the descriptors of a task, with their inodes; none of one that has ended.
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
        (
            socket::AF_INET | socket::AF_INET6,
            socket::SOCK_STREAM,
            socket::IPPROTO_TCP | socket::IPPROTO_MPTCP,
        ) => tcp::judge(fd, holder, diag),
        (socket::AF_INET | socket::AF_INET6, socket::SOCK_DGRAM | socket::SOCK_RAW, _) => {
            udp::judge(fd, holder)
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
    target: &mut Target,
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
    let everything = of_all(sockets);
    let all = chosen(&everything, unix_of);
    let views = unix::views(&chosen(&own, unix_of), target)?;
    let root = target.root_pid;
    let network = identity(there, Kind::Network)?;
    let make = |makers: Makers| {
        let unix = unix::restore(&chosen(&own, unix_of), &all, views, &makers, made)?;
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
        let (tcp, everywhere) = (chosen(&own, tcp_of), chosen(&everything, tcp_of));
        let waiting = tcp::restore(&tcp, &everywhere, &addresses, connections, made)?;
        Ok((unix, waiting))
    };
    makers::with(&mut target.processes, network, |makers| {
        in_both(there, root, || make(makers))
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

fn tcp_of(socket: &Socket) -> Option<&Tcp> {
    match socket {
        Socket::Tcp(tcp) => Some(tcp),
        _ => None,
    }
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
    pub fn fill(self, sockets: &[Listed], target: &mut Target) -> Result<tcp::Waiting> {
        let pids: HashMap<Pid, kernel::Pid> = target
            .processes
            .values()
            .map(|p| (p.inside, p.pid))
            .collect();
        let (files, root) = (&target.files, target.root_pid);
        let everything = of_all(sockets);
        let all = chosen(&everything, unix_of);
        for (there, network, unix) in self.unix {
            let own = of_network(sockets, network);
            let fill = |makers: Makers| {
                let unixes = chosen(&own, unix_of);
                unix::fill(unix, &unixes, &all, files, &pids, &makers)?;
                let raws = chosen(&own, |s| match s {
                    Socket::Raw(raw) => Some(raw),
                    _ => None,
                });
                for (id, raw) in raws {
                    raw::fill(raw, targets::file(files, id)?.as_fd())?;
                }
                Ok(())
            };
            let inside = identity(there, Kind::Network)?;
            makers::with(&mut target.processes, inside, |makers| {
                in_both(there, root, || fill(makers))
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
