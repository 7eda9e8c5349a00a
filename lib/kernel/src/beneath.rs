//! Files opened beneath a directory, without a way out of it: `openat2(2)`.

use crate::Result;
use crate::error::Named;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// How a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As a process would whose root the directory is: absolute links and `..` stay within.
    InRoot,
    /// Downwards only, through no symbolic link.
    Down,
    /// Downwards only, through no symbolic link, into no other mount (EXDEV).
    SameMount,
}

/// Opens `path` beneath `dir`; an empty path or `/` is the directory itself. Mode is for what O_CREAT makes.
pub fn open(dir: BorrowedFd, path: &Path, way: Way, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    let resolve = match way {
        Way::InRoot => ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        Way::Down => ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS,
        Way::SameMount => {
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV
        }
    };
    let empty = path.as_os_str().is_empty();
    let path = if empty { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(resolve);
    openat2(dir, path, how).named(|| format!("open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_leads_out() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(top.path().join("secret"), "outside").unwrap();
        std::fs::write(root.join("secret"), "inside").unwrap();
        symlink("/secret", root.join("absolute")).unwrap();
        symlink("../secret", root.join("up")).unwrap();
        let dir = std::fs::File::open(&root).unwrap();
        let read = |path: &str, way| {
            let fd = open(dir.as_fd(), path.as_ref(), way, OFlag::O_RDONLY, 0)?;
            Ok::<_, crate::Error>(std::io::read_to_string(std::fs::File::from(fd)).unwrap())
        };
        for path in ["secret", "/secret", "../secret", "absolute", "up"] {
            assert_eq!(read(path, Way::InRoot).unwrap(), "inside", "{path}");
        }
        assert_eq!(read("secret", Way::Down).unwrap(), "inside");
        for path in ["/secret", "../secret", "absolute", "up"] {
            assert!(read(path, Way::Down).is_err(), "{path}");
        }
    }
}
