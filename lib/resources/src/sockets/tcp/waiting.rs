//! Connections given back, from the moment when they are made to that when the container runs: in repair they send
//! nothing, and close without a word if nothing comes of it all.

use crate::sockets::{bytes_of, options};
use crate::{Error, Result, namespaces};
use image::sockets::Address;
use image::sockets::options::Options;
use kernel::namespaces::Kind;
use kernel::nftables::Table;
use kernel::socket;
use kernel::socket::repair::{self, Queue, Repair};
use kernel::{Pid, descriptor};
use std::os::fd::{AsFd, OwnedFd};

/// Connections that wait for their container to run.
#[derive(Debug, Default)]
pub struct Waiting {
    pub(super) sockets: Vec<One>,
    /// What drops their packets meanwhile, in a network that is not the container's alone.
    pub(super) table: Option<Table>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct One {
    pub(super) fd: OwnedFd,
    pub(super) options: Options,
    pub(super) how: How,
}

/// What is left to do.
#[derive(Debug)]
pub(super) enum How {
    /// A connection, in repair.
    Repaired {
        /// Sent, and not acknowledged.
        sent: Vec<u8>,
        /// Not sent yet.
        unsent: Vec<u8>,
        /// Its windows ([`Repair::set_window`]).
        window: Option<[u32; 5]>,
    },
    /// One that is to be made.
    Connecting { remote: Address },
}

impl Waiting {
    /// Those of another network inside the container too, which are silent by themselves.
    pub fn join(&mut self, other: Waiting) {
        self.sockets.extend(other.sockets);
        self.table = self.table.take().or(other.table);
    }

    /// Puts what was sent and not acknowledged into the queues. Shortly before the container runs: the time after which
    /// it is sent again begins here.
    pub fn prepare(&mut self) -> Result<()> {
        for one in &self.sockets {
            let How::Repaired { sent, window, .. } = &one.how else {
                continue;
            };
            let fd = one.fd.as_fd();
            let repair = repair::again(fd, one.reuse());
            let roomy = options::Roomy::make(fd)?;
            let filled = repair
                .write(Queue::Send, sent)
                .and_then(|()| window.map_or(Ok(()), |window| repair.set_window(window)));
            repair.stay();
            roomy.back()?;
            filled?;
        }
        Ok(())
    }

    /// The container runs: its connections go on. `quiet` is what has kept its network silent; `root` one of its
    /// processes, `id` the one it had when it was taken. What becomes of a connection from here on, the program sees
    /// for itself.
    pub fn go_on(mut self, quiet: Option<Table>, root: Pid, id: &str) -> Result<()> {
        let any = self.table.is_some() || !self.sockets.is_empty();
        drop((quiet, self.table.take()));
        if any && !namespaces::is_own(root, Kind::Network)? {
            // It may have been taken from this very network.
            super::forget(root, id)?;
        }
        for one in &self.sockets {
            if let How::Repaired { .. } = one.how {
                repair::resume(one.fd.as_fd(), one.reuse())?;
            }
        }
        for one in &self.sockets {
            match &one.how {
                How::Repaired { unsent, .. } if !unsent.is_empty() => match one.send(unsent) {
                    Err(Error::Kernel(e)) if is_lack(e.raw()) => return Err(e.into()),
                    // The other end is gone.
                    _ => (),
                },
                How::Repaired { .. } => (),
                How::Connecting { remote } => {
                    let _ = one.connect(remote);
                }
            }
        }
        Ok(())
    }
}

/// Whether bytes would be missing in the middle of a connection that lives: this host had no room for them.
fn is_lack(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM))
}

impl One {
    fn reuse(&self) -> bool {
        options::is_set(&self.options, "SO_REUSEADDR")
    }

    fn send(&self, unsent: &[u8]) -> Result<()> {
        let fd = self.fd.as_fd();
        let roomy = options::Roomy::make(fd)?;
        let sent = socket::send(fd, unsent, None, &[], None);
        roomy.back()?;
        Ok(sent?)
    }

    /// Begins to connect. A task that waits for that finds it under way.
    fn connect(&self, remote: &Address) -> Result<()> {
        let fd = self.fd.as_fd();
        let flags = descriptor::flags(fd)?;
        descriptor::set_flags(fd, flags | descriptor::O_NONBLOCK)?;
        let begun = socket::connect(fd, &bytes_of(remote));
        descriptor::set_flags(fd, flags)?;
        Ok(begun?)
    }
}

/// Makes a socket that has the sequence number with which it will begin to connect.
pub(super) fn begin_at(fd: std::os::fd::BorrowedFd, sequence: u32) -> Result<()> {
    Ok(Repair::begin(fd)?.set_sequence(Queue::Send, sequence)?)
}
