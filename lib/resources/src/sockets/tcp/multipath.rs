//! MPTCP sockets: net/mptcp. A service of many a language listens with one by default; whoever connects by plain TCP gives
//! it a plain TCP socket when it accepts. What listens, and what is not connected, is made again; of a connection of
//! MPTCP's own the kernel tells neither keys nor queues (`TCP_REPAIR` is not for it), so it only travels to be found reset.

use super::{CLOSE, LISTEN, peer_name, waiting_clients};
use crate::Result;
use crate::sockets::{Diag, Holder, local};
use image::bytes::Bytes;
use image::sockets::tcp::{Connections, State};
use kernel::socket;
use kernel::socket::repair::tcp_info;
use std::os::fd::BorrowedFd;

const REMEDY: &str = "close it, or let the program find its connections reset after the restore (--tcp close), or have it \
    connect by plain TCP: the kernel does not give the state of MPTCP away";

/// Whether a socket is one of MPTCP.
pub(super) fn is(fd: BorrowedFd) -> Result<bool> {
    let protocol = socket::number(fd, socket::SOL_SOCKET, socket::SO_PROTOCOL)?;
    Ok(protocol == socket::IPPROTO_MPTCP)
}

/// Refuses connections that are not to end.
pub(super) fn judge(fd: BorrowedFd, holder: Holder, diag: &Diag) -> Result<()> {
    // Of the first path; there is none any more where the connection has ended.
    match tcp_info(fd) {
        Ok(read) if read.state == LISTEN => waiting_clients(fd, read.unacked, holder, diag),
        Ok(read) if read.state == CLOSE && !has_ended(fd)? => Ok(()),
        _ if diag.here.connections == Connections::Closed => Ok(()),
        _ => Err(holder.blocked(
            format!("a connection of MPTCP with {}", peer_name(fd)?),
            REMEDY,
        )),
    }
}

fn has_ended(fd: BorrowedFd) -> Result<bool> {
    Ok(socket::events(fd)? & socket::POLLRDHUP != 0)
}

/// Where it stands.
pub(super) fn state(fd: BorrowedFd) -> Result<State> {
    let local = local(fd)?;
    Ok(match tcp_info(fd) {
        Ok(read) if read.state == LISTEN => State::Listening {
            local,
            backlog: read.sacked,
            clients: Vec::new(),
        },
        Ok(read) if read.state == CLOSE && !has_ended(fd)? => State::Fresh {
            local: (!local.is_unspecified()).then_some(local),
        },
        _ => State::Finished {
            local,
            received: Bytes::default(),
            urgent: None,
            reset: true,
        },
    })
}
