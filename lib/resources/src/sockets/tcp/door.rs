//! Clients that wait in a listening socket's queue: connections whole, but not yet accepted, which no descriptor names.
//!
//! They are taken by accepting them on our side, and given back, to the new socket or, where the container runs on, to the
//! old one, by a handshake that we play for them on the loopback interface. It ends in the sequence numbers that the client
//! goes on with, for a socket in `TIME_WAIT` says with which number of ours a new connection of the same ends begins
//! (net/ipv4/tcp_minisocks.c, `tcp_timewait_state_process`): so one is made before, by `TCP_REPAIR`. What the client had
//! sent follows as segments from it. All of that while the packets of the real client are dropped.

use super::{CLOSE, CLOSE_WAIT, ESTABLISHED, Fins, SYN_RECV, connection, phase, plain};
use crate::sockets::{bytes_of, local, record, socket_address};
use crate::{Error, Result};
use image::bytes::Bytes;
use image::sockets::tcp::{Connection, Phase};
use kernel::sock_diag;
use kernel::socket::repair::{Queue, Repair, Secluded, tcp_info};
use kernel::socket::segment::{ACK, FIN, PUSH, SYN, Segment, URGENT, deliver, deliver_text};
use kernel::socket::{self, IPPROTO_TCP, SOCK_STREAM, SOL_SOCKET};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const TCP_FASTOPEN: i32 = 23;
const SO_REUSEPORT: i32 = 15;
const SHUT_WR: u8 = 2;
/// How far behind the numbers of the old connection a new one begins: 65535 + 2.
const BEYOND_TIME_WAIT: u32 = 65537;
/// What a segment carries; less where the loopback interface takes less.
const PIECES: [usize; 2] = [16_000, 1_200];

/// A listening socket of the source, and the clients taken out of its queue, the oldest first.
#[derive(Debug)]
pub(super) struct Door {
    listener: OwnedFd,
    clients: Vec<(OwnedFd, Connection)>,
}

/// Whether the clients of a listening socket could be given back to it: those of MPTCP, and those that sent before the
/// handshake was over, could not.
pub(super) fn can(listener: BorrowedFd) -> Result<bool> {
    let fast = socket::number(listener, IPPROTO_TCP, TCP_FASTOPEN)?;
    Ok(!super::multipath::is(listener)? && fast == 0)
}

impl Door {
    pub(super) fn of(listener: OwnedFd) -> Self {
        Door {
            listener,
            clients: Vec::new(),
        }
    }

    /// Takes them out. The socket's program stands still, and its clients' packets are dropped.
    pub(super) fn empty(&mut self) -> Result<()> {
        if !can(self.listener.as_fd())? {
            return Ok(());
        }
        while tcp_info(self.listener.as_fd())?.unacked > 0 {
            let client = socket::accept(self.listener.as_fd())?;
            let read = tcp_info(client.as_fd())?;
            // One that was thrown away while it waited is not let in again.
            if let Some(phase @ (Phase::Established | Phase::CloseWait)) = phase(read.state) {
                let at = local(client.as_fd())?;
                let taken = connection(client.as_fd(), phase, &read, at)?;
                Repair::begin(client.as_fd())?.stay();
                self.clients.push((client, taken));
            }
        }
        Ok(())
    }

    /// Whose it is, by inode, and who has waited.
    pub(super) fn taken(&self) -> Result<(u64, Vec<Connection>)> {
        let clients = self.clients.iter().map(|(_, c)| c.clone()).collect();
        Ok((socket::inode(self.listener.as_fd())?, clients))
    }

    /// Lets them wait again, in the network that this thread is in.
    pub(super) fn fill(&mut self) -> Result<()> {
        let (clients, taken): (Vec<OwnedFd>, Vec<Connection>) = self.clients.drain(..).unzip();
        // In repair they close without a word.
        drop(clients);
        let_wait(self.listener.as_fd(), &taken)
    }
}

/// Lets clients wait to be accepted by a socket that listens, whose queue is empty. Nothing of the real ones' packets may
/// pass.
pub(super) fn let_wait(listener: BorrowedFd, clients: &[Connection]) -> Result<()> {
    let timestamps: Vec<bool> = clients
        .iter()
        .map(|c| goes_on(listener, c))
        .collect::<Result<_>>()?;
    let mut each = clients.iter().zip(timestamps);
    each.try_for_each(|(c, timestamps)| {
        knock(c, timestamps)?;
        waits(c)
    })
}

fn waits(c: &Connection) -> Result<()> {
    let (here, there) = (
        plain(socket_address(&c.local)),
        plain(socket_address(&c.remote)),
    );
    let unread = c.receive_queue.0.len() as u32 + u32::from(Fins::of(c.phase).received);
    let all = sock_diag::tcp()?;
    let waits = all.iter().any(|s| {
        let state = match s.state {
            ESTABLISHED | CLOSE_WAIT => s.receive_queue == unread,
            // It must have sent something first (`TCP_DEFER_ACCEPT`).
            SYN_RECV => unread == 0,
            _ => false,
        };
        state && (plain(s.local), plain(s.remote)) == (here, there)
    });
    if waits {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "the TCP connection with {there}, not yet accepted, cannot wait at {here} again: let the program accept before the \
         checkpoint, or leave such connections behind (--tcp close)"
    )))
}

/// Whether our timestamp clock towards a client, which the kernel chooses by both ends, goes on from where it was: the client
/// would take what we say for old, and does without timestamps. A connection that is made and ended for that tells it.
fn goes_on(listener: BorrowedFd, c: &Connection) -> Result<bool> {
    let Some(before) = c.timestamp else {
        return Ok(false);
    };
    if socket::number(listener, SOL_SOCKET, SO_REUSEPORT)? != 0 {
        // It may find another one that listens at this port.
        return Ok(false);
    }
    let trial = Connection {
        phase: Phase::Established,
        // Without a word it may not be let in (`TCP_DEFER_ACCEPT`).
        receive_queue: Bytes(vec![0]),
        urgent: None,
        ..c.clone()
    };
    knock(&trial, true)?;
    if tcp_info(listener)?.unacked == 0 {
        return Ok(false);
    }
    let client = socket::accept(listener)?;
    let told = tcp_info(client.as_fd())?.timestamps;
    let repair = Repair::begin(client.as_fd())?;
    let now = repair.timestamp()?;
    repair.stay();
    Ok(told && now.wrapping_sub(before) as i32 >= 0)
}

/// Plays the client: the handshake, all it has sent, and its end.
fn knock(c: &Connection, timestamps: bool) -> Result<()> {
    leave_before(c)?;
    let from_client = |sequence, acknowledged, flags| Segment {
        from: plain(socket_address(&c.remote)),
        to: plain(socket_address(&c.local)),
        sequence,
        acknowledged,
        window: match flags {
            SYN => u16::MAX,
            _ => c
                .window
                .snd_wnd
                .checked_shr(send_scale(c).into())
                .unwrap_or(0)
                .min(0xffff) as u16,
        },
        flags,
    };
    // Of the client's clock we know nothing; 0 is older than all it says.
    let stamp: &[u8] = match timestamps {
        true => &[1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0],
        false => &[],
    };
    let mut sequence = c.receive_sequence;
    let first = from_client(sequence.wrapping_sub(1), 0, SYN);
    deliver_text(&first, &[&greeting(c, timestamps), stamp].concat(), &[])?;
    let answer = from_client(sequence, c.send_sequence, ACK);
    deliver_text(&answer, stamp, &[])?;
    let mut left = &c.receive_queue.0[..];
    let [mut most, less] = PIECES;
    while !left.is_empty() {
        let come = c.receive_queue.0.len() - left.len();
        // The urgent byte begins a segment.
        let (room, flags) = match c.urgent.map(|urgent| urgent.at as usize) {
            Some(at) if at == come => (most, ACK | PUSH | URGENT),
            Some(at) if at > come => (most.min(at - come), ACK | PUSH),
            _ => (most, ACK | PUSH),
        };
        let (piece, rest) = left.split_at(room.min(left.len()));
        let segment = from_client(sequence, c.send_sequence, flags);
        match deliver_text(&segment, stamp, piece) {
            Err(error) if error.raw() == Some(EMSGSIZE) && most > less => most = less,
            delivered => {
                delivered?;
                sequence = sequence.wrapping_add(piece.len() as u32);
                left = rest;
            }
        }
    }
    if Fins::of(c.phase).received {
        let last = from_client(sequence, c.send_sequence, FIN | ACK);
        deliver_text(&last, stamp, &[])?;
    }
    Ok(())
}

const EMSGSIZE: i32 = 90;

fn send_scale(c: &Connection) -> u8 {
    c.window_scale.map_or(0, |(send, _)| send.min(14))
}

/// The options of the client's first segment: its segment size, scale, and whether it takes selective acknowledgements.
fn greeting(c: &Connection, timestamps: bool) -> Vec<u8> {
    // Our own segments are smaller by the timestamp they carry.
    let room = c.mss.saturating_add(if timestamps { 12 } else { 0 });
    let [high, low] = (room.clamp(88, 65_495) as u16).to_be_bytes();
    let mut options = vec![2, 4, high, low];
    if c.window_scale.is_some() {
        options.extend([1, 3, 3, send_scale(c)]);
    }
    if c.sack {
        options.extend([1, 1, 4, 2]);
    }
    options
}

/// Leaves a socket in `TIME_WAIT` between these ends, after which a new connection begins with the right number.
fn leave_before(c: &Connection) -> Result<()> {
    let made = create(c)?;
    let fd = made.as_fd();
    let (here, there) = (
        plain(socket_address(&c.local)),
        plain(socket_address(&c.remote)),
    );
    // The FIN counts as one.
    let last = c.send_sequence.wrapping_sub(1 + BEYOND_TIME_WAIT);
    let heard = c.receive_sequence.wrapping_sub(10);
    let repair = Repair::begin(fd)?;
    repair.set_sequence(Queue::Send, last.wrapping_sub(1))?;
    repair.set_sequence(Queue::Receive, heard)?;
    socket::bind(fd, &bytes_of(&record(here)))?;
    repair.connect(&bytes_of(&record(there)), c.mss)?;
    repair.set_window([heard, 65_535, 65_535, 65_535, heard])?;
    let secluded = Secluded::begin(fd)?;
    drop(repair);
    socket::shutdown(fd, SHUT_WR)?;
    secluded.listen()?;
    for flags in [ACK, FIN | ACK] {
        deliver(&Segment {
            from: there,
            to: here,
            sequence: heard,
            acknowledged: last,
            window: u16::MAX,
            flags,
        })?;
    }
    match tcp_info(fd)?.state {
        CLOSE => Ok(()),
        state => Err(Error::Refused(format!(
            "the TCP connection with {there}, not yet accepted, cannot be made again: what was to be before it is in state \
             {state}; let the program accept before the checkpoint, or leave such connections behind (--tcp close)"
        ))),
    }
}

fn create(c: &Connection) -> Result<OwnedFd> {
    let family = match plain(socket_address(&c.local)) {
        SocketAddr::V4(_) => socket::AF_INET,
        SocketAddr::V6(_) => socket::AF_INET6,
    };
    Ok(socket::create(family, SOCK_STREAM, IPPROTO_TCP)?)
}
