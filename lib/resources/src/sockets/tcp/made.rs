//! TCP sockets given back. Listening ones first: an old connection that still has their port must not be in their way.
//!
//! A connection is rebuilt as it was, down to its sequence numbers, so that an end that still lives goes on with it. The
//! FIN of one half-closed is delivered to it as a segment; all that it says to that goes nowhere. Where its address is not
//! here any more, it gets a peer of our own that has closed: it reads what was left, then the end of file. An established
//! one that is to end gets a peer that has thrown it away: reading and writing give `ECONNRESET`, once, then end of file
//! and `EPIPE`, and poll(2) says `POLLERR` and `POLLHUP`, as after a reset by the real one.

use super::urgent::Unread;
use super::waiting::{How, One, Waiting, begin_at};
use super::{Fins, door, plain};
use crate::sockets::{bind, bytes_of, family_of, local, moved, options, socket_address};
use crate::{Error, Result};
use image::ids::FileId;
use image::sockets::tcp::{Connection, Connections, Phase, State, Tcp};
use image::sockets::{Address, Version};
use kernel::descriptor;
use kernel::nftables::{Newcomers, Table};
use kernel::socket::repair::{Queue, Repair, Secluded, tcp_info};
use kernel::socket::segment::{ACK, FIN, Segment, deliver};
use kernel::socket::{self, IPPROTO_MPTCP, IPPROTO_TCP, SOCK_STREAM, SOL_SOCKET};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const SO_REUSEADDR: i32 = 2;
const SO_LINGER: i32 = 13;
const SHUT_WR: u8 = 2;

/// Makes all TCP sockets of one of a container's networks, which this thread is in; `all`: those of the others, too.
pub fn restore(
    sockets: &[(FileId, &Tcp)],
    all: &[(FileId, &Tcp)],
    addresses: &[(IpAddr, IpAddr)],
    connections: Connections,
    files: &mut HashMap<FileId, OwnedFd>,
) -> Result<Waiting> {
    for (id, tcp) in sockets {
        if let State::Fresh { .. } | State::Listening { .. } = tcp.state {
            files.insert(*id, fresh(tcp, addresses)?);
        }
    }
    let mut maker = Maker {
        addresses,
        connections,
        ends: all.iter().filter_map(|(_, tcp)| ends(tcp)).collect(),
        waiting: Waiting::default(),
    };
    for (id, tcp) in sockets {
        if let (State::Listening { clients, .. }, Some(listener)) = (&tcp.state, files.get(id)) {
            maker.let_wait(listener.as_fd(), clients)?;
        }
    }
    for (id, tcp) in sockets {
        let (made, how) = match &tcp.state {
            State::Fresh { .. } | State::Listening { .. } => continue,
            State::Finished {
                local,
                received,
                urgent,
                reset,
            } => {
                let local = moved(local, addresses);
                let end = if *reset { End::Reset } else { End::Closed };
                let unread = Unread::of(&received.0, *urgent)?;
                (ended(tcp, &local, &unread, end)?, None)
            }
            State::Refused { .. } => (refused(tcp)?, None),
            State::Connecting {
                local,
                remote,
                sequence,
            } => maker.connecting(tcp, local, remote, *sequence)?,
            State::Connected(connection) => maker.connected(tcp, connection)?,
        };
        options::early(made.as_fd(), &tcp.options)?;
        options::late(made.as_fd(), &tcp.options)?;
        if let Some(how) = how {
            maker.waiting.sockets.push(One {
                fd: descriptor::duplicate(made.as_fd())?,
                options: tcp.options.clone(),
                how,
            });
        }
        files.insert(*id, made);
    }
    Ok(maker.waiting)
}

type Ends = (SocketAddr, SocketAddr);

/// Both ends of a connection.
fn ends(tcp: &Tcp) -> Option<Ends> {
    match &tcp.state {
        State::Connected(c) => Some((
            plain(socket_address(&c.local)),
            plain(socket_address(&c.remote)),
        )),
        _ => None,
    }
}

/// What is at hand while connections are made.
struct Maker<'a> {
    addresses: &'a [(IpAddr, IpAddr)],
    connections: Connections,
    /// Those of all connections in the image.
    ends: HashSet<Ends>,
    waiting: Waiting,
}

/// One of plain TCP.
fn create(version: Version) -> Result<OwnedFd> {
    Ok(socket::create(
        family_of(version),
        SOCK_STREAM,
        IPPROTO_TCP,
    )?)
}

/// One of the record's own protocol, or of plain TCP where MPTCP is not here: services that want it make do with that.
fn of_protocol(tcp: &Tcp) -> Result<OwnedFd> {
    if tcp.multipath
        && let Ok(made) = socket::create(family_of(tcp.version), SOCK_STREAM, IPPROTO_MPTCP)
    {
        return Ok(made);
    }
    create(tcp.version)
}

fn fresh(tcp: &Tcp, addresses: &[(IpAddr, IpAddr)]) -> Result<OwnedFd> {
    let made = of_protocol(tcp)?;
    let fd = made.as_fd();
    options::early(fd, &tcp.options)?;
    let to = match &tcp.state {
        State::Fresh { local } => *local,
        State::Listening { local, .. } => Some(*local),
        _ => None,
    };
    if let Some(to) = to {
        // What is left of earlier connections (TIME_WAIT) must not be in the way of its port.
        socket::set_number(fd, SOL_SOCKET, SO_REUSEADDR, 1)?;
        bind(fd, &to, addresses)?;
        options::again(fd, &tcp.options, "SO_REUSEADDR")?;
    }
    if let State::Listening { backlog, .. } = &tcp.state {
        socket::listen(fd, *backlog)?;
    }
    options::late(fd, &tcp.options)?;
    Ok(made)
}

impl Maker<'_> {
    fn connected(&mut self, tcp: &Tcp, c: &Connection) -> Result<(OwnedFd, Option<How>)> {
        let inner = ends(tcp).is_some_and(|(here, there)| self.ends.contains(&(there, here)));
        let local = moved(&c.local, self.addresses);
        let mut now = c.clone();
        if inner {
            now.local = local;
            now.remote = moved(&c.remote, self.addresses);
        }
        let here = inner || local == c.local;
        let end = match c.phase {
            Phase::Established if inner => return rebuilt(tcp, &now),
            Phase::Established if self.connections != Connections::Established => {
                return Ok((ended(tcp, &local, &Unread::default(), End::Reset)?, None));
            }
            Phase::Established if !here => return Err(no_address(c, None)),
            Phase::Established => {
                self.hush(c)?;
                return rebuilt(tcp, c).map_err(|e| no_address(c, Some(e)));
            }
            Phase::CloseWait => End::HalfClosed,
            _ => End::Closed,
        };
        if here && let Ok(made) = rebuilt(tcp, &now) {
            return Ok(made);
        }
        // Its address or its way is not here.
        let unread = Unread::of(&c.receive_queue.0, c.urgent)?;
        Ok((ended(tcp, &local, &unread, end)?, None))
    }

    fn connecting(
        &mut self,
        tcp: &Tcp,
        at: &Address,
        remote: &Address,
        sequence: u32,
    ) -> Result<(OwnedFd, Option<How>)> {
        if self.connections != Connections::Established || moved(at, self.addresses) != *at {
            return Ok((refused(tcp)?, None));
        }
        let made = create(tcp.version)?;
        let fd = made.as_fd();
        options::early(fd, &tcp.options)?;
        bind(fd, at, self.addresses)?;
        begin_at(fd, sequence)?;
        Ok((made, Some(How::Connecting { remote: *remote })))
    }

    /// Clients that were not yet accepted: as established connections, but that the program knows nothing of them.
    fn let_wait(&mut self, listener: BorrowedFd, clients: &[Connection]) -> Result<()> {
        if self.connections != Connections::Established {
            return Ok(());
        }
        for c in clients {
            if moved(&c.local, self.addresses) != c.local {
                return Err(no_address(c, None));
            }
            self.hush(c)?;
        }
        door::let_wait(listener, clients)
    }

    /// In a network that others use too, and that may have the address already.
    fn hush(&mut self, c: &Connection) -> Result<()> {
        let table = match &mut self.waiting.table {
            Some(table) => table,
            None => {
                let name = format!("ferry-restore-{}", std::process::id());
                let made = Table::hush(&name, &Newcomers::To(Vec::new()))?;
                self.waiting.table.insert(made)
            }
        };
        Ok(table.add(&[(socket_address(&c.local), socket_address(&c.remote))])?)
    }
}

const EADDRNOTAVAIL: i32 = 99;

/// Why an established connection cannot be given back.
fn no_address(c: &Connection, error: Option<Error>) -> Error {
    let (here, there) = (
        plain(socket_address(&c.local)),
        plain(socket_address(&c.remote)),
    );
    let why = match &error {
        Some(Error::Kernel(e)) if e.raw() != Some(EADDRNOTAVAIL) => format!(": {e}"),
        Some(Error::Kernel(e)) if e.to_string().contains("connect to") => {
            ": it is still there; end the original first".into()
        }
        Some(Error::Kernel(_)) | None => format!(": the address {} is not here", here.ip()),
        Some(other) => format!(": {other}"),
    };
    Error::Refused(format!(
        "the established TCP connection between {here} and {there} cannot go on{why}; restore with a network that has the \
         container's address and its way to the other end (with podman: --ip {}), or let the program find its connections \
         reset: --tcp close",
        here.ip()
    ))
}

/// The same connection, by `TCP_REPAIR`, in which it stays.
fn rebuilt(tcp: &Tcp, c: &Connection) -> Result<(OwnedFd, Option<How>)> {
    let made = create(tcp.version)?;
    let fd = made.as_fd();
    let fins = Fins::of(c.phase);
    let receive_end = c
        .receive_sequence
        .wrapping_add(c.receive_queue.0.len() as u32);
    let sent = c.send_queue.0.len().saturating_sub(c.unsent as usize);
    let (sent_bytes, unsent_bytes) = c.send_queue.0.split_at(sent);
    options::early(fd, &tcp.options)?;
    let repair = Repair::begin(fd)?;
    repair.set_sequence(Queue::Send, c.send_sequence)?;
    repair.set_sequence(Queue::Receive, c.receive_sequence)?;
    socket::bind(fd, &bytes_of(&c.local))?;
    repair.connect(&bytes_of(&c.remote), c.mss)?;
    repair.agree(c.mss, c.window_scale, c.sack, c.timestamp.is_some())?;
    if let Some(clock) = c.timestamp {
        repair.set_timestamp(clock)?;
    }
    let roomy = options::Roomy::make(fd)?;
    let unread = Unread::of(&c.receive_queue.0, c.urgent)?;
    unread.write(&repair, fd, c)?;
    // What was told before the FIN came lies before it.
    let before = |sequence: u32| {
        if (receive_end.wrapping_sub(sequence) as i32) < 0 {
            receive_end
        } else {
            sequence
        }
    };
    let w = &c.window;
    let window = [
        before(w.snd_wl1),
        w.snd_wnd,
        w.max_window.max(w.snd_wnd),
        w.rcv_wnd,
        before(w.rcv_wup),
    ];
    if c.phase == Phase::Established {
        roomy.back()?;
        repair.stay();
        let how = How::Repaired {
            sent: sent_bytes.to_vec(),
            unsent: unsent_bytes.to_vec(),
            window: Some(window),
        };
        return Ok((made, Some(how)));
    }
    repair.write(Queue::Send, sent_bytes)?;
    repair.set_window(window)?;
    let secluded = Secluded::begin(fd)?;
    drop(repair);
    if !unsent_bytes.is_empty() {
        socket::send(fd, unsent_bytes, None, &[], None)?;
    }
    let own_end = c
        .send_sequence
        .wrapping_add(c.send_queue.0.len() as u32)
        .wrapping_add(fins.sent.into());
    let from_peer = |sequence, acknowledged, flags| {
        let (from, to) = (socket_address(&c.remote), socket_address(&c.local));
        deliver(&Segment {
            from: plain(from),
            to: plain(to),
            sequence,
            acknowledged,
            window: u16::MAX,
            flags,
        })
    };
    let ends = || -> Result<()> {
        from_peer(receive_end, c.send_sequence, FIN | ACK)?;
        // Once more: what is old is acknowledged at once, so that no acknowledgement is left to be sent later.
        Ok(from_peer(receive_end, c.send_sequence, FIN | ACK)?)
    };
    // Whose FIN was first makes the state.
    let peer_was_first = c.phase == Phase::LastAck;
    if peer_was_first {
        secluded.listen()?;
        ends()?;
        secluded.withdraw()?;
    }
    if fins.sent {
        socket::shutdown(fd, SHUT_WR)?;
    }
    secluded.listen()?;
    if fins.acknowledged {
        from_peer(receive_end, own_end, ACK)?;
    }
    if fins.received && !peer_was_first {
        ends()?;
    }
    secluded.end()?;
    roomy.back()?;
    let state = tcp_info(fd)?.state;
    if super::phase(state) != Some(c.phase) {
        return Err(Error::Refused(format!(
            "a TCP connection came out in state {state}, not {:?}",
            c.phase
        )));
    }
    Repair::begin(fd)?.stay();
    let how = How::Repaired {
        sent: Vec::new(),
        unsent: Vec::new(),
        window: None,
    };
    Ok((made, Some(how)))
}

/// How a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The peer has closed, we have not.
    HalfClosed,
    /// Both have.
    Closed,
    /// The peer has thrown it away.
    Reset,
}

/// A connection with a peer of our own that comes to this end at once.
fn ended(tcp: &Tcp, local_end: &Address, unread: &Unread, end: End) -> Result<OwnedFd> {
    let loopback: IpAddr = match (tcp.version, local_end.ip.to_canonical()) {
        (Version::V4, _) => Ipv4Addr::LOCALHOST.into(),
        (Version::V6, IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        (Version::V6, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
    };
    let listener = create(tcp.version)?;
    socket::bind(
        listener.as_fd(),
        &bytes_of(&Address {
            ip: loopback,
            port: 0,
            scope: 0,
        }),
    )?;
    socket::listen(listener.as_fd(), 1)?;
    let there = bytes_of(&local(listener.as_fd())?);
    let made = with_address(tcp, local_end, &there)?;
    let peer = socket::accept(listener.as_fd())?;
    let fd = made.as_fd();
    if !unread.is_empty() {
        fill(peer.as_fd(), fd, unread)?;
    }
    match end {
        End::HalfClosed => {}
        End::Closed => socket::shutdown(fd, SHUT_WR)?,
        End::Reset => socket::set_option(
            peer.as_fd(),
            SOL_SOCKET,
            SO_LINGER,
            &[1, 0, 0, 0, 0, 0, 0, 0],
        )?,
    }
    drop(peer);
    Ok(made)
}

/// A socket that was connecting, and was refused: the task that waits for it, or asks, hears that.
fn refused(tcp: &Tcp) -> Result<OwnedFd> {
    let nobody = create(tcp.version)?;
    let loopback = match tcp.version {
        Version::V4 => Ipv4Addr::LOCALHOST.into(),
        Version::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    let at = SocketAddr::new(loopback, 0);
    // Has the port, so that nobody else listens there; does not listen itself.
    socket::bind(nobody.as_fd(), &socket::address::internet(&at))?;
    let there = socket::name(nobody.as_fd())?;
    let made = of_protocol(tcp)?;
    let fd = made.as_fd();
    let flags = descriptor::flags(fd)?;
    descriptor::set_flags(fd, flags | descriptor::O_NONBLOCK)?;
    match socket::connect(fd, &there) {
        Err(e) if e.raw() == Some(EINPROGRESS) => {}
        other => other?,
    }
    descriptor::set_flags(fd, flags)?;
    Ok(made)
}

const EINPROGRESS: i32 = 115;

fn fill(peer: BorrowedFd, fd: BorrowedFd, unread: &Unread) -> Result<()> {
    let (at_peer, here) = (options::Roomy::make(peer)?, options::Roomy::make(fd)?);
    unread.send(peer, fd)?;
    at_peer.back()?;
    here.back()
}

/// A socket connected to `there`, from its old address where that is still to be had.
fn with_address(tcp: &Tcp, local_end: &Address, there: &[u8]) -> Result<OwnedFd> {
    let made = of_protocol(tcp)?;
    // In repair, a port that a listening socket has may be taken too.
    let bound = Repair::begin(made.as_fd())
        .and_then(|_repair| socket::bind(made.as_fd(), &bytes_of(local_end)));
    if bound.is_ok() && socket::connect(made.as_fd(), there).is_ok() {
        return Ok(made);
    }
    let made = of_protocol(tcp)?;
    socket::connect(made.as_fd(), there)?;
    Ok(made)
}
