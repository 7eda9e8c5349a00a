//! Unix sockets: unix(7), net/unix/af_unix.c. Queues are looked at and stay where they are.

use super::{Diag, Holder, TRY_AGAIN, options};
use crate::namespaces::mount::beginning;
use crate::{Blocker, Error, Result};
use image::bytes::Bytes;
use image::ids::FileId;
use image::path::Name;
use image::sockets::unix::{Address, Credentials, Kind, Message, SocketFile, State, Unix};
use kernel::descriptor::S_IFSOCK;
use kernel::open::Root;
use kernel::proc::Proc;
use kernel::sock_diag::UnixSocket;
use kernel::socket::{self, SO_PEEK_OFF, SOL_SOCKET};
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

mod fill;
mod made;
pub(super) mod makers;

pub(super) use fill::fill;
pub(super) use made::restore;
pub use made::{Made, views};

const LISTEN: u8 = 10;

/// Takes a unix socket.
pub fn dump(
    fd: BorrowedFd,
    holder: Holder,
    diag: &mut Diag,
    in_flight: &mut dyn FnMut(OwnedFd) -> Result<FileId>,
) -> Result<Unix> {
    let (inode, listed) = judged(fd, holder, diag)?;
    let kind = kind(&listed, &holder)?;
    let state = state(fd, inode, &listed, &holder, diag)?;
    let own_file = !matches!(
        (&state, kind),
        (
            State::Connected { .. } | State::Orphaned { .. },
            Kind::Stream | Kind::Seqpacket
        )
    );
    let name = listed
        .name
        .as_deref()
        .and_then(|path| name(path, listed.file.filter(|_| own_file), &holder, diag).transpose())
        .transpose()?;
    let queue = match &state {
        State::Listening { .. } => Vec::new(),
        _ => queue(fd, kind, diag, in_flight)?,
    };
    let fresh = (socket::AF_UNIX, listed.kind.into(), 0);
    let peer_credentials = match &state {
        State::Listening { .. } => listener_credentials(fd, &holder, diag)?,
        _ => peer_credentials(fd, diag)?,
    };
    Ok(Unix {
        inode,
        kind,
        name,
        shutdown: listed.shutdown,
        state,
        queue,
        peer_credentials,
        options: options::dump(fd, fresh, &mut diag.here.fresh, diag.here.network, &[])?,
    })
}

/// Refuses what cannot be taken, and remembers whose other end must be met.
pub fn judge(fd: BorrowedFd, holder: Holder, diag: &mut Diag) -> Result<()> {
    judged(fd, holder, diag).map(drop)
}

fn judged(fd: BorrowedFd, holder: Holder, diag: &mut Diag) -> Result<(u64, UnixSocket)> {
    let inode = socket::inode(fd)?;
    let Some(listed) = diag.unix.get(&inode).cloned() else {
        return Err(holder.blocked("a unix socket that the kernel does not list", TRY_AGAIN));
    };
    diag.taken.insert(inode);
    let waiting = diag.listeners.get(&inode).copied();
    diag.awaited.extend(
        listed
            .peer
            .filter(|peer| *peer != 0)
            .map(|peer| (peer.into(), holder)),
    );
    diag.awaited.extend(
        listed
            .pending
            .iter()
            .map(|client| (u64::from(*client), holder)),
    );
    diag.awaited
        .extend(waiting.map(|listener| (listener, holder)));
    if waiting.is_some_and(|listener| !is_left_behind(listener, diag)) && listed.send_queue > 0 {
        return Err(holder.blocked(
            "a unix connection with bytes sent before it was accepted",
            TRY_AGAIN,
        ));
    }
    let peer = listed.peer.and_then(|peer| diag.unix.get(&u64::from(peer)));
    if let Some(peer) = peer
        && i32::from(listed.kind) == socket::SOCK_DGRAM
        && peer.name.is_none()
        && !is_left_behind(peer.inode.into(), diag)
        && peer.peer.map(u64::from) != Some(inode)
    {
        return Err(holder.blocked(
            "a datagram socket connected to one that has no name and has turned elsewhere",
            "close one of the two",
        ));
    }
    Ok((inode, listed))
}

/// Who in this system holds the socket of that inode.
pub fn owner(inode: u64) -> Option<kernel::Pid> {
    let wanted = format!("socket:[{inode}]");
    let pids = kernel::proc::numbers(Path::new("/proc")).ok()?;
    pids.into_iter().find(|pid| {
        let proc = kernel::proc::Proc::process(*pid);
        proc.numbers("fd").unwrap_or_default().iter().any(|number| {
            proc.link(&format!("fd/{number}"))
                .is_ok_and(|link| link.as_os_str() == wanted.as_str())
        })
    })
}

/// The message for a socket whose other end is not in the container.
pub fn outside(peer: u64, holder: &Holder, diag: &Diag) -> Blocker {
    let name = diag.unix.get(&peer).and_then(|s| s.name.as_deref());
    let name = name.map_or(" one".into(), |n| {
        let address = socket::address::unix(n).unwrap_or_default();
        format!(" {}", socket::address::text(&address))
    });
    let whose = owner(peer).map_or(String::new(), |pid| {
        let command = kernel::proc::Proc::process(pid)
            .text("comm")
            .unwrap_or_default();
        format!(" of process {pid} ({})", command.trim_end())
    });
    holder.blocker(
        format!("a unix socket connected to{name}{whose}, outside the container"),
        "close the connection, checkpoint a tree that has both ends, or take it without its other end (--ext-unix)",
    )
}

fn kind(listed: &UnixSocket, holder: &Holder) -> Result<Kind> {
    match listed.kind.into() {
        socket::SOCK_STREAM => Ok(Kind::Stream),
        socket::SOCK_DGRAM => Ok(Kind::Dgram),
        socket::SOCK_SEQPACKET => Ok(Kind::Seqpacket),
        other => Err(holder.blocked(format!("a unix socket of type {other}"), "close it")),
    }
}

fn state(
    fd: BorrowedFd,
    inode: u64,
    listed: &UnixSocket,
    holder: &Holder,
    diag: &Diag,
) -> Result<State> {
    Ok(match (listed.state, listed.peer) {
        (LISTEN, _) => State::Listening {
            backlog: listed.send_queue,
            pending: listed
                .pending
                .iter()
                .map(|client| u64::from(*client))
                .filter(|client| !is_left_behind(*client, diag))
                .collect(),
        },
        (_, None) => State::Unconnected,
        (_, Some(0)) => match diag.listeners.get(&inode) {
            Some(listener) if !is_left_behind(*listener, diag) => State::Pending {
                listener: *listener,
                client: credentials(holder.pid, diag)?,
            },
            _ => orphaned(fd)?,
        },
        (_, Some(peer)) if is_left_behind(peer.into(), diag) => left(fd, listed)?,
        (_, Some(peer)) => State::Connected { peer: peer.into() },
    })
}

/// Its peer is closed.
fn orphaned(fd: BorrowedFd) -> Result<State> {
    Ok(State::Orphaned {
        peer_name: socket::peer(fd)?
            .as_deref()
            .and_then(socket::address::parse_unix)
            .filter(|path| !path.is_empty())
            .map(ghost),
        reset: socket::events(fd)? & socket::POLLERR != 0,
    })
}

/// Its peer stays behind. What was said on a stream cannot go on with another in the middle of a sentence: its peer is gone
/// for it. A datagram stands for itself, so whoever has that name will do. A relative name leads nowhere.
fn left(fd: BorrowedFd, listed: &UnixSocket) -> Result<State> {
    // It may belong to another network, of which sock_diag does not tell here.
    let peer = socket::peer(fd)?;
    let name = peer.as_deref().and_then(socket::address::parse_unix);
    let name = name.filter(|name| matches!(name.first(), Some(b'/' | 0)));
    match name {
        Some(name) if i32::from(listed.kind) == socket::SOCK_DGRAM => Ok(State::Outside {
            peer_name: in_files(name),
        }),
        _ => orphaned(fd),
    }
}

/// Whether a socket is one outside the container, that is to stay there. One that only a queue holds belongs to it.
pub fn is_left_behind(inode: u64, diag: &Diag) -> bool {
    diag.ext_unix
        && !diag.held.contains(&inode)
        && !diag.taken.contains(&inode)
        && owner(inode).is_some()
}

/// A name of which no file is looked for.
fn ghost(path: &[u8]) -> Address {
    match path {
        [0, name @ ..] => Address::Abstract {
            name: Bytes(name.to_vec()),
        },
        path => Address::Path {
            path: Name(path.to_vec()),
            file: None,
        },
    }
}

/// A name of which the file is looked for where the container goes on.
fn in_files(path: &[u8]) -> Address {
    match ghost(path) {
        Address::Path { path, .. } => Address::Path {
            path,
            file: Some(Box::new(SocketFile {
                mounts: None,
                root: Name::from("/"),
                directory: Name::from("/"),
                mode: 0,
                uid: 0,
                gid: 0,
            })),
        },
        other => other,
    }
}

/// The name, with the file it still stands for: the one of this inode, seen as the holder sees it.
fn name(path: &[u8], inode: Option<u32>, holder: &Holder, diag: &Diag) -> Result<Option<Address>> {
    let mut address = ghost(path);
    if let (Address::Path { file, .. }, Some(inode)) = (&mut address, inode) {
        *file = socket_file(Path::new(OsStr::from_bytes(path)), inode, holder, diag)?;
    }
    Ok((!path.is_empty()).then_some(address))
}

fn socket_file(
    path: &Path,
    inode: u32,
    holder: &Holder,
    diag: &Diag,
) -> Result<Option<Box<SocketFile>>> {
    let mounts = diag.mounts_of(holder.pid);
    let (top, above) = match mounts {
        Some(_) => (Root::of(holder.pid)?, PathBuf::from("/")),
        None => (beginning::root(diag.first)?, beginning::path(diag.first)?),
    };
    let proc = Proc::process(holder.pid);
    let from_top = |which: &str| -> Result<Option<PathBuf>> {
        let link = proc.link(which)?;
        let below = link.strip_prefix(&above).ok();
        Ok(below.map(|below| Path::new("/").join(below)))
    };
    let whole = || PathBuf::from("/");
    // It may have been bound before its process did chroot(2).
    let places = match path.is_absolute() {
        true => vec![
            (from_top("root")?.unwrap_or_else(whole), whole()),
            (whole(), whole()),
        ],
        false => vec![(whole(), from_top("cwd")?.unwrap_or_else(whole))],
    };
    for (root, directory) in places {
        let found = top
            .below(&root)
            .and_then(|root| root.stat(&directory.join(path)));
        if let Ok(stat) = found
            && stat.format() == S_IFSOCK
            && stat.inode as u32 == inode
        {
            return Ok(Some(Box::new(SocketFile {
                mounts,
                root: Name::from(&*root),
                directory: Name::from(&*directory),
                mode: stat.permissions(),
                uid: stat.uid,
                gid: stat.gid,
            })));
        }
    }
    Ok(None)
}

fn peer_credentials(fd: BorrowedFd, diag: &Diag) -> Result<Option<Credentials>> {
    let shown = socket::option(fd, SOL_SOCKET, socket::SO_PEERCRED, 12)?;
    let word = |at: usize| {
        shown
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map_or(0, i32::from_ne_bytes)
    };
    let (pid, uid, gid) = (word(0), word(4) as u32, word(8) as u32);
    Ok((uid != u32::MAX).then(|| inside(pid, uid, gid, diag)))
}

/// What a process that connects now shows to the other end.
fn credentials(pid: kernel::Pid, diag: &Diag) -> Result<Credentials> {
    let status = kernel::proc::status::read(pid)?;
    // Real, effective, saved, of the file system.
    let effective = |key| -> Result<u32> {
        let ids = status.numbers(key)?;
        Ok(ids.get(1).map_or(0, |id| *id as u32))
    };
    let (uid, gid) = (effective("Uid")?, effective("Gid")?);
    Ok(inside(pid, uid, gid, diag))
}

/// What a client will see of a listening socket; the process that called listen(2) may have left it to its children.
fn listener_credentials(
    fd: BorrowedFd,
    holder: &Holder,
    diag: &Diag,
) -> Result<Option<Credentials>> {
    let shown = peer_credentials(fd, diag)?;
    Ok(shown.map(|who| match who.pid {
        0 => inside(holder.pid, who.uid, who.gid, diag),
        _ => who,
    }))
}

fn inside(pid: kernel::Pid, uid: u32, gid: u32, diag: &Diag) -> Credentials {
    Credentials {
        pid: diag.inside.get(&pid).copied().unwrap_or(0),
        uid,
        gid,
    }
}

fn queue(
    fd: BorrowedFd,
    kind: Kind,
    diag: &Diag,
    in_flight: &mut dyn FnMut(OwnedFd) -> Result<FileId>,
) -> Result<Vec<Message>> {
    let before = socket::number(fd, SOL_SOCKET, SO_PEEK_OFF)?;
    let messages = match kind {
        Kind::Stream => stream(fd),
        Kind::Dgram | Kind::Seqpacket => datagrams(fd),
    };
    socket::set_number(fd, SOL_SOCKET, SO_PEEK_OFF, before)?;
    messages?
        .into_iter()
        .map(|message| {
            let from = socket::address::parse_unix(&message.from)
                .filter(|path| !path.is_empty())
                .map(ghost);
            let rights = message
                .rights
                .into_iter()
                .map(&mut *in_flight)
                .collect::<Result<_>>()?;
            let credentials = message
                .credentials
                .map(|c| inside(c.pid, c.uid, c.gid, diag));
            Ok(Message {
                bytes: Bytes(message.bytes),
                from,
                rights,
                credentials,
            })
        })
        .collect()
}

/// A stream, cut where descriptors come with a byte. Never reads to where there is nothing left: that would take a waiting
/// error away.
fn stream(fd: BorrowedFd) -> Result<Vec<socket::Message>> {
    let whole = socket::readable(fd)? as usize;
    let mut found = Vec::new();
    let mut offset = 0;
    while offset < whole {
        let room = whole - offset;
        let Some(message) = socket::peek_at(fd, offset as i32, room)?.filter(|m| m.len > 0) else {
            break;
        };
        let before = if message.rights.is_empty() {
            0
        } else {
            socket::before_last_piece(fd, offset as i32, message.len)?
        };
        offset += message.len;
        let mut message = message;
        if before > 0 {
            let rest = message.bytes.split_off(before);
            let plain = std::mem::replace(&mut message.bytes, rest);
            found.push(socket::Message {
                len: before,
                bytes: plain,
                from: Vec::new(),
                rights: Vec::new(),
                credentials: message.credentials,
            });
        }
        found.push(message);
    }
    Ok(found)
}

fn datagrams(fd: BorrowedFd) -> Result<Vec<socket::Message>> {
    // An error that waits (a peer that is gone) comes before any message.
    if socket::events(fd)? & socket::POLLERR != 0 {
        socket::number(fd, SOL_SOCKET, socket::SO_ERROR)?;
    }
    socket::set_number(fd, SOL_SOCKET, SO_PEEK_OFF, 0)?;
    let ended = socket::events(fd)? & socket::POLLRDHUP != 0;
    let mut found = Vec::new();
    // `SIOCINQ` tells the length of the first only: a message may be as long as the largest send buffer.
    let mut room = 1 << 16;
    let mut offset = 0;
    while let Some(message) = socket::peek(fd, room)? {
        if message.len > room {
            room = message.len;
            socket::set_number(fd, SOL_SOCKET, SO_PEEK_OFF, offset)?;
            continue;
        }
        if message.len == 0 && ended {
            break;
        }
        offset += message.len as i32;
        found.push(message);
    }
    Ok(found)
}

fn refused(what: String) -> Error {
    Error::Refused(what)
}
