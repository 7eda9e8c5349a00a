//! Taking away what is not to be there.

use super::places::Guard;
use super::walk::names;
use crate::Result;
use kernel::beneath::{self, Way};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Removes a name from a directory, with all that is beneath it; `path` is its path in its tree. Mount points stay, and
/// what leads to them.
pub(super) fn remove(dir: &OwnedFd, name: &OsStr, path: &Path, guard: &Guard) -> Result<()> {
    let fail = |e| super::failed(format!("remove {}", path.display()), e);
    if guard.is_point(path) {
        return Ok(());
    }
    let held = guard.holds(path);
    if !held {
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {}
            Err(e) => return Err(fail(e)),
        }
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let below = beneath::open(dir.as_fd(), Path::new(name), Way::SameMount, flags, 0)?;
    for (child, _) in names(&below, path)? {
        remove(&below, &child, &path.join(&child), guard)?;
    }
    if held {
        return Ok(());
    }
    unlinkat(dir, name, UnlinkatFlags::RemoveDir).map_err(fail)
}
