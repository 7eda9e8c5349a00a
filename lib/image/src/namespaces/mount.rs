//! Mounts (mount_namespaces(7)), from `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use crate::bytes::Bytes;
use crate::ids::MountId;
use crate::path::Name;
use serde::{Deserialize, Serialize};

/// All mounts of the container's mount namespace, in the order they have to be made in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mounts {
    /// Parents before children, what covers after what is covered.
    pub mounts: Vec<Mount>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Its id at the source.
    pub id: MountId,
    /// The mount it is mounted on.
    pub parent: MountId,
    /// Where, seen from the container's root.
    pub mountpoint: Name,
    /// The directory (or file) of the file system that it shows.
    pub root: Name,
    /// The file system's type: `ext4`, `fuse.sshfs`.
    pub fstype: String,
    /// The device, or whatever the file system calls its source.
    pub source: Name,
    /// Options of the mount: `rw`, `nosuid`, `nodev`, `noexec`, `relatime`.
    pub options: Vec<String>,
    /// Options of the file system: `size=65536k`, `mode=755`.
    pub super_options: Vec<String>,
    /// Whether mounts made here show elsewhere.
    pub propagation: Propagation,
    /// The peer group it is in, as the source numbers them; none where peers of it are outside the container.
    pub peers: Option<u32>,
    /// The peer group of the container's that it takes from.
    pub master: Option<u32>,
    /// Others lie over it, so that no path leads there; absent: none does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub covered: bool,
    /// How it is made again.
    pub origin: Origin,
}

/// Propagation (mount_namespaces(7)), within the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Neither gives nor takes.
    Private,
    /// In a peer group.
    Shared,
    /// Takes from a peer group outside.
    Slave,
    /// Private, and cannot be bound.
    Unbindable,
}

/// How a mount is made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum Origin {
    /// The root file system (`rootfs` of the container).
    Root,
    /// The host had the same file system at the same place: the target host's own mount there.
    Host,
    /// A directory or file of the host's, by its path there.
    Bind {
        /// The path on the host.
        path: Name,
    },
    /// A file system of the kernel's without contents of its own: `proc`, `sysfs`, `devpts`, `mqueue`, `cgroup2` …
    Fresh,
    /// A tmpfs: made new, filled from `tmpfs/TREE/…`.
    Tmpfs {
        /// Number of its file tree.
        tree: u32,
    },
    /// A volume of the engine's, of which its configuration knows more.
    Volume {
        /// Its name there.
        name: String,
        /// Number of its file tree; none where its content does not travel.
        tree: Option<u32>,
    },
    /// A file that the engine has written for this container alone: `/etc/hosts`, `/etc/resolv.conf`.
    Written {
        /// What was in it.
        content: Bytes,
    },
    /// An overlay that the container has made itself, of directories of its own.
    Overlay {},
    /// Left behind (`checkpoint --mount`): who restores it says what takes its place (`restore --mount`).
    Outside {},
    /// One more mount of a file system that an earlier one has brought.
    Again {
        /// The earlier mount.
        mount: MountId,
    },
}
