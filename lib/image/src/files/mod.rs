//! `files.json`: every open file description of the container, once, whoever refers to it by descriptor.

use crate::ids::{FileId, MountId, NsId, Pid};
use serde::{Deserialize, Serialize};

pub mod contents;
pub mod deleted;
pub mod device;
pub mod directory;
pub mod epoll;
pub mod eventfd;
pub mod external;
pub mod fanotify;
pub mod fifo;
pub mod fs;
pub mod inotify;
pub mod memfd;
pub mod mqueue;
pub mod namespace;
pub mod opath;
pub mod pidfd;
pub mod pipe;
pub mod procfile;
pub mod regular;
pub mod signalfd;
pub mod table;
pub mod timerfd;
pub mod tty;
pub mod tun;

/// Everything open in the container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenFiles {
    /// Files with no name left and memfds, which several open file descriptions and mappings may share.
    pub deleted: Vec<deleted::Deleted>,
    /// See [`deleted`](Self::deleted).
    pub memfds: Vec<memfd::Memfd>,
    /// Message queues with no name left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<mqueue::Unlinked>,
    /// Pipes and fifos with what is in them.
    pub pipes: Vec<pipe::Pipe>,
    /// The open file descriptions; whatever one refers to (the targets of an epoll) is in here too.
    pub files: Vec<OpenFile>,
}

/// One open file description (`struct file`; open(2), "Open file descriptions").
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenFile {
    /// The mount namespace inside the container through which it was opened; absent: the container's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounts: Option<NsId>,
    /// The mount of the container's through which it was opened and over which others lie now: paths begin at its root
    /// directory; absent: none lies there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<MountId>,
    /// Of a socket the network namespace inside the container that it belongs to; absent: the container's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NsId>,
    /// What descriptor tables call it.
    pub id: FileId,
    /// `O_*` access mode and status flags, as `flags:` in fdinfo has them, without `O_CLOEXEC`.
    pub flags: u32,
    /// Offset in bytes; for a directory what `telldir` gives.
    pub position: u64,
    /// Who gets SIGIO; absent where nobody does.
    pub owner: Option<Owner>,
    /// What it is.
    pub file: File,
}

/// Receiver of I/O signals (fcntl(2), `F_SETOWN_EX`, `F_SETSIG`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// What `pid` names; absent where only a signal was chosen.
    pub kind: Option<OwnerKind>,
    /// Thread, process or group id inside the container.
    pub pid: Pid,
    /// The signal; 0 is SIGIO.
    pub signal: i32,
}

/// `F_OWNER_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerKind {
    /// One thread.
    Thread,
    /// A process.
    Process,
    /// A process group.
    Group,
}

/// What an open file description is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum File {
    /// A regular file that has a name.
    Regular(regular::Regular),
    /// A regular file without a name.
    Deleted(deleted::Open),
    /// A directory.
    Directory(directory::Directory),
    /// Any file opened with `O_PATH`.
    Opath(opath::Opath),
    /// A device node.
    Device(device::Device),
    /// `/dev/net/tun`.
    Tun(tun::Tun),
    /// An end of a pipe.
    Pipe(pipe::End),
    /// A fifo (named pipe).
    Fifo(fifo::Fifo),
    /// eventfd(2).
    Eventfd(eventfd::Eventfd),
    /// epoll(7).
    Epoll(epoll::Epoll),
    /// timerfd_create(2).
    Timerfd(timerfd::Timerfd),
    /// signalfd(2).
    Signalfd(signalfd::Signalfd),
    /// inotify(7).
    Inotify(inotify::Inotify),
    /// fanotify(7).
    Fanotify(fanotify::Fanotify),
    /// memfd_create(2).
    Memfd(memfd::Open),
    /// A POSIX message queue.
    Mqueue(mqueue::Mqueue),
    /// pidfd_open(2).
    Pidfd(pidfd::Pidfd),
    /// A socket.
    Socket(crate::sockets::Socket),
    /// A file of procfs, sysfs or another file system that the kernel makes up.
    Procfile(procfile::Procfile),
    /// A namespace.
    Namespace(namespace::Namespace),
    /// A terminal.
    Tty(tty::Tty),
    /// Standard input, output or error whose other side is outside the container.
    External(external::External),
}
