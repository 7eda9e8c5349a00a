//! Unix sockets: unix(7).

use super::options::Options;
use crate::bytes::Bytes;
use crate::ids::{FileId, NsId, Pid};
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// One unix socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unix {
    /// Its inode number where it was taken: the name by which other records speak of it.
    pub inode: u64,
    /// Stream, datagram or sequenced packets.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What it is bound to; absent where it has no name.
    pub name: Option<Address>,
    /// Listening, connected or neither.
    pub state: State,
    /// `SHUT_RD` is 1, `SHUT_WR` is 2, both 3 (`UNIX_DIAG_SHUTDOWN`).
    pub shutdown: u8,
    /// What can be read from it, the oldest first.
    pub queue: Vec<Message>,
    /// What `SO_PEERCRED` says; absent where it says nothing.
    pub peer_credentials: Option<Credentials>,
    /// Options set.
    pub options: Options,
}

/// The type of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `SOCK_STREAM`.
    Stream,
    /// `SOCK_DGRAM`.
    Dgram,
    /// `SOCK_SEQPACKET`.
    Seqpacket,
}

/// The name of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "namespace", rename_all = "snake_case", deny_unknown_fields)]
pub enum Address {
    /// In the abstract namespace: the bytes after the leading NUL.
    Abstract {
        /// Any bytes, at most 107.
        name: Bytes,
    },
    /// In the file system.
    Path {
        /// `sun_path` as `bind` was given it, which may be relative.
        path: Name,
        /// The file, where it is still this socket's; absent where it was removed or replaced, and where the name was
        /// inherited from a listening socket.
        file: Option<Box<SocketFile>>,
    },
}

/// The file a socket is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketFile {
    /// The mount namespace inside the container in which it is; absent: the container's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounts: Option<NsId>,
    /// The directory that its process had as root directory (chroot(2)); absent: `/`.
    #[serde(default = "top", skip_serializing_if = "is_top")]
    pub root: Name,
    /// The directory a relative path starts at, else `/`.
    pub directory: Name,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

fn top() -> Name {
    Name::from("/")
}

fn is_top(name: &Name) -> bool {
    name.0 == b"/"
}

/// What a unix socket is in the middle of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum State {
    /// Fresh, or bound only; or a datagram socket that is not connected.
    Unconnected,
    /// Waiting for connections.
    Listening {
        /// As given to `listen` (`UNIX_DIAG_RQLEN`).
        backlog: u32,
        /// Inodes of connected clients not yet accepted, the oldest first; their own records are [`State::Pending`].
        pending: Vec<u64>,
    },
    /// Connected to a socket with a record of its own. A datagram socket's peer need not be connected back.
    Connected {
        /// The peer's inode.
        peer: u64,
    },
    /// A datagram socket connected to one outside the container: connected to that name again, where somebody has it.
    Outside {
        /// The peer's name.
        peer_name: Address,
    },
    /// Connected to a listening socket that has not accepted it yet.
    Pending {
        /// The listening socket's inode.
        listener: u64,
        /// Whom the service will see, once it accepts it (`SO_PEERCRED`).
        client: Credentials,
    },
    /// Its peer is closed.
    Orphaned {
        /// The peer's name, which `getpeername` still gives.
        peer_name: Option<Address>,
        /// `ECONNRESET` waits to be read, because the peer left bytes unread.
        reset: bool,
    },
}

/// Bytes sent together, or for a stream bytes with the same descriptors and credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The bytes.
    pub bytes: Bytes,
    /// Whom `recvfrom` names as the sender (datagrams).
    pub from: Option<Address>,
    /// Descriptors in flight (`SCM_RIGHTS`); they come with the first byte.
    pub rights: Vec<FileId>,
    /// What comes as `SCM_CREDENTIALS`; only seen where the reader has `SO_PASSCRED`.
    pub credentials: Option<Credentials>,
}

/// `struct ucred`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// Process id inside; 0 where the process is not in the container.
    pub pid: Pid,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}
