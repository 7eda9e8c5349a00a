//! The first step: unix sockets made, bound, listening, and connected in pairs.
//!
//! A connection shows three things that only its making gives: the name of the listening socket at its accepted end, and
//! at each end the credentials of whoever made the other. So each pair with a name is made by a listening socket of that
//! name that lives as long as it takes, in an empty root directory, by the calls of those [processes](super::makers).

use super::makers::Makers;
use super::refused;
use crate::{Error, Result, Target};
use image::ids::{FileId, NsId};
use image::sockets::unix::{Address, Kind, SocketFile, State, Unix};
use kernel::socket::root::{self, Root};
use kernel::socket::{self, AF_UNIX};
use kernel::{Namespace, within};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What the second step needs.
#[derive(Debug)]
pub struct Made {
    /// The container's root directory, and an empty one.
    pub(super) roots: Roots,
    /// Ends that stand for closed peers, by the inode of the socket that has outlived them.
    pub(super) closed: HashMap<u64, OwnedFd>,
    /// Datagram sockets that were made in pairs.
    pub(super) paired: Vec<u64>,
}

/// Where names are looked up.
#[derive(Debug)]
pub(super) struct Roots {
    /// Of the container's mount namespaces: its own first.
    real: BTreeMap<Option<NsId>, Root>,
    empty: Root,
}

impl Roots {
    /// Goes where `name` means this socket, gives its bytes.
    pub(super) fn enter(&self, name: &Address) -> Result<Vec<u8>> {
        let path = match name {
            Address::Abstract { name } => [&[0], &name.0[..]].concat(),
            Address::Path {
                path,
                file: Some(file),
            } => {
                let real = self.real.get(&file.mounts).ok_or_else(|| {
                    refused(format!(
                        "the image has a unix socket {path} in a mount namespace that is not in it"
                    ))
                })?;
                real.enter()?;
                if file.root.0 != b"/" {
                    root::change(file.root.as_path())?;
                }
                root::work_in(file.directory.as_path())?;
                path.0.clone()
            }
            Address::Path { path, file: None } => {
                self.empty.enter()?;
                if let Some(parent) = path
                    .as_path()
                    .parent()
                    .filter(|p| !p.as_os_str().is_empty())
                {
                    std::fs::create_dir_all(parent).map_err(|e| {
                        kernel::Error::io(format!("make the directory of socket {path}"), &e)
                    })?;
                }
                path.0.clone()
            }
        };
        socket::address::unix(&path)
            .ok_or_else(|| refused("the image has a unix socket with too long a name".into()))
    }

    /// Binds a socket whose file is gone, or which shares its name with others.
    pub(super) fn bind_ghost(&self, fd: BorrowedFd, name: &Address) -> Result<Vec<u8>> {
        let ghost = match name {
            Address::Path { path, .. } => Address::Path {
                path: path.clone(),
                file: None,
            },
            other => other.clone(),
        };
        let bytes = self.enter(&ghost)?;
        if let Address::Path { path, .. } = &ghost {
            // Left by an earlier one of that name; the directory is ours alone.
            let _ = std::fs::remove_file(path.as_path());
        }
        named(socket::bind(fd, &bytes), name)?;
        Ok(bytes)
    }

    fn bind(&self, fd: BorrowedFd, name: &Address, kind: Kind) -> Result<()> {
        let Address::Path {
            path,
            file: Some(file),
        } = name
        else {
            return self.bind_ghost(fd, name).map(drop);
        };
        let bytes = self.enter(name)?;
        make_way(path.as_path(), &bytes, kind)?;
        named(socket::bind(fd, &bytes), name)?;
        let SocketFile { mode, uid, gid, .. } = &**file;
        Ok(root::own(path.as_path(), *uid, *gid, *mode)?)
    }
}

fn named(result: kernel::Result<()>, name: &Address) -> Result<()> {
    const EADDRINUSE: i32 = 98;
    result.map_err(|error| match (error.raw(), name) {
        (Some(EADDRINUSE), Address::Abstract { name }) => refused(format!(
            "the abstract unix socket @{} is in use here: stop what uses it, or restore with a network of its own (-n NAME)",
            String::from_utf8_lossy(&name.0)
        )),
        _ => error.into(),
    })
}

/// Removes the file that an earlier life of this socket has left, unless somebody answers there.
fn make_way(path: &Path, address: &[u8], kind: Kind) -> Result<()> {
    use std::os::unix::fs::FileTypeExt;
    const ECONNREFUSED: i32 = 111;
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(refused(format!(
            "{}: a unix socket was here and now there is another file: move it away",
            path.display()
        )));
    }
    let probe = create(kind)?;
    match socket::connect(probe.as_fd(), address) {
        Err(error) if error.raw() == Some(ECONNREFUSED) => std::fs::remove_file(path)
            .map_err(|e| kernel::Error::io(format!("remove {}", path.display()), &e).into()),
        _ => Err(refused(format!(
            "{}: another process uses this unix socket: stop it, or restore with a root file system of its own",
            path.display()
        ))),
    }
}

pub(super) fn type_of(kind: Kind) -> i32 {
    match kind {
        Kind::Stream => socket::SOCK_STREAM,
        Kind::Dgram => socket::SOCK_DGRAM,
        Kind::Seqpacket => socket::SOCK_SEQPACKET,
    }
}

pub(super) fn create(kind: Kind) -> Result<OwnedFd> {
    Ok(socket::create(AF_UNIX, type_of(kind), 0)?)
}

/// The root directories of the mount namespaces inside the container in which these have their names.
pub fn views(sockets: &[(FileId, &Unix)], target: &Target) -> Result<BTreeMap<NsId, Root>> {
    let mut views = BTreeMap::new();
    for (_, unix) in sockets {
        if let Some(Address::Path {
            file: Some(file), ..
        }) = &unix.name
            && let Some(id) = file.mounts
            && let Some(there) = target.inners.pid(id)
            && !views.contains_key(&id)
        {
            let root = within(there, &[Namespace::Mount], Root::current)??;
            views.insert(id, root);
        }
    }
    Ok(views)
}

/// Makes the unix sockets of a network; this thread is in it, and has the container's root directory. Those that they are
/// connected to are among `all`; `views` are other root directories.
pub(in crate::sockets) fn restore(
    sockets: &[(FileId, &Unix)],
    all: &[(FileId, &Unix)],
    views: BTreeMap<NsId, Root>,
    makers: &Makers,
    files: &mut HashMap<FileId, OwnedFd>,
) -> Result<Made> {
    let own = [(None, Root::current()?)];
    let views = views.into_iter().map(|(id, root)| (Some(id), root));
    let roots = Roots {
        real: own.into_iter().chain(views).collect(),
        empty: Root::empty()?,
    };
    let mut made = Made {
        roots,
        closed: HashMap::new(),
        paired: Vec::new(),
    };
    let by_inode: HashMap<u64, (FileId, &Unix)> =
        all.iter().map(|(id, u)| (u.inode, (*id, *u))).collect();
    // Pairs first: while a short-lived listening socket has an abstract name, the lasting one of that name must not.
    for (id, unix) in sockets {
        if files.contains_key(id) {
            continue;
        }
        match &unix.state {
            State::Connected { peer } => {
                let (other_id, other) = *by_inode
                    .get(peer)
                    .ok_or_else(|| missing(unix.inode, *peer))?;
                if is_pair(unix, other) {
                    let (one, two) = connected(unix, other, &by_inode, &made.roots, makers)?;
                    files.insert(*id, one);
                    files.insert(other_id, two);
                    made.paired.extend([unix.inode, other.inode]);
                } else if unix.kind != Kind::Dgram {
                    return Err(missing(unix.inode, *peer));
                }
            }
            State::Orphaned { peer_name, .. } => {
                let peer = Unix {
                    name: peer_name.clone(),
                    peer_credentials: unix.peer_credentials,
                    ..(*unix).clone()
                };
                let (one, two) = connected(unix, &peer, &by_inode, &made.roots, makers)?;
                files.insert(*id, one);
                made.closed.insert(unix.inode, two);
            }
            State::Unconnected
            | State::Listening { .. }
            | State::Pending { .. }
            | State::Outside { .. } => {}
        }
    }
    for (id, unix) in sockets {
        if files.contains_key(id) {
            continue;
        }
        let fd = create(unix.kind)?;
        if let Some(name) = &unix.name {
            made.roots.bind(fd.as_fd(), name, unix.kind)?;
        }
        if let State::Listening { backlog, .. } = &unix.state {
            makers.listen(unix.peer_credentials, fd.as_fd(), *backlog)?;
        }
        files.insert(*id, fd);
    }
    Ok(made)
}

pub(super) fn missing(inode: u64, peer: u64) -> Error {
    refused(format!(
        "the image has a unix socket ({inode}) whose other end ({peer}) is not in it, or not connected to it"
    ))
}

/// Whether the two are each other's peers and must be made together.
fn is_pair(one: &Unix, two: &Unix) -> bool {
    let back =
        matches!(two.state, State::Connected { peer } if peer == one.inode) && one.kind == two.kind;
    back && (one.kind != Kind::Dgram || one.name.is_none() || two.name.is_none())
}

/// Two ends of one connection.
fn connected(
    one: &Unix,
    two: &Unix,
    all: &HashMap<u64, (FileId, &Unix)>,
    roots: &Roots,
    makers: &Makers,
) -> Result<(OwnedFd, OwnedFd)> {
    if one.kind == Kind::Dgram || (one.name.is_none() && two.name.is_none()) {
        let (a, b) = makers.pair(one.peer_credentials, one.kind)?;
        for (fd, unix) in [(&a, one), (&b, two)] {
            if let Some(name) = &unix.name {
                roots.bind(fd.as_fd(), name, unix.kind)?;
            }
        }
        return Ok((a, b));
    }
    let listens = |unix: &Unix| {
        all.values().any(|(_, l)| {
            matches!(l.state, State::Listening { .. }) && same_name(&l.name, &unix.name)
        })
    };
    if one.name.is_none() || (two.name.is_some() && listens(two)) {
        accepted(one, two, roots, makers)
    } else {
        accepted(two, one, roots, makers).map(|(client, server)| (server, client))
    }
}

fn same_name(one: &Option<Address>, two: &Option<Address>) -> bool {
    match (one, two) {
        (Some(Address::Abstract { name: a }), Some(Address::Abstract { name: b })) => a == b,
        (Some(Address::Path { path: a, .. }), Some(Address::Path { path: b, .. })) => a == b,
        _ => false,
    }
}

/// A connection through a listening socket that has the server's name for a moment.
fn accepted(
    client: &Unix,
    server: &Unix,
    roots: &Roots,
    makers: &Makers,
) -> Result<(OwnedFd, OwnedFd)> {
    let listener = create(server.kind)?;
    let end = create(client.kind)?;
    if let Some(name) = &client.name {
        roots.bind_ghost(end.as_fd(), name)?;
    }
    let Some(name) = &server.name else {
        return Err(refused(
            "the image has a connection accepted by a socket without a name".into(),
        ));
    };
    let address = roots.bind_ghost(listener.as_fd(), name)?;
    if let Address::Path { path, .. } = name {
        root::own(path.as_path(), 0, 0, 0o777)?;
    }
    // What the client sees are the credentials of `listen`, what the server sees those of `connect`.
    makers.listen(client.peer_credentials, listener.as_fd(), 1)?;
    makers.connect(server.peer_credentials, end.as_fd(), &address)?;
    let accepted = socket::accept(listener.as_fd())?;
    Ok((end, accepted))
}
