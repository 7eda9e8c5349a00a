//! Work done inside a container's namespaces by a thread of ours: what it opens or makes there belongs to our whole
//! process, so a socket made in the container's network is ready to be planted.

use crate::error::Named;
use crate::{Error, Pid, Result, pidfd::PidFd};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// How long a thread may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kinds of namespace that a single thread may enter (setns(2): user and time want a single-threaded process).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Network.
    Net,
    /// Mounts; the root directory becomes that of the mount namespace, also where the process entered did chroot(2).
    Mount,
    /// Mounts, and the root directory of the process entered.
    Root,
    /// Host and domain name.
    Uts,
    /// SysV objects and POSIX message queues.
    Ipc,
    /// For children forked by the closure.
    Pid,
    /// Control groups.
    Cgroup,
}

impl Namespace {
    fn flag(self) -> CloneFlags {
        match self {
            Namespace::Net => CloneFlags::CLONE_NEWNET,
            Namespace::Mount | Namespace::Root => CloneFlags::CLONE_NEWNS,
            Namespace::Uts => CloneFlags::CLONE_NEWUTS,
            Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
            Namespace::Pid => CloneFlags::CLONE_NEWPID,
            Namespace::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        }
    }
}

/// Runs `work` on a fresh thread of ours that has entered the namespaces of process `pid`. The thread ends with the
/// work, so that nothing of ours stays in there; descriptors it opened stay open.
pub fn within<T: Send>(
    pid: Pid,
    namespaces: &[Namespace],
    work: impl FnOnce() -> T + Send,
) -> Result<T> {
    let process = PidFd::open(pid).or_else(|_| PidFd::thread(pid))?;
    let root = namespaces
        .contains(&Namespace::Root)
        .then(|| root_of(pid))
        .transpose()?;
    let flags = namespaces
        .iter()
        .fold(CloneFlags::empty(), |all, one| all | one.flag());
    on_a_thread(|| {
        enter(&process, flags, root.as_ref())?;
        Ok(work())
    })
}

/// Runs `work` on a fresh thread of ours in a network namespace made for it, which ends with the thread.
pub fn in_a_new_network<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).named(|| "make a network namespace".into())?;
        Ok(work())
    })
}

/// Runs `work` on a thread of its own and meanwhile answers, on this one, what it asks: calls in tasks can only be made by
/// the thread that traces them. Returns when that thread is gone.
pub fn attended<T: Send, Q: Send>(
    work: impl FnOnce(Sender<Q>) -> T + Send,
    mut answer: impl FnMut(Q),
) -> T {
    let (ask, asked) = channel();
    let (made, thread) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| (work(ask), nix::unistd::gettid()));
        asked.into_iter().for_each(&mut answer);
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    await_end(thread);
    made
}

/// Runs `work` on a thread of its own, and returns when that is gone. To have been joined is not enough: the kernel lists
/// it until it has left its namespaces, and a process with two threads must not fork.
pub(crate) fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let (made, thread) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| (work(), nix::unistd::gettid()));
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    await_end(thread);
    made
}

fn await_end(thread: nix::unistd::Pid) {
    let listed = format!("/proc/self/task/{thread}");
    let deadline = Instant::now() + PATIENCE;
    while std::path::Path::new(&listed).exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn root_of(pid: Pid) -> Result<File> {
    let path = format!("/proc/{pid}/root");
    File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(&path)
        .named(|| format!("open {path}"))
}

fn enter(process: &PidFd, flags: CloneFlags, root: Option<&File>) -> Result<()> {
    if flags.is_empty() {
        return Ok(());
    }
    let pid = process.pid();
    if flags.contains(CloneFlags::CLONE_NEWNS) {
        // A thread that shares its root and working directory may not change its mount namespace (setns(2)).
        unshare(CloneFlags::CLONE_FS)
            .named(|| "unshare the working directory of a thread".into())?;
    }
    // SAFETY: `process` holds the descriptor open for the length of the call.
    let fd = unsafe { BorrowedFd::borrow_raw(process.as_raw_fd()) };
    setns(fd, flags).map_err(|errno| match errno {
        nix::errno::Errno::ESRCH => Error::Gone { pid },
        errno => Error::errno(
            format!("enter the namespaces of process {pid}"),
            errno as i32,
        ),
    })?;
    if let Some(root) = root {
        // setns(2) gives the root of the mount namespace, which is not the process's own after chroot(2).
        nix::unistd::fchdir(root).named(|| format!("chdir to the root of process {pid}"))?;
        nix::unistd::chroot(".").named(|| format!("chroot to the root of process {pid}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    struct Stranger(Child);

    impl Stranger {
        /// A process with namespaces of its own, known to be in them once it has written a line.
        fn start() -> Self {
            let child = Command::new("unshare")
                .args(["-m", "-u", "-n", "sh", "-c", "hostname stranger; mount -t tmpfs none /mnt; touch /mnt/here; echo; exec sleep 60"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stranger = Stranger(child);
            let mut line = [0];
            std::io::Read::read_exact(stranger.0.stdout.as_mut().unwrap(), &mut line).unwrap();
            stranger
        }

        fn pid(&self) -> Pid {
            self.0.id() as Pid
        }
    }

    impl Drop for Stranger {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn work_sees_the_other_namespaces_and_we_stay_in_ours() {
        let stranger = Stranger::start();
        let all = [Namespace::Net, Namespace::Mount, Namespace::Uts];
        let before = std::fs::read_link("/proc/self/ns/net").unwrap();
        let (name, here, links) = within(stranger.pid(), &all, || {
            (
                nix::unistd::gethostname().unwrap(),
                std::path::Path::new("/mnt/here").exists(),
                std::fs::read_to_string("/proc/thread-self/net/dev").unwrap(),
            )
        })
        .unwrap();
        assert_eq!(name, "stranger");
        assert!(here);
        assert_eq!(links.lines().skip(2).count(), 1, "only lo: {links}");
        assert_eq!(
            std::fs::read_link("/proc/thread-self/ns/net").unwrap(),
            before
        );
        assert!(!std::path::Path::new("/mnt/here").exists());
    }

    #[test]
    fn a_changed_root_is_seen_past_unless_it_is_asked_for() {
        let mut child = Command::new("unshare")
            .args([
                "-m",
                "sh",
                "-c",
                "mount -t tmpfs none /mnt; mkdir -p /mnt/jail/only; cd /mnt/jail; exec python3 -c '\
                import os; os.chroot(\".\"); print(flush=True); import time; time.sleep(60)'",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let stranger = Stranger(child);
        let seen = |namespace| {
            let look = || ["/only", "/mnt/jail/only"].map(|at| std::path::Path::new(at).exists());
            within(stranger.pid(), &[namespace], look).unwrap()
        };
        assert_eq!(seen(Namespace::Root), [true, false]);
        assert_eq!(seen(Namespace::Mount), [false, true]);
        let root = crate::open::Root::of(stranger.pid()).unwrap();
        assert!(root.stat(std::path::Path::new("/mnt/jail/only")).is_ok());
        let has = |mounts: Vec<crate::proc::mountinfo::Mount>, at: &[u8]| {
            mounts.iter().any(|mount| mount.mountpoint == at)
        };
        let whole = crate::proc::mountinfo::of_namespace(stranger.pid()).unwrap();
        assert!(has(whole.clone(), b"/mnt") && has(whole, b"/"));
        let part = crate::proc::mountinfo::read(stranger.pid()).unwrap();
        assert!(!has(part, b"/mnt"));
    }

    #[test]
    fn a_socket_made_inside_belongs_to_the_other_network() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        let stranger = Stranger::start();
        let inside = within(stranger.pid(), &[Namespace::Net], || {
            socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::empty(),
                None,
            )
            .unwrap()
        })
        .unwrap();
        // Nothing routes out of the empty network: the loopback there is down.
        let name: nix::sys::socket::SockaddrIn = "127.0.0.1:9"
            .parse::<std::net::SocketAddrV4>()
            .unwrap()
            .into();
        let error = nix::sys::socket::connect(inside.as_raw_fd(), &name).unwrap_err();
        assert_eq!(error, nix::errno::Errno::ENETUNREACH);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let mut stranger = Stranger::start();
        let pid = stranger.pid();
        stranger.0.kill().unwrap();
        stranger.0.wait().unwrap();
        assert!(within(pid, &[Namespace::Net], || ()).is_err());
    }
}
