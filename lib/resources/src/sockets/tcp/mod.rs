//! TCP sockets: tcp(7), net/ipv4/tcp.c. Listening sockets, connections, and what is left of connections that have ended or
//! half ended: a program keeps those for a while after it has answered.

use super::{Diag, Holder, TRY_AGAIN, address, local, options, socket_address, version_of};
use crate::{Error, Result};
use image::bytes::Bytes;
use image::sockets::Address;
use image::sockets::options::{Setting, Value};
use image::sockets::tcp::{Connection, Connections, Phase, State, Tcp, Window};
use kernel::sock_diag::TcpSocket;
use kernel::socket;
use kernel::socket::repair::{Queue, Repair, TcpInfo, tcp_info};
use kernel::socket::urgent as received;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

mod door;
mod made;
mod multipath;
mod still;
mod urgent;
mod waiting;

pub use kernel::nftables::Table as Quiet;
pub use made::restore;
pub use still::{Clients, Still, end_silently, forget, quiet, quiet_ways};
pub use waiting::Waiting;

/// `TCP_ESTABLISHED` and so on (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

const ESTABLISHED_REMEDY: &str = "close it, or let it travel (--tcp established), or let the program find it reset after \
    the restore (--tcp close)";
const INNER_REMEDY: &str = "close it: of a network namespace inside the container only connections travel that have both ends \
    in the container, accepted";
const ACCEPT_REMEDY: &str = "what waits for a service of MPTCP, with TCP_FASTOPEN or with keys (TCP_MD5SIG), to accept it \
    cannot travel: let it accept, or leave such connections behind (--tcp close)";
/// What means nothing to a stream, though an accepted socket shows there what the client's first packet had.
const MEANINGLESS: &[&str] = &[
    "IP_MULTICAST_TTL",
    "IP_MULTICAST_IF",
    "IPV6_MULTICAST_HOPS",
    "IPV6_MULTICAST_IF",
];
/// What a connection moves by itself, and what is about its first packet only: with `TCP_FASTOPEN_CONNECT`, connect(2) of the
/// one being made would wait for bytes to send.
const MOVING: &[&str] = &[
    "TCP_MAXSEG",
    "TCP_WINDOW_CLAMP",
    "SO_INCOMING_CPU",
    "TCP_FASTOPEN_CONNECT",
];

/// Refuses what cannot be taken.
pub fn judge(fd: BorrowedFd, holder: Holder, diag: &Diag) -> Result<()> {
    if multipath::is(fd)? {
        return multipath::judge(fd, holder, diag);
    }
    let read = tcp_info(fd)?;
    if let Some(protocol) = upper_protocol(fd) {
        return Err(holder.blocked(
            format!("a TCP connection with {protocol} in the kernel"),
            "the kernel does not give its state away: close it, or have the program do that part itself",
        ));
    }
    match read.state {
        CLOSE => Ok(()),
        LISTEN => waiting_clients(fd, read.unacked, holder, diag),
        ESTABLISHED | SYN_SENT if diag.here.connections != Connections::None => Ok(()),
        ESTABLISHED if is_inner(fd, diag)? => Ok(()),
        ESTABLISHED => Err(holder.blocked(
            format!("an established TCP connection with {}", peer_name(fd)?),
            remedy(diag),
        )),
        SYN_SENT | SYN_RECV => Err(holder.blocked("a TCP connection being made", TRY_AGAIN)),
        state if phase(state).is_some() => Ok(()),
        state => Err(holder.blocked(format!("a TCP socket in state {state}"), TRY_AGAIN)),
    }
}

fn remedy(diag: &Diag) -> &'static str {
    match diag.here.id {
        None => ESTABLISHED_REMEDY,
        Some(_) => INNER_REMEDY,
    }
}

fn peer_name(fd: BorrowedFd) -> Result<String> {
    let peer = socket::peer(fd)?.and_then(|bytes| socket::address::parse_internet(&bytes));
    Ok(peer.map_or("nobody any more".into(), |p| plain(p).to_string()))
}

/// What works on the stream in the kernel (`TCP_ULP`): TLS, say.
fn upper_protocol(fd: BorrowedFd) -> Option<String> {
    let name = socket::option(fd, socket::IPPROTO_TCP, TCP_ULP, 16).ok()?;
    let name = String::from_utf8_lossy(&name)
        .trim_end_matches('\0')
        .to_string();
    (!name.is_empty()).then_some(name)
}

const TCP_ULP: i32 = 31;

/// Whether both ends of a connection are sockets of the container, in whichever of its networks.
fn is_inner(fd: BorrowedFd, diag: &Diag) -> Result<bool> {
    let here = socket_address(&local(fd)?);
    let there = super::remote(fd)?.map(|a| socket_address(&a));
    let ends = diag
        .ends
        .get_or_init(|| ends(diag.tcp().flatten(), &diag.held));
    Ok(there.is_some_and(|there| has_other_end(ends, (here, there))))
}

/// The addresses of connections, its own first, as each of its ends sees them.
pub(super) type Ends = HashSet<(SocketAddr, SocketAddr)>;

/// Those of the sockets that are held.
fn ends<'a>(all: impl Iterator<Item = &'a TcpSocket>, held: &HashSet<u64>) -> Ends {
    let held = all.filter(|s| held.contains(&s.inode.into()));
    held.map(|s| (plain(s.local), plain(s.remote))).collect()
}

/// Whether the other end of a connection is among these.
fn has_other_end(ends: &Ends, (here, there): (SocketAddr, SocketAddr)) -> bool {
    ends.contains(&(plain(there), plain(here)))
}

/// Connections that wait in a listening socket: all of them at once. Where connections are to end, these do so here.
fn waiting_clients(fd: BorrowedFd, count: u32, holder: Holder, diag: &Diag) -> Result<()> {
    let remedy = match diag.here.connections {
        _ if count == 0 => return Ok(()),
        Connections::Closed => return Ok(()),
        // While it still runs it may yet accept them; `Still::begin` waits for that.
        Connections::Established if !diag.frozen => return Ok(()),
        Connections::Established => ACCEPT_REMEDY,
        Connections::None => remedy(diag),
    };
    let here = socket_address(&local(fd)?);
    let clients: Vec<_> = not_accepted(&diag.here.tcp, here.port())
        .map(|what| holder.blocker(what, remedy))
        .collect();
    if clients.is_empty() {
        // It came after the list was made.
        return Err(holder.blocked(
            format!("a TCP connection to {} not yet accepted", plain(here)),
            TRY_AGAIN,
        ));
    }
    Err(Error::Blocked(clients))
}

fn not_accepted(all: &[TcpSocket], port: u16) -> impl Iterator<Item = String> {
    all.iter()
        .filter(|s| s.inode == 0 && matches!(s.state, ESTABLISHED | CLOSE_WAIT))
        .filter(move |s| s.local.port() == port)
        .map(|s| format!("a TCP connection with {} not yet accepted", plain(s.remote)))
}

fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn phase(state: u8) -> Option<Phase> {
    Some(match state {
        ESTABLISHED => Phase::Established,
        4 => Phase::FinWait1,
        5 => Phase::FinWait2,
        CLOSE_WAIT => Phase::CloseWait,
        9 => Phase::LastAck,
        11 => Phase::Closing,
        _ => return None,
    })
}

/// Takes a TCP socket.
pub fn dump(fd: BorrowedFd, kind: (i32, i32, i32), holder: Holder, diag: &mut Diag) -> Result<Tcp> {
    judge(fd, holder, diag)?;
    let state = match multipath::is(fd)? {
        true => multipath::state(fd)?,
        false => state(fd, diag)?,
    };
    let moving = match state {
        State::Fresh { .. } | State::Listening { .. } => &[],
        _ => MOVING,
    };
    let but = [MEANINGLESS, moving].concat();
    let mut options = options::dump(fd, kind, &mut diag.here.fresh, diag.here.network, &but)?;
    if let Some(keys) = diag.here.keys.get(&socket::inode(fd)?) {
        options.settings.extend(keys.iter().map(|key| Setting {
            option: "TCP_MD5SIG_EXT".into(),
            value: Value::Bytes(Bytes(key.option(kind.0))),
        }));
    }
    Ok(Tcp {
        version: version_of(kind.0),
        multipath: kind.2 == socket::IPPROTO_MPTCP,
        state,
        options,
    })
}

fn state(fd: BorrowedFd, diag: &Diag) -> Result<State> {
    let read = tcp_info(fd)?;
    let bound = local(fd)?;
    Ok(match phase(read.state) {
        _ if read.state == LISTEN => State::Listening {
            local: bound,
            backlog: read.sacked,
            clients: diag
                .clients
                .get(&socket::inode(fd)?)
                .cloned()
                .unwrap_or_default(),
        },
        Some(Phase::Established)
            if diag.here.connections == Connections::Closed && !is_inner(fd, diag)? =>
        {
            // Nothing of what it has received: a request read by each of many replicas would be answered by none.
            State::Finished {
                local: bound,
                received: Bytes::default(),
                urgent: None,
                reset: true,
            }
        }
        Some(phase) => State::Connected(connection(fd, phase, &read, bound)?),
        None if read.state == SYN_SENT => connecting(fd, diag, bound)?,
        None => closed(fd, bound)?,
    })
}

/// A connection that the other end has not answered yet.
fn connecting(fd: BorrowedFd, diag: &Diag, local: Address) -> Result<State> {
    let inode = socket::inode(fd)?;
    // getpeername(2) does not say it in this state.
    let listed = diag.here.tcp.iter().find(|s| u64::from(s.inode) == inode);
    match listed {
        Some(found) if diag.here.connections == Connections::Established => {
            let repair = Repair::begin(fd)?;
            Ok(State::Connecting {
                local,
                remote: super::record(found.remote),
                // The SYN, which is sent again, counts as a byte.
                sequence: repair.sequence(Queue::Send)?.wrapping_sub(1),
            })
        }
        _ => Ok(State::Refused { local }),
    }
}

/// A socket without a connection: one that never had any, or one that has lost it (`tcp_done` shuts both directions).
fn closed(fd: BorrowedFd, local: Address) -> Result<State> {
    let events = socket::events(fd)?;
    if events & socket::POLLRDHUP == 0 {
        return Ok(State::Fresh {
            local: (!local.is_unspecified()).then_some(local),
        });
    }
    let (len, mark) = received::waiting(fd)?;
    // Never looked at when empty: that would take the error away.
    let received = match len {
        0 => Vec::new(),
        len => received::peek(fd, len as usize, mark)?,
    };
    Ok(State::Finished {
        local,
        received: Bytes(received),
        urgent: mark.map(urgent::recorded),
        reset: events & socket::POLLERR != 0,
    })
}

/// Which ends of the connection have sent their FIN, and whether ours was acknowledged. Each takes a sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fins {
    received: bool,
    sent: bool,
    acknowledged: bool,
}

impl Fins {
    fn of(phase: Phase) -> Self {
        let (received, sent, acknowledged) = match phase {
            Phase::Established => (false, false, false),
            Phase::FinWait1 => (false, true, false),
            Phase::FinWait2 => (false, true, true),
            Phase::CloseWait => (true, false, false),
            Phase::LastAck | Phase::Closing => (true, true, false),
        };
        Fins {
            received,
            sent,
            acknowledged,
        }
    }
}

fn connection(fd: BorrowedFd, phase: Phase, read: &TcpInfo, local: Address) -> Result<Connection> {
    let fins = Fins::of(phase);
    let remote = socket::peer(fd)?.ok_or_else(|| {
        Error::Refused("a TCP connection ended while it was looked at: try again".into())
    })?;
    let (received, mark) = received::waiting(fd)?;
    // A FIN not acknowledged counts as a byte.
    let own_fin = u32::from(fins.sent && !fins.acknowledged);
    let pending = socket::unacknowledged(fd)?.saturating_sub(own_fin);
    let unsent = socket::unsent(fd)?.min(pending);
    let repair = Repair::begin(fd)?;
    let receive_end = repair
        .sequence(Queue::Receive)?
        .wrapping_sub(fins.received.into());
    let send_end = repair.sequence(Queue::Send)?.wrapping_sub(fins.sent.into());
    let [snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup] = repair.window()?;
    Ok(Connection {
        phase,
        local,
        remote: address(&remote)?,
        send_sequence: send_end.wrapping_sub(pending),
        send_queue: Bytes(repair.read(Queue::Send, pending as usize)?),
        unsent,
        receive_sequence: receive_end.wrapping_sub(received),
        receive_queue: Bytes(repair.received(received as usize, mark)?),
        urgent: mark.map(urgent::recorded),
        mss: repair.mss()?,
        window_scale: read.scales,
        sack: read.sack,
        timestamp: read.timestamps.then(|| repair.timestamp()).transpose()?,
        window: Window {
            snd_wl1,
            snd_wnd,
            max_window,
            rcv_wnd,
            rcv_wup,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_its_phase() {
        let states: Vec<_> = (0..=13).filter(|state| phase(*state).is_some()).collect();
        assert_eq!(states, [1, 4, 5, 8, 9, 11]);
    }

    #[test]
    fn mapped_addresses_are_shown_plainly() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(plain(mapped).to_string(), "10.0.0.1:80");
    }
}
