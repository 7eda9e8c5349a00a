//! The keeper: a small process that `restore` leaves behind, which waits for the end of process 1 and takes away what
//! was made for the container. It lives from before there is anything to take away, so that nothing stays also where
//! `restore` itself is killed. Should the keeper be killed, the next tool that looks into the registry does its work.

use super::registry::{self, Entry, Lock, NETNS};
use super::{bridge, stdio};
use crate::Result;
use kernel::namespaces::{Birth, Forked, fork, keep_only, leave};
use kernel::pidfd::PidFd;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Starts the keeper of the container whose process 1 this is.
pub(super) fn start(name: &str, first: &PidFd) -> Result<PidFd> {
    match fork(&Birth::default())? {
        Forked::Parent(keeper) => Ok(keeper),
        Forked::Child => {
            keep(name, first);
            leave(0)
        }
    }
}

fn keep(name: &str, first: &PidFd) {
    let Ok(first) = first.as_fd().try_clone_to_owned() else {
        return;
    };
    let Ok(first) = keep_only(first) else {
        return;
    };
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    super::block_all_signals();
    super::entitle(name);
    stdio();
    wait(&first);
    if let Ok(lock) = registry::lock()
        && let Some(entry) = registry::read(name)
        && entry
            .keeper
            .is_none_or(|keeper| keeper.pid == nix::unistd::getpid().as_raw())
    {
        clean(&lock, &entry);
    }
}

/// Waits until the process has ended (pidfd_open(2): it polls as readable).
fn wait(first: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(first.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(n) if n > 0 => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Takes away everything an entry speaks of, and the entry last. What is gone already is no error.
pub(super) fn clean(lock: &Lock, entry: &Entry) {
    if let Some(link) = &entry.link {
        bridge::detach(link);
    }
    if entry.netns {
        let bound = Path::new(NETNS).join(&entry.name);
        let _ = umount2(&bound, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&bound);
    }
    if let Some(cgroup) = &entry.cgroup {
        super::cgroup::remove(cgroup);
    }
    if let Some(directory) = &entry.directory
        && directory.starts_with(crate::namespaces::mount::KEPT)
    {
        let _ = fs::remove_dir_all(directory);
        let _ = fs::remove_dir(crate::namespaces::mount::KEPT);
    }
    registry::remove(entry);
    bridge::remove_if_unused(lock);
}
