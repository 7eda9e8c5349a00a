//! The vessel: an empty process inside its new container, traced and stopped, into which a tree is poured. Two makers,
//! one pouring: these tools themselves ([`native`]), or an engine.

use crate::Result;
use crate::namespaces::mount::Covered;
use crate::rootfs::Policy;
use crate::sockets::tcp::Quiet;
use image::container::Engine;
use kernel::pidfd::PidFd;
use kernel::ptrace::Stopped;
use kernel::remote::Stub;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::fmt::Debug;
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

mod agent;
mod bridge;
mod cgroup;
mod console;
pub mod engine;
mod inside;
mod keeper;
pub mod kept;
pub mod native;
mod plan;
pub mod registry;
mod written;

pub use console::Console;
pub use inside::init;

/// A vessel. Dropped before [`Vessel::release`], it is taken down with all that was made for it.
pub trait Vessel: Debug {
    /// The first process, stopped and traced with EXITKILL: the tree's root, or (see [`Vessel::is_init`]) an init of
    /// ours, out of which the root is to be forked. Given out once. Its descriptors are not the container's.
    fn first(&mut self) -> Result<Stopped>;

    /// Our pid of the first process: its namespaces are `/proc/PID/ns/*`, its root is `/proc/PID/root`.
    fn pid(&self) -> kernel::Pid;

    /// Whether the first process is an init of ours, and no part of the image.
    fn is_init(&self) -> bool;

    /// What made the container, and owns it from [`Vessel::release`] on.
    fn engine(&self) -> Engine;

    /// The name it is known by; none for a tree that shares everything with the host.
    fn name(&self) -> Option<&str>;

    /// Its id; the pid of its root for a tree that shares everything with the host.
    fn id(&self) -> String;

    /// Its new addresses.
    fn addresses(&self) -> &[IpAddr];

    /// Addresses of the source that have become others: sockets bound to the first are bound to the second.
    fn changed(&self) -> &[(IpAddr, IpAddr)];

    /// Takes out what has kept its network silent since that is up; none where there was no need, or no way.
    fn quiet(&mut self) -> Option<Quiet> {
        None
    }

    /// What the user should know.
    fn warnings(&self) -> &[String];

    /// Where the layers of an image go that come along, before there is a root directory over them; none: they do not.
    fn layers(&self) -> Option<&Path> {
        None
    }

    /// The layers are all there: mounts are made.
    fn mount(&mut self) -> Result<()> {
        Ok(())
    }

    /// What of the image's file trees is not to be poured here.
    fn policy(&self) -> Policy {
        Policy::default()
    }

    /// Mounts over which others lie.
    fn covered(&self) -> &Covered {
        static NONE: Covered = Covered::new();
        &NONE
    }

    /// Once the file trees are poured: read-only mounts become so.
    fn settle(&self) -> Result<()>;

    /// The container runs, and is no longer ours to take down. `root` is our pid of the root of its tree; `init` the
    /// first process where it is an init of ours, which goes on from where it was stopped.
    fn release(self: Box<Self>, root: kernel::Pid, init: Option<Stub>) -> Result<()>;
}

/// Waits for the end of a process that has been killed. Process 1 ends only when all others of its pid namespace have
/// been reaped, and those that are traced wait for us: so whatever comes is reaped.
fn reap(pid: kernel::Pid) {
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..)) => {
                if ended.as_raw() == pid {
                    return;
                }
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// What goes on to the container while somebody waits for it.
const FORWARDED: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Holds back the signals that [`wait_and_forward`] takes. Before there are other threads, which inherit this.
pub fn hold_signals() -> Result<()> {
    let held = held();
    held.thread_block()
        .map_err(|e| kernel::Error::errno("block signals", e as i32).into())
}

fn held() -> SigSet {
    FORWARDED.into_iter().chain([Signal::SIGCHLD]).collect()
}

/// Waits for the end of a container's first process, a child of ours, and forwards signals to the `root` of its tree:
/// its exit status as a shell gives it. Signals must be held back ([`hold_signals`]).
pub fn wait_and_forward(first: kernel::Pid, root: kernel::Pid) -> Result<i32> {
    let root = PidFd::open(root)?;
    loop {
        if let Some(status) = ended(first, Some(WaitPidFlag::WNOHANG))? {
            return Ok(status);
        }
        let signal = held()
            .wait()
            .map_err(|e| kernel::Error::errno("wait for signals", e as i32))?;
        if signal != Signal::SIGCHLD {
            // It may have ended just now: then there is nobody to tell.
            let _ = root.signal(signal as i32);
        }
    }
}

/// Waits for the end of a container's first process, a child of ours: its exit status as a shell gives it.
pub fn wait(first: kernel::Pid) -> Result<i32> {
    loop {
        if let Some(status) = ended(first, None)? {
            return Ok(status);
        }
    }
}

fn ended(first: kernel::Pid, how: Option<WaitPidFlag>) -> Result<Option<i32>> {
    match waitpid(nix::unistd::Pid::from_raw(first), how) {
        Ok(WaitStatus::Exited(_, status)) => Ok(Some(status)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Some(128 + signal as i32)),
        Ok(_) | Err(Errno::EINTR) => Ok(None),
        Err(e) => {
            let what = format!("wait for process {first}");
            Err(kernel::Error::errno(what, e as i32).into())
        }
    }
}

/// Two ends of a line: the death of one is heard at the other.
fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    let made = socketpair(AddressFamily::Unix, kind, None, flags);
    Ok(made.map_err(|e| kernel::Error::errno("socketpair", e as i32))?)
}

fn random_id() -> Result<String> {
    let mut bytes = [0u8; 6];
    let path = "/dev/urandom";
    fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| kernel::Error::io(format!("read {path}"), &e))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Descriptors 0, 1 and 2 become `/dev/null`: whoever waits for the end of our output must not wait for the container's.
fn stdio() {
    let Ok(null) = fs::File::options().read(true).write(true).open("/dev/null") else {
        return;
    };
    let _ = nix::unistd::dup2_stdin(&null);
    let _ = nix::unistd::dup2_stdout(&null);
    let _ = nix::unistd::dup2_stderr(&null);
}

fn block_all_signals() {
    let _ = SigSet::all().thread_block();
}

/// What `ps` shows: `ferry: NAME` (at most 15 bytes, prctl(2)).
fn entitle(name: &str) {
    if let Ok(title) = std::ffi::CString::new(format!("ferry: {name}")) {
        let _ = nix::sys::prctl::set_name(&title);
    }
}
