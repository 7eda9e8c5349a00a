//! The second step: queues filled by sending from the other end, datagram sockets and clients not yet accepted connected,
//! directions shut, ends that were closed closed again.

use super::made::{Made, Roots, create, missing};
use super::makers::Makers;
use super::refused;
use crate::sockets::options::{self, Roomy};
use crate::{Result, target};
use image::ids::{FileId, Pid};
use image::sockets::unix::{Address, Credentials, Kind, Message, State, Unix};
use kernel::socket;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// All that is looked up while filling.
struct Fill<'a> {
    made: &'a Made,
    sockets: &'a [(FileId, &'a Unix)],
    by_inode: HashMap<u64, (FileId, &'a Unix)>,
    files: &'a HashMap<FileId, OwnedFd>,
    pids: &'a HashMap<Pid, kernel::Pid>,
    makers: &'a Makers,
}

/// Fills and connects all unix sockets made by [`super::restore`]; this thread is where it was then.
pub(in crate::sockets) fn fill(
    mut made: Made,
    sockets: &[(FileId, &Unix)],
    all: &[(FileId, &Unix)],
    files: &HashMap<FileId, OwnedFd>,
    pids: &HashMap<Pid, kernel::Pid>,
    makers: &Makers,
) -> Result<()> {
    let fill = Fill {
        made: &made,
        sockets,
        by_inode: all.iter().map(|(id, u)| (u.inode, (*id, *u))).collect(),
        files,
        pids,
        makers,
    };
    for (_, unix) in sockets {
        fill.queue(unix)?;
    }
    for (id, unix) in sockets {
        fill.connect(fill.file(*id)?, unix)?;
    }
    for (id, unix) in sockets {
        let fd = fill.file(*id)?;
        if matches!(unix.state, State::Orphaned { reset: true, .. }) {
            // A peer that closes with unread bytes leaves ECONNRESET behind (unix_release_sock).
            socket::send(fd, b"\0", None, &[], None)?;
        }
    }
    for (id, unix) in sockets {
        let fd = file(files, *id)?;
        drop(made.closed.remove(&unix.inode));
        // A closed peer has shut both directions already.
        if unix.kind == Kind::Dgram || !matches!(unix.state, State::Orphaned { .. }) {
            socket::shutdown(fd, unix.shutdown)?;
        }
        options::early(fd, &unix.options)?;
        options::late(fd, &unix.options)?;
    }
    Ok(())
}

fn file(files: &HashMap<FileId, OwnedFd>, id: FileId) -> Result<BorrowedFd<'_>> {
    target::file(files, id).map(AsFd::as_fd)
}

impl Fill<'_> {
    fn file(&self, id: FileId) -> Result<BorrowedFd<'_>> {
        file(self.files, id)
    }

    fn queue(&self, unix: &Unix) -> Result<()> {
        if unix.queue.is_empty() {
            return Ok(());
        }
        if let Some(peer) = self.made.closed.get(&unix.inode) {
            return self.by_peer(peer.as_fd(), &unix.queue);
        }
        match &unix.state {
            State::Connected { peer }
                if unix.kind != Kind::Dgram || self.made.paired.contains(&unix.inode) =>
            {
                let (id, _) = self
                    .by_inode
                    .get(peer)
                    .ok_or_else(|| missing(unix.inode, *peer))?;
                self.by_peer(self.file(*id)?, &unix.queue)
            }
            _ if unix.kind == Kind::Dgram => self.by_senders(unix),
            _ => Err(refused(
                "the image has bytes to be read from a unix socket that is not connected".into(),
            )),
        }
    }

    fn by_peer(&self, peer: BorrowedFd, queue: &[Message]) -> Result<()> {
        let roomy = Roomy::make(peer)?;
        for message in queue {
            self.send(peer, message, None)?;
        }
        roomy.back()
    }

    /// Datagrams come from whoever has the sender's name: a socket of the container, or one made for the purpose.
    fn by_senders(&self, unix: &Unix) -> Result<()> {
        let Some(name) = &unix.name else {
            return Err(refused(
                "the image has datagrams for a unix socket that has no name and no peer".into(),
            ));
        };
        let mut strangers: HashMap<String, OwnedFd> = HashMap::new();
        for message in &unix.queue {
            let known = message.from.as_ref().and_then(|from| self.named(from));
            let key = format!("{:?}", message.from);
            if known.is_none() && !strangers.contains_key(&key) {
                let stranger = create(Kind::Dgram)?;
                if let Some(from) = &message.from {
                    self.made.roots.bind_ghost(stranger.as_fd(), from)?;
                }
                strangers.insert(key.clone(), stranger);
            }
            let sender = match (known, strangers.get(&key)) {
                (Some(id), _) => self.file(id)?,
                (None, Some(stranger)) => stranger.as_fd(),
                (None, None) => continue,
            };
            let roomy = Roomy::make(sender)?;
            let to = self.made.roots.enter(name)?;
            self.send(sender, message, Some(&to))?;
            roomy.back()?;
        }
        Ok(())
    }

    fn named(&self, name: &Address) -> Option<FileId> {
        let same = |own: &Address| match (own, name) {
            (Address::Abstract { name: a }, Address::Abstract { name: b }) => a == b,
            (Address::Path { path: a, .. }, Address::Path { path: b, .. }) => a == b,
            _ => false,
        };
        let dgram = |unix: &Unix| unix.kind == Kind::Dgram && unix.name.as_ref().is_some_and(same);
        self.sockets
            .iter()
            .find(|(_, unix)| dgram(unix))
            .map(|(id, _)| *id)
    }

    fn send(&self, sender: BorrowedFd, message: &Message, to: Option<&[u8]>) -> Result<()> {
        let rights = message
            .rights
            .iter()
            .map(|id| self.file(*id))
            .collect::<Result<Vec<_>>>()?;
        let credentials = message.credentials.map(|c| self.credentials(c));
        Ok(socket::send(
            sender,
            &message.bytes.0,
            to,
            &rights,
            credentials,
        )?)
    }

    /// A sender that is gone has no pid any more; the kernel wants one that exists.
    fn credentials(&self, c: Credentials) -> socket::Credentials {
        let pid = self
            .pids
            .get(&c.pid)
            .copied()
            .unwrap_or(std::process::id() as kernel::Pid);
        socket::Credentials {
            pid,
            uid: c.uid,
            gid: c.gid,
        }
    }

    fn connect(&self, fd: BorrowedFd, unix: &Unix) -> Result<()> {
        let roots: &Roots = &self.made.roots;
        match &unix.state {
            State::Connected { peer } if !self.made.paired.contains(&unix.inode) => {
                let (_, other) = self
                    .by_inode
                    .get(peer)
                    .ok_or_else(|| missing(unix.inode, *peer))?;
                let name = other
                    .name
                    .as_ref()
                    .ok_or_else(|| missing(unix.inode, *peer))?;
                Ok(socket::connect(fd, &roots.enter(name)?)?)
            }
            State::Outside { peer_name } => {
                // Nobody there, or somebody who does not want it: the program finds itself without a peer.
                let _ = socket::connect(fd, &roots.enter(peer_name)?);
                Ok(())
            }
            State::Listening { pending, .. } => {
                for client in pending {
                    let (id, record) = self
                        .by_inode
                        .get(client)
                        .ok_or_else(|| missing(unix.inode, *client))?;
                    let who = match record.state {
                        State::Pending { client, .. } => Some(client),
                        _ => None,
                    };
                    let name = unix
                        .name
                        .as_ref()
                        .ok_or_else(|| missing(unix.inode, *client))?;
                    let address = roots.enter(name)?;
                    self.makers.connect(who, self.file(*id)?, &address)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
