//! Namespaces of processes: which they are in, and new processes in new ones (namespaces(7), clone3 in clone(2)).

use crate::error::{Named, check};
use crate::pidfd::PidFd;
use crate::{Error, Pid, Result};
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

/// The eight kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Mounts.
    Mount,
    /// Links, addresses, routes.
    Network,
    /// Process ids.
    Pid,
    /// User and group ids.
    User,
    /// SysV IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// Monotonic and boot-time clocks.
    Time,
    /// Root of the visible control groups.
    Cgroup,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::Mount,
        Kind::Network,
        Kind::Pid,
        Kind::User,
        Kind::Ipc,
        Kind::Uts,
        Kind::Time,
        Kind::Cgroup,
    ];

    /// Its file under `/proc/PID/ns`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mount => "mnt",
            Kind::Network => "net",
            Kind::Pid => "pid",
            Kind::User => "user",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::Time => "time",
            Kind::Cgroup => "cgroup",
        }
    }

    /// Its `CLONE_NEW…`.
    pub fn flag(self) -> i32 {
        match self {
            Kind::Mount => libc::CLONE_NEWNS,
            Kind::Network => libc::CLONE_NEWNET,
            Kind::Pid => libc::CLONE_NEWPID,
            Kind::User => libc::CLONE_NEWUSER,
            Kind::Ipc => libc::CLONE_NEWIPC,
            Kind::Uts => libc::CLONE_NEWUTS,
            Kind::Time => libc::CLONE_NEWTIME,
            Kind::Cgroup => libc::CLONE_NEWCGROUP,
        }
    }
}

/// Which namespace a process is in: the inode number in `/proc/PID/ns/KIND`.
pub fn identity(pid: Pid, kind: Kind) -> Result<u64> {
    identity_at(&format!("/proc/{pid}/ns/{}", kind.name()))
}

/// Which namespace a thread (its process and itself) is in, or its children will be, by the name of the file in its `ns`;
/// none where there is none yet.
pub fn identity_in((pid, tid): (Pid, Pid), file: &str) -> Result<Option<u64>> {
    match identity_at(&format!("/proc/{pid}/task/{tid}/ns/{file}")) {
        Err(e)
            if e.raw() == Some(libc::ENOENT)
                && std::path::Path::new(&format!("/proc/{pid}/task/{tid}/ns/user"))
                    .is_symlink() =>
        {
            Ok(None)
        }
        found => found.map(Some),
    }
}

/// Which namespace the calling thread is in.
pub fn own(kind: Kind) -> Result<u64> {
    identity_at(&format!("/proc/thread-self/ns/{}", kind.name()))
}

fn identity_at(path: &str) -> Result<u64> {
    let link = std::fs::read_link(path).named(|| format!("readlink {path}"))?;
    let text = link.to_string_lossy();
    parse(&text).ok_or_else(|| Error::unreadable(path, text))
}

/// `net:[4026531833]`.
fn parse(link: &str) -> Option<u64> {
    let (_, number) = link.split_once(":[")?;
    number.strip_suffix(']')?.parse().ok()
}

/// What [`fork`] gives on each side.
#[derive(Debug)]
pub enum Forked {
    /// In the new process.
    Child,
    /// In the old one: the new process.
    Parent(PidFd),
}

/// What a new process is to be.
#[derive(Debug, Default)]
pub struct Birth<'a> {
    /// In new namespaces of these kinds.
    pub kinds: Vec<Kind>,
    /// With these pids, innermost pid namespace first; none: any.
    pub pids: Vec<Pid>,
    /// In this cgroup of the unified hierarchy: a directory there.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Forks by clone3. Only a process with a single thread may, so that the child is whole: no lock is held there by a
/// thread that it does not have.
pub fn fork(birth: &Birth) -> Result<Forked> {
    alone("fork")?;
    // SAFETY: the struct is plain integers, for which zero means "not given".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = birth
        .kinds
        .iter()
        .fold(0, |all, kind| all | kind.flag() as u64);
    args.exit_signal = libc::SIGCHLD as u64;
    if !birth.pids.is_empty() {
        args.set_tid = birth.pids.as_ptr() as u64;
        args.set_tid_size = birth.pids.len() as u64;
    }
    if let Some(cgroup) = birth.cgroup {
        // include/uapi/linux/sched.h; libc's is too narrow.
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM, so the child has its own copy of all memory and runs on its own copy of this stack; `args`
    // and `birth` outlive the call. The process has one thread (checked above), so no lock is left held in the copy.
    let pid = check(
        unsafe { libc::syscall(libc::SYS_clone3, &mut args, size_of::<libc::clone_args>()) },
        || match birth.pids.first() {
            Some(pid) => format!("fork a process with pid {pid}"),
            None => "fork a process into its namespaces".to_string(),
        },
    )? as Pid;
    if pid == 0 {
        Ok(Forked::Child)
    } else {
        PidFd::open(pid).map(Forked::Parent)
    }
}

/// Makes a descriptor 3 of `keep` and closes all others above 2: for a child made by [`fork`], which has no use for the
/// copies of its parent's. Gives the descriptor back.
pub fn keep_only(keep: OwnedFd) -> Result<OwnedFd> {
    let number = keep.into_raw_fd();
    // SAFETY: `number` was an owned descriptor and is not used as such any more; what owned 3 and all above it are
    // values of the parent's in this copy of its memory, and the child made by `fork` goes on without them.
    unsafe {
        if number != 3 {
            check(libc::dup3(number, 3, libc::O_CLOEXEC).into(), || {
                "dup3 to descriptor 3".into()
            })?;
        }
        check(libc::close_range(4, u32::MAX, 0).into(), || {
            "close the descriptors of the parent".into()
        })?;
        Ok(OwnedFd::from_raw_fd(3))
    }
}

/// Reads the last pid given out in the pid namespace of a process (`/proc/sys/kernel/ns_last_pid`, pid_namespaces(7)).
pub fn last_pid(pid: Pid) -> Result<Pid> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).named(|| "pipe".into())?;
    ns_last_pid(pid, write.as_raw_fd(), None)?;
    drop(write);
    let mut text = String::new();
    std::fs::File::from(read)
        .read_to_string(&mut text)
        .named(|| "read ns_last_pid".into())?;
    // The reader itself was given the last one.
    let number = text.trim().parse::<Pid>().map(|reader| (reader - 1).max(1));
    number.map_err(|_| Error::unreadable("/proc/sys/kernel/ns_last_pid", text))
}

/// Sets it, so that the next pid is a new one.
pub fn set_last_pid(pid: Pid, last: Pid) -> Result<()> {
    ns_last_pid(pid, -1, Some(last.to_string()))
}

/// The file is about the namespace of whoever reads or writes it, so a child of ours in there has to: it copies the file
/// to `out`, or `text` to the file.
fn ns_last_pid(pid: Pid, out: i32, text: Option<String>) -> Result<()> {
    let what = || format!("ns_last_pid of the pid namespace of process {pid}");
    let status = crate::within(pid, &[crate::Namespace::Pid], || {
        let path = c"/proc/sys/kernel/ns_last_pid".as_ptr();
        let mut bytes = [0u8; 32];
        // SAFETY: the child of a process with other threads makes only calls that are safe in a signal handler
        // (fork(2), signal-safety(7)): open, read, write, _exit, on memory that it has a copy of.
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                let flags = if text.is_some() {
                    libc::O_WRONLY
                } else {
                    libc::O_RDONLY
                };
                let file = libc::open(path, flags);
                let done = match &text {
                    Some(text) => libc::write(file, text.as_ptr().cast(), text.len()),
                    None => {
                        let len = libc::read(file, bytes.as_mut_ptr().cast(), bytes.len());
                        libc::write(out, bytes.as_ptr().cast(), len.max(0) as usize).min(len)
                    }
                };
                libc::_exit(if done > 0 { 0 } else { 1 });
            }
            child
        };
        if child < 0 {
            return Err(Error::last(what()));
        }
        let mut status = 0;
        // SAFETY: status outlives the call; the child is ours.
        while unsafe { libc::waitpid(child, &mut status, 0) } < 0 {
            let error = Error::last(what());
            if error.raw() != Some(libc::EINTR) {
                return Err(error);
            }
        }
        Ok(status)
    })??;
    if status == 0 {
        return Ok(());
    }
    Err(Error::unreadable(
        what(),
        "could not be read or written there",
    ))
}

/// Ends the calling process at once, without what a Rust program does at its end: for a child made by [`fork`], in which
/// buffers and guards are copies of its parent's.
pub fn leave(status: i32) -> ! {
    // SAFETY: _exit(2) takes a number and does not return.
    unsafe { libc::_exit(status) }
}

fn alone(what: &str) -> Result<()> {
    let threads = crate::proc::numbers("/proc/self/task".as_ref())?.len();
    if threads == 1 {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("{what} with {threads} threads; it has to come before threads are started"),
    })
}

/// A time namespace for children forked while this lives (time_namespaces(7)); the calling process stays in its own.
#[derive(Debug)]
pub struct TimeNamespace {
    own: std::fs::File,
}

impl TimeNamespace {
    /// Makes one whose clocks are the host's plus these nanoseconds. Wants a single thread, as [`fork`] does.
    pub fn new(monotonic: i64, boottime: i64) -> Result<Self> {
        alone("make a time namespace")?;
        let path = "/proc/self/ns/time";
        let own = std::fs::File::open(path).named(|| format!("open {path}"))?;
        // SAFETY: the call takes no pointers; it changes only where later children are put.
        check(unsafe { libc::unshare(libc::CLONE_NEWTIME) }.into(), || {
            "make a time namespace".into()
        })?;
        let made = TimeNamespace { own };
        let path = "/proc/self/timens_offsets";
        let lines = offsets(monotonic, boottime);
        std::fs::write(path, &lines).named(|| format!("write {path}"))?;
        Ok(made)
    }
}

/// Says what the clocks show in a time namespace that process `pid` has made for its children, while nobody is in it.
pub fn set_offsets(pid: Pid, monotonic: i64, boottime: i64) -> Result<()> {
    let path = format!("/proc/{pid}/timens_offsets");
    std::fs::write(&path, offsets(monotonic, boottime)).named(|| format!("write {path}"))
}

/// Nanoseconds go from 0 to 999999999, also where seconds are negative.
fn offsets(monotonic: i64, boottime: i64) -> String {
    const SECOND: i64 = 1_000_000_000;
    let line = |name: &str, offset: i64| {
        let (s, ns) = (offset.div_euclid(SECOND), offset.rem_euclid(SECOND));
        format!("{name} {s} {ns}\n")
    };
    line("monotonic", monotonic) + &line("boottime", boottime)
}

/// Reads `/proc/PID/timens_offsets`: monotonic and boottime, in nanoseconds.
pub fn parse_offsets(text: &str) -> Option<(i64, i64)> {
    let clock = |names: [&str; 2]| {
        let line = text.lines().find(|line| {
            let first = line.split_whitespace().next();
            names.iter().any(|name| first == Some(name))
        })?;
        let mut fields = line.split_whitespace().skip(1);
        let seconds: i64 = fields.next()?.parse().ok()?;
        let nanoseconds: i64 = fields.next()?.parse().ok()?;
        seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
    };
    Some((clock(["monotonic", "1"])?, clock(["boottime", "7"])?))
}

impl Drop for TimeNamespace {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open for the length of the call. Should it fail, later children of ours only have
        // other clock offsets.
        unsafe { libc::setns(self.own.as_raw_fd(), libc::CLONE_NEWTIME) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_links_of_proc_are_read() {
        assert_eq!(parse("net:[4026531833]"), Some(4026531833));
        assert_eq!(parse("net:4026531833"), None);
        for kind in Kind::ALL {
            let pid = std::process::id() as Pid;
            assert_eq!(own(kind).unwrap(), identity(pid, kind).unwrap());
        }
    }

    #[test]
    fn the_last_pid_is_that_of_the_other_namespace() {
        let mut child = std::process::Command::new("unshare")
            .args([
                "-p",
                "-f",
                "--kill-child",
                "sh",
                "-c",
                "echo; exec sleep 60",
            ])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let parent = child.id();
        let inside = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let inside: Pid = inside.unwrap().trim().parse().unwrap();
        set_last_pid(inside, 4000).unwrap();
        assert_eq!(last_pid(inside).unwrap(), 4000);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn offsets_before_zero_are_written_as_the_kernel_wants_them() {
        assert_eq!(
            offsets(-1, 1_500_000_000),
            "monotonic -1 999999999\nboottime 1 500000000\n"
        );
        for (monotonic, boottime) in [(-1, 1_500_000_000), (0, -7_000_000_001), (5, 0)] {
            let text = offsets(monotonic, boottime);
            assert_eq!(parse_offsets(&text), Some((monotonic, boottime)));
        }
        let kernels = "monotonic           0         0\nboottime            0         0\n";
        assert_eq!(parse_offsets(kernels), Some((0, 0)));
    }
}
