//! The root file system, and the file trees that travel in the stream: `rootfs/…`, `changes/…` and, for each tmpfs and
//! volume, `tmpfs/N/…` and `volume/N/…`.

use crate::path::Name;
use serde::{Deserialize, Serialize};

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rootfs {
    /// It is the host's own: whatever is there on the host it is restored on.
    Host,
    /// A directory, by its path on the source host; it has to be there (or `--rootfs`).
    Directory(Name),
    /// In the stream, as `rootfs/…`.
    Travels,
    /// An overlay over the layers of an engine's image.
    Layers {
        /// Whether what was changed on top of them is in the stream, as `changes/…`.
        changes: bool,
        /// Whether the layers themselves are, as one tree, `rootfs/…`.
        layers: bool,
    },
}

/// The prefix of the root file system's members.
pub const ROOTFS: &str = "rootfs";

/// The prefix of what was changed on top of the layers of an image: a character device 0/0 stands for what was removed, and
/// a directory with the attribute `trusted.overlay.opaque` shows nothing of what lies below it.
pub const CHANGES: &str = "changes";

/// The prefix of the members of all volumes; the tree's number is the next component.
pub const VOLUME: &str = "volume";

/// The prefix of the members of all tmpfs mounts; the tree's number is the next component.
pub const TMPFS: &str = "tmpfs";

/// Which tree a member belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// The root file system.
    Root,
    /// The tmpfs whose mount has this tree number ([`crate::namespaces::mount::Origin::Tmpfs`]).
    Tmpfs(u32),
    /// What was changed on top of an image's layers.
    Changes,
    /// The volume whose mount has this tree number ([`crate::namespaces::mount::Origin::Volume`]).
    Volume(u32),
}

impl Tree {
    /// The tree, and the path beneath its root (empty for the root itself), of a member's path.
    pub fn of(path: &str) -> Option<(Tree, &str)> {
        let (first, rest) = split(path);
        match first {
            ROOTFS => Some((Tree::Root, rest)),
            TMPFS => {
                let (number, rest) = split(rest);
                Some((Tree::Tmpfs(number.parse().ok()?), rest))
            }
            VOLUME => {
                let (number, rest) = split(rest);
                Some((Tree::Volume(number.parse().ok()?), rest))
            }
            CHANGES => Some((Tree::Changes, rest)),
            _ => None,
        }
    }

    /// The path of a member in it.
    pub fn prefix(self) -> String {
        match self {
            Tree::Root => ROOTFS.to_string(),
            Tree::Changes => CHANGES.to_string(),
            Tree::Tmpfs(number) => format!("{TMPFS}/{number}"),
            Tree::Volume(number) => format!("{VOLUME}/{number}"),
        }
    }
}

fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_know_their_tree() {
        for (path, tree) in [
            ("rootfs", Some((Tree::Root, ""))),
            ("rootfs/etc/passwd", Some((Tree::Root, "etc/passwd"))),
            ("tmpfs/0", Some((Tree::Tmpfs(0), ""))),
            ("tmpfs/12/a/b", Some((Tree::Tmpfs(12), "a/b"))),
            ("tmpfs/x/a", None),
            ("changes/etc/x", Some((Tree::Changes, "etc/x"))),
            ("volume/1/x", Some((Tree::Volume(1), "x"))),
            ("process/1.json", None),
        ] {
            assert_eq!(Tree::of(path), tree, "{path}");
        }
        assert_eq!(Tree::Tmpfs(3).prefix(), "tmpfs/3");
    }
}
