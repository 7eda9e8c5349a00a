//! The new process, inside its new namespaces: sets them up, says so, and waits to be filled. Runs in a copy of
//! `restore`'s memory; nothing of it returns.

use super::cgroup;
use super::plan::Plan;
use super::stdio;
use crate::namespaces::mount::{Base, Covered};
use crate::namespaces::{ipc, mount, uts};
use crate::{Error, Result};
use image::namespaces::user::{Own, Range};
use kernel::namespaces::{Kind, keep_only, leave};
use kernel::nsfs::Handle;
use kernel::{Namespace, within};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Longest message between the vessel and its maker, bytes.
pub(super) const MESSAGE: usize = 65536;

/// A mount over which others lie, by its number in the record, and the descriptor that the new process holds it by.
pub(super) type Held = (u32, i32);

/// What the new process has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// All is set up; with remarks for the user, and mounts that no path leads to: those over which others lie, or those that we
    /// are to mount, where it may not.
    Ready(Vec<String>, Vec<Held>),
    /// It is not, and why; whether it is the image that asks for what cannot be.
    Failed(String),
}

impl Word {
    fn to_bytes(&self) -> Vec<u8> {
        let text = match self {
            Word::Ready(remarks, held) => {
                let held = held.iter().map(|(id, fd)| format!("{id}={fd} "));
                format!("+{}\n{}", held.collect::<String>(), remarks.join("\n"))
            }
            Word::Failed(why) => format!("-{why}"),
        };
        let mut bytes = text.into_bytes();
        bytes.truncate(MESSAGE);
        bytes
    }

    pub(super) fn of(bytes: &[u8]) -> Word {
        let text = String::from_utf8_lossy(bytes.get(1..).unwrap_or_default());
        match bytes.first() {
            Some(b'+') => {
                let (held, remarks) = text.split_once('\n').unwrap_or((&text, ""));
                let pair = |word: &str| {
                    let (id, fd) = word.split_once('=')?;
                    Some((id.parse().ok()?, fd.parse().ok()?))
                };
                Word::Ready(
                    remarks.lines().map(String::from).collect(),
                    held.split(' ').filter_map(pair).collect(),
                )
            }
            Some(_) => Word::Failed(text.into_owned()),
            None => {
                Word::Failed("the vessel's first process died while it was being set up".into())
            }
        }
    }
}

/// The life of the new process.
pub(super) fn live(plan: &Plan, socket: OwnedFd) -> ! {
    let Ok(socket) = keep_only(socket) else {
        leave(1)
    };
    // Its user namespace has no ids before its maker gives it some.
    if plan.user.is_some() && !told(&socket) {
        leave(1);
    }
    let mut held = Covered::new();
    let word = match set_up(plan, &mut held) {
        Ok(remarks) => {
            if let (Some(user), Some(record)) = (&plan.user, &plan.mounts) {
                held = mount::owned(record, &user.maps);
            }
            let held = held.iter().map(|(id, fd)| (id.0, fd.as_raw_fd()));
            Word::Ready(remarks, held.collect())
        }
        Err(e) => Word::Failed(e.to_string()),
    };
    let said = send(socket.as_raw_fd(), &word.to_bytes(), MsgFlags::MSG_NOSIGNAL);
    if said.is_err() || matches!(word, Word::Failed(_)) {
        leave(1);
    }
    // A process to be poured into never gets past this: it is stopped here and gets other memory. An init goes on once
    // it is told to. The end of the socket is the end of `restore`, and of all it has made.
    if !told(&socket) {
        leave(1);
    }
    drop((socket, held));
    init(plan.root)
}

fn told(socket: &OwnedFd) -> bool {
    loop {
        let mut byte = [0];
        match recv(socket.as_raw_fd(), &mut byte, MsgFlags::empty()) {
            Ok(n) => return n > 0,
            // Being stopped and let go by a tracer leaves odd error numbers (ERESTARTSYS): ask again.
            Err(_) => continue,
        }
    }
}

fn set_up(plan: &Plan, covered: &mut Covered) -> Result<Vec<String>> {
    // The keys of who calls `restore`, say, are no business of the container's.
    kernel::own::setting::shed()?;
    if let Some(user) = &plan.user {
        become_root(user)?;
    }
    if plan.init {
        // Nothing of the terminal `restore` was called from, and no signal but by way of `init`.
        nix::unistd::setsid().map_err(|e| kernel::Error::errno("setsid", e as i32))?;
        super::block_all_signals();
        super::entitle(&plan.name);
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let mut remarks = Vec::new();
    if plan.user.is_none() {
        if let Some(record) = &plan.uts {
            uts::restore(record)?;
        }
        if let Some(record) = &plan.ipc {
            ipc::restore(record)?;
        }
        remarks.extend(cgroup::enter(&plan.groups, 0));
    }
    if plan.kinds.contains(&Kind::Cgroup) {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
            .map_err(|e| kernel::Error::errno("make a cgroup namespace", e as i32))?;
    }
    if plan.mounts_itself() {
        remarks.extend(mounts(plan, Covered::new(), covered, None)?);
    }
    nix::unistd::chdir("/").map_err(|e| kernel::Error::errno("chdir /", e as i32))?;
    if plan.init {
        stdio();
    }
    Ok(remarks)
}

/// What a process in a user namespace of its own may not do, and we may, in its namespaces.
pub(super) fn set_up_from_outside(
    plan: &Plan,
    user: &Own,
    pid: kernel::Pid,
) -> Result<Vec<String>> {
    crate::namespaces::user::restore(pid, &user.maps, None, user.keeps_groups)?;
    if let Some(record) = &plan.uts {
        within(pid, &[Namespace::Uts], || uts::restore(record))??;
    }
    if let Some(record) = &plan.ipc {
        within(pid, &[Namespace::Ipc], || ipc::restore(record))??;
    }
    Ok(cgroup::enter(&plan.groups, pid))
}

/// The first process makes what belongs to user 0 of its namespace.
fn become_root(user: &Own) -> Result<()> {
    let first = |map: &[Range]| {
        let zero = map.iter().any(|range| range.inside == 0).then_some(0);
        zero.or(map.first().map(|range| range.inside))
    };
    let fail = |e: nix::Error| kernel::Error::errno("become root in a user namespace", e as i32);
    if let Some(gid) = first(&user.maps.gids).map(nix::unistd::Gid::from_raw) {
        nix::unistd::setresgid(gid, gid, gid).map_err(fail)?;
    }
    if let Some(uid) = first(&user.maps.uids).map(nix::unistd::Uid::from_raw) {
        nix::unistd::setresuid(uid, uid, uid).map_err(fail)?;
    }
    // As after any exec: its files in /proc are its own.
    nix::sys::prctl::set_dumpable(true).map_err(fail)?;
    Ok(())
}

/// Makes the mounts in the calling thread's mount namespace, a copy of the host's; with a remark for the user. `detached` are
/// file systems that are there already; `covered` get those over which others come to lie.
pub(super) fn mounts(
    plan: &Plan,
    detached: Covered,
    covered: &mut Covered,
    users: Option<&Handle>,
) -> Result<Option<String>> {
    if plan.mounts.is_none() {
        return Ok(None);
    }
    if let (Some(user), Some(users), Base::Overlay { lower, .. }) = (&plan.user, users, &plan.base)
    {
        mount::map_owners(lower, &user.maps, users.as_fd())?;
    }
    let by_us = plan.user.is_some();
    let record = plan.mounts.as_ref();
    let made = mount::restore(record, &plan.base, &plan.groups, detached, by_us)?;
    *covered = made.covered;
    let missing = made.missing;
    Ok((!missing.is_empty()).then(|| {
        format!(
            "not mounted on this host, as they were on the source: {}",
            missing.join(", ")
        )
    }))
}

/// Process 1 of a container whose root process is another: reaps orphans, hands signals on, and ends as the root does.
/// All signals are blocked, and taken one by one.
pub fn init(root: image::ids::Pid) -> ! {
    let root = Pid::from_raw(root);
    let all = SigSet::all();
    loop {
        if let Some(status) = reap(root) {
            leave(status);
        }
        match all.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            // Those that say something about us, and not to the container.
            Ok(Signal::SIGPIPE | Signal::SIGTTIN | Signal::SIGTTOU | Signal::SIGTSTP) => {}
            Ok(signal) => {
                let _ = kill(root, signal);
            }
        }
    }
}

/// Reaps all that has ended; the exit status of the root, if it was among them, as a shell gives it (128 + signal).
fn reap(root: Pid) -> Option<i32> {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
    loop {
        match waitpid(None, Some(flags)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == root => return Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == root => {
                return Some(128 + signal as i32);
            }
            Ok(WaitStatus::StillAlive) => return None,
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return Some(0), // no child is left
        }
    }
}

impl From<Word> for Result<(Vec<String>, Vec<Held>)> {
    fn from(word: Word) -> Self {
        match word {
            Word::Ready(remarks, held) => Ok((remarks, held)),
            Word::Failed(why) => Err(Error::Refused(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_heard_as_they_were_said() {
        for word in [
            Word::Ready(vec![], vec![]),
            Word::Ready(vec!["one".into(), "two".into()], vec![(3, 4), (56, 7)]),
            Word::Failed("no".into()),
        ] {
            assert_eq!(Word::of(&word.to_bytes()), word);
        }
        assert!(matches!(Word::of(b""), Word::Failed(_)));
    }
}
