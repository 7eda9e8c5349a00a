//! Urgent data of TCP, received and not read: [`kernel::socket::urgent`] tells where it is. The queue of a socket in repair
//! cannot be told of it, so what comes before it is put in there, then a segment from the other end brings it.

use super::plain;
use crate::sockets::socket_address;
use crate::{Error, Result};
use image::sockets::tcp::{Connection, Urgent};
use kernel::socket;
use kernel::socket::repair::{Queue, Repair, Secluded};
use kernel::socket::segment::{ACK, PUSH, Segment, URGENT, deliver_text};
use kernel::socket::urgent::{self, Mark};
use std::os::fd::BorrowedFd;

pub(super) fn recorded(mark: Mark) -> Urgent {
    Urgent {
        at: mark.at,
        read: mark.read,
    }
}

/// What was received and not read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unread<'a> {
    before: &'a [u8],
    /// The urgent byte, and whether it was read.
    urgent: Option<(u8, bool)>,
    after: &'a [u8],
}

impl<'a> Unread<'a> {
    pub(super) fn of(bytes: &'a [u8], urgent: Option<Urgent>) -> Result<Self> {
        let Some(urgent) = urgent else {
            return Ok(Unread {
                before: bytes,
                ..Unread::default()
            });
        };
        let apart = bytes.split_at_checked(urgent.at as usize);
        let Some((before, [byte, after @ ..])) = apart else {
            return Err(Error::Refused(
                "the image has a TCP connection with an urgent byte beyond what was received"
                    .into(),
            ));
        };
        Ok(Unread {
            before,
            urgent: Some((*byte, urgent.read)),
            after,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.urgent.is_none()
    }

    /// Puts it into the queue of a connection in repair.
    pub(super) fn write(&self, repair: &Repair, fd: BorrowedFd, c: &Connection) -> Result<()> {
        repair.write(Queue::Receive, self.before)?;
        let Some((byte, read)) = self.urgent else {
            return Ok(());
        };
        urgently(repair, fd, c, byte)?;
        if read {
            urgent::take(fd)?;
        }
        Ok(repair.write(Queue::Receive, self.after)?)
    }

    /// Has it sent to `fd` by its peer.
    pub(super) fn send(&self, peer: BorrowedFd, fd: BorrowedFd) -> Result<()> {
        socket::send(peer, self.before, None, &[], None)?;
        let Some((byte, read)) = self.urgent else {
            return Ok(());
        };
        urgent::send(peer, byte)?;
        if read {
            urgent::take(fd)?;
        }
        Ok(socket::send(peer, self.after, None, &[], None)?)
    }
}

/// The urgent byte comes in a segment of its own: a queue in repair knows none.
fn urgently(repair: &Repair, fd: BorrowedFd, c: &Connection, byte: u8) -> Result<()> {
    let at = c.urgent.map_or(0, |urgent| urgent.at);
    let sequence = c.receive_sequence.wrapping_add(at);
    let (from, to) = (socket_address(&c.remote), socket_address(&c.local));
    repair.set_window([sequence, 65_535, 65_535, 65_535, sequence])?;
    let secluded = Secluded::begin(fd)?;
    secluded.listen()?;
    // Twice: what is old is acknowledged at once, so that no acknowledgement is left to be sent later.
    for _ in 0..2 {
        let segment = Segment {
            from: plain(from),
            to: plain(to),
            sequence,
            acknowledged: c.send_sequence,
            window: u16::MAX,
            flags: ACK | PUSH | URGENT,
        };
        deliver_text(&segment, &[], &[byte])?;
    }
    secluded.end()?;
    let end = repair.sequence(Queue::Receive)?;
    if end != sequence.wrapping_add(1) {
        return Err(Error::Refused(format!(
            "the urgent byte from {} did not reach the TCP connection made for it",
            plain(from)
        )));
    }
    Ok(())
}
