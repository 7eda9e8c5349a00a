//! The keeper: a small process that `restore` leaves behind, which waits for the end of process 1 and takes away what
//! was made for the container. It lives from before there is anything to take away, so that nothing stays also where
//! `restore` itself is killed. Should the keeper be killed, the next tool that looks into the registry does its work.

use super::registry::{self, Entry, Lock, NETNS, Process};
use super::{bridge, pair};
use crate::namespaces::mount::KEPT;
use crate::{Error, Result};
use kernel::namespaces::{Birth, Forked, fork, keep_only, leave};
use kernel::pidfd::PidFd;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::wait::{WaitPidFlag, waitpid};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// The keeper, as its maker holds it.
#[derive(Debug)]
pub(super) struct Keeper {
    process: PidFd,
    /// Its end is the end of the making, well or badly.
    socket: Option<OwnedFd>,
}

impl Keeper {
    /// Starts the keeper for a container of this name, before anything is made for it.
    pub(super) fn start(name: &str) -> Result<Keeper> {
        let (socket, theirs) = pair()?;
        match fork(&Birth::default())? {
            Forked::Parent(process) => Ok(Keeper {
                process,
                socket: Some(socket),
            }),
            Forked::Child => {
                if let Ok(theirs) = keep_only(theirs) {
                    keep(name, &theirs);
                }
                leave(0)
            }
        }
    }

    /// The process it is.
    pub(super) fn process(&self) -> Result<Process> {
        Process::of(self.process.pid())
    }

    /// Tells it which process to wait for.
    pub(super) fn watch(&self, first: &Process) -> Result<()> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let word = serde_json::to_vec(first).map_err(|e| Error::Refused(e.to_string()))?;
        send(socket.as_raw_fd(), &word, MsgFlags::MSG_NOSIGNAL)
            .map_err(|e| kernel::Error::errno("speak to the keeper", e as i32))?;
        Ok(())
    }

    /// Lets it do its work now, where the process it waits for is gone or never was, and waits for it.
    pub(super) fn finish(&mut self) {
        self.socket = None;
        let mut fds = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(5000u16));
        let pid = nix::unistd::Pid::from_raw(self.process.pid());
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

fn keep(name: &str, maker: &OwnedFd) {
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    super::block_all_signals();
    super::entitle(name);
    super::stdio();
    wait(maker);
    if let Ok(lock) = registry::lock()
        && let Some(entry) = registry::read(name)
        && entry.keeper.pid == nix::unistd::getpid().as_raw()
    {
        clean(&lock, &entry);
    }
}

/// Waits until the first process has ended (pidfd_open(2): it polls as readable), or the maker before there was one.
fn wait(maker: &OwnedFd) {
    let mut first = None;
    let mut making = true;
    while making || first.is_some() {
        let mut fds = Vec::with_capacity(2);
        fds.extend(
            first
                .as_ref()
                .map(|fd: &PidFd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
        );
        if making {
            fds.push(PollFd::new(maker.as_fd(), PollFlags::POLLIN));
        }
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        let ready = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
        if first.is_some() && fds.first().is_some_and(ready) {
            return;
        }
        if making && fds.last().is_some_and(ready) {
            match hear(maker) {
                Some(process) => first = Some(process),
                None => making = false,
            }
        }
    }
}

/// The first process, as the maker names it; none at the maker's end, or where it is gone already.
fn hear(maker: &OwnedFd) -> Option<PidFd> {
    let mut bytes = [0; 128];
    let len = recv(maker.as_raw_fd(), &mut bytes, MsgFlags::empty()).ok()?;
    let process: Process = serde_json::from_slice(bytes.get(..len)?).ok()?;
    let found = PidFd::open(process.pid).ok()?;
    process.lives().then_some(found)
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
    for cgroup in &entry.cgroups {
        super::cgroup::remove(cgroup);
    }
    if let Some(directory) = &entry.directory
        && directory.starts_with(KEPT)
    {
        let _ = fs::remove_dir_all(directory);
        let _ = fs::remove_dir(KEPT);
    }
    registry::remove(entry);
    if entry.netns_dir && fs::remove_dir(NETNS).is_err() {
        inherit();
    }
    bridge::remove_if_unused(lock);
}

/// `/run/netns` is still in use: the duty to remove it goes to another container.
fn inherit() {
    let others = registry::read_all().unwrap_or_default();
    if let Some(mut heir) = others.into_iter().find(|e| e.netns) {
        heir.netns_dir = true;
        let _ = registry::write(&heir);
    }
}
