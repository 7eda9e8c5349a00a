//! TCP sockets given back. Listening ones first: an old connection that still has their port must not be in their way.
//!
//! A half-closed connection is rebuilt as it was, down to its sequence numbers, so that an end that still lives goes on
//! with it. Its peer's FIN is delivered to it as a segment; all that it says to that goes nowhere. Where its address is
//! not here any more, it gets a peer of our own that has closed: it reads what was left, then the end of file.

use super::Fins;
use crate::sockets::{bind, bytes_of, family_of, local, moved, options, socket_address};
use crate::{Error, Result};
use image::ids::FileId;
use image::sockets::tcp::{Connection, Phase, State, Tcp};
use image::sockets::{Address, Version};
use kernel::socket::repair::{Queue, Repair, Secluded, tcp_info};
use kernel::socket::segment::{ACK, FIN, Segment, deliver};
use kernel::socket::{self, IPPROTO_TCP, SOCK_STREAM, SOL_SOCKET};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const SO_REUSEADDR: i32 = 2;
const SO_LINGER: i32 = 13;
const SHUT_WR: u8 = 2;

/// Makes all TCP sockets of a container, whose network this thread is in.
pub fn restore(
    sockets: &[(FileId, &Tcp)],
    addresses: &[(IpAddr, IpAddr)],
    files: &mut HashMap<FileId, OwnedFd>,
) -> Result<()> {
    for (id, tcp) in sockets {
        if let State::Fresh { .. } | State::Listening { .. } = tcp.state {
            files.insert(*id, fresh(tcp, addresses)?);
        }
    }
    for (id, tcp) in sockets {
        let made = match &tcp.state {
            State::Fresh { .. } | State::Listening { .. } => continue,
            State::Finished {
                local,
                received,
                reset,
            } => {
                let local = moved(local, addresses);
                ended(
                    tcp,
                    &local,
                    &received.0,
                    if *reset { End::Reset } else { End::Closed },
                )?
            }
            State::Connected(connection) => connected(tcp, connection, addresses)?,
        };
        options::early(made.as_fd(), &tcp.options)?;
        options::late(made.as_fd(), &tcp.options)?;
        files.insert(*id, made);
    }
    Ok(())
}

fn create(version: Version) -> Result<OwnedFd> {
    Ok(socket::create(
        family_of(version),
        SOCK_STREAM,
        IPPROTO_TCP,
    )?)
}

fn fresh(tcp: &Tcp, addresses: &[(IpAddr, IpAddr)]) -> Result<OwnedFd> {
    let made = create(tcp.version)?;
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

fn connected(
    tcp: &Tcp,
    connection: &Connection,
    addresses: &[(IpAddr, IpAddr)],
) -> Result<OwnedFd> {
    if connection.phase == Phase::Established {
        return Err(Error::Refused(format!(
            "the image has an established TCP connection with {}, which cannot be given back yet",
            socket_address(&connection.remote)
        )));
    }
    let here = moved(&connection.local, addresses) == connection.local;
    match here.then(|| rebuilt(tcp, connection)) {
        Some(Ok(made)) => Ok(made),
        // Its address or its way is not here.
        Some(Err(_)) | None => {
            let end = match connection.phase {
                Phase::CloseWait => End::HalfClosed,
                _ => End::Closed,
            };
            ended(
                tcp,
                &moved(&connection.local, addresses),
                &connection.receive_queue.0,
                end,
            )
        }
    }
}

/// The same connection, by `TCP_REPAIR`.
fn rebuilt(tcp: &Tcp, c: &Connection) -> Result<OwnedFd> {
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
    socket::connect(fd, &bytes_of(&c.remote))?;
    repair.agree(c.mss, c.window_scale, c.sack, c.timestamp.is_some())?;
    if let Some(clock) = c.timestamp {
        repair.set_timestamp(clock)?;
    }
    let roomy = options::Roomy::make(fd)?;
    repair.write(Queue::Receive, &c.receive_queue.0)?;
    repair.write(Queue::Send, sent_bytes)?;
    // What was told before the FIN came lies before it.
    let before = |sequence: u32| {
        if (receive_end.wrapping_sub(sequence) as i32) < 0 {
            receive_end
        } else {
            sequence
        }
    };
    let w = &c.window;
    repair.set_window([
        before(w.snd_wl1),
        w.snd_wnd,
        w.max_window.max(w.snd_wnd),
        w.rcv_wnd,
        before(w.rcv_wup),
    ])?;
    let secluded = Secluded::begin(fd)?;
    drop(repair);
    if !unsent_bytes.is_empty() {
        socket::send(fd, unsent_bytes, None, &[], None)?;
    }
    if fins.sent {
        socket::shutdown(fd, SHUT_WR)?;
    }
    let own_end = c
        .send_sequence
        .wrapping_add(c.send_queue.0.len() as u32)
        .wrapping_add(fins.sent.into());
    let from_peer = |sequence, acknowledged, flags| {
        let (from, to) = (socket_address(&c.remote), socket_address(&c.local));
        let plain =
            |a: std::net::SocketAddr| std::net::SocketAddr::new(a.ip().to_canonical(), a.port());
        deliver(&Segment {
            from: plain(from),
            to: plain(to),
            sequence,
            acknowledged,
            window: u16::MAX,
            flags,
        })
    };
    if fins.acknowledged {
        from_peer(receive_end, own_end, ACK)?;
    }
    if fins.received {
        let acknowledged = if fins.acknowledged {
            own_end
        } else {
            c.send_sequence
        };
        from_peer(receive_end, acknowledged, FIN | ACK)?;
        // Once more: what is old is acknowledged at once, so that no acknowledgement is left to be sent later.
        from_peer(receive_end, acknowledged, FIN | ACK)?;
    }
    secluded.end()?;
    roomy.back()?;
    let state = tcp_info(fd)?.state;
    if super::phase(state).map(same) != Some(same(c.phase)) {
        return Err(Error::Refused(format!(
            "a TCP connection came out in state {state}, not {:?}",
            c.phase
        )));
    }
    Ok(made)
}

/// Both have closed, one after the other or at once: what comes next is the same.
fn same(phase: Phase) -> Phase {
    match phase {
        Phase::Closing => Phase::LastAck,
        other => other,
    }
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
fn ended(tcp: &Tcp, local_end: &Address, received: &[u8], end: End) -> Result<OwnedFd> {
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
    if !received.is_empty() {
        fill(peer.as_fd(), fd, received)?;
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

fn fill(peer: BorrowedFd, fd: BorrowedFd, received: &[u8]) -> Result<()> {
    let (at_peer, here) = (options::Roomy::make(peer)?, options::Roomy::make(fd)?);
    socket::send(peer, received, None, &[], None)?;
    at_peer.back()?;
    here.back()
}

/// A socket connected to `there`, from its old address where that is still to be had.
fn with_address(tcp: &Tcp, local_end: &Address, there: &[u8]) -> Result<OwnedFd> {
    let made = create(tcp.version)?;
    // In repair, a port that a listening socket has may be taken too.
    let bound = Repair::begin(made.as_fd())
        .and_then(|_repair| socket::bind(made.as_fd(), &bytes_of(local_end)));
    if bound.is_ok() && socket::connect(made.as_fd(), there).is_ok() {
        return Ok(made);
    }
    let made = create(tcp.version)?;
    socket::connect(made.as_fd(), there)?;
    Ok(made)
}
