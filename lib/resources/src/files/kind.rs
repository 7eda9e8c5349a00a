//! Which room a descriptor belongs to, and which ones have no room: decided in one place, before freezing and after.

use super::borrowed::Seen;
use super::fanotify;
use super::inotify;
use super::mqueue;
use super::namespace;
use super::procfile;
use super::surroundings::Surroundings;
use super::tun;
use image::files::external::Stream;
use kernel::descriptor::{
    O_ACCMODE, O_PATH, O_WRONLY, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFREG, S_IFSOCK,
};

/// The rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Deleted,
    Directory,
    Opath,
    Device,
    Tun,
    Pipe,
    Fifo,
    Eventfd,
    Epoll,
    Timerfd,
    Signalfd,
    Inotify,
    Fanotify,
    Memfd,
    Mqueue,
    Pidfd,
    Socket,
    Namespace,
    Procfile,
    Tty,
    External(Stream),
}

/// Why a descriptor cannot be taken: what it is, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub what: String,
    pub remedy: String,
}

pub(crate) fn obstacle(what: impl Into<String>, remedy: impl Into<String>) -> Obstacle {
    Obstacle {
        what: what.into(),
        remedy: remedy.into(),
    }
}

const PROC: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;
const CGROUP: i64 = 0x0027_e0eb;
const CGROUP2: i64 = 0x6367_7270;
pub(super) const MQUEUE: i64 = 0x1980_0202;
const NSFS: i64 = 0x6e73_6673;
const SECRETMEM: i64 = 0x5345_434d;
const DEBUGFS: i64 = 0x6462_6720;
const TRACEFS: i64 = 0x7472_6163;

/// Descriptors without a place in any file system, by the text of their link (fs/anon_inodes.c and its callers).
const NAMELESS: &[(&str, Kind)] = &[
    ("anon_inode:[eventfd]", Kind::Eventfd),
    ("anon_inode:[eventpoll]", Kind::Epoll),
    ("anon_inode:[timerfd]", Kind::Timerfd),
    ("anon_inode:[signalfd]", Kind::Signalfd),
    ("anon_inode:inotify", Kind::Inotify),
    ("anon_inode:[fanotify]", Kind::Fanotify),
    (super::pidfd::LINK, Kind::Pidfd),
];

const REFUSED: &[(&str, &str, &str)] = &[
    (
        "anon_inode:[io_uring]",
        "io_uring",
        "start the program with io_uring switched off (many have an option or environment variable for it)",
    ),
    (
        "anon_inode:[perf_event]",
        "a performance counter",
        "end the profiling first",
    ),
    (
        "anon_inode:[userfaultfd]",
        "userfaultfd",
        "there is no way to take its state; switch it off in the program",
    ),
    (
        "anon_inode:bpf",
        "a BPF object",
        "BPF programs and maps belong to the host; close them first",
    ),
    (
        "anon_inode:kvm",
        "a virtual machine",
        "migrate the virtual machine itself",
    ),
    (
        "anon_inode:seccomp notify",
        "a seccomp listener",
        "it is not supported; end the supervisor first",
    ),
    (
        "anon_inode:landlock",
        "a landlock ruleset",
        "it is not supported; checkpoint later, once it was applied and closed",
    ),
];

/// Finds the room.
pub(crate) fn kind(file: &Seen, around: &Surroundings) -> Result<Kind, Obstacle> {
    around.view.as_opener(file);
    let shown = file.link.to_string();
    if file.flags() & O_PATH != 0 && shown.starts_with('/') {
        return place(file, &shown, around);
    }
    if !shown.starts_with('/') {
        return nameless(file, &shown, around);
    }
    match file.stat.format() {
        S_IFREG => regular(file, &shown, around),
        S_IFDIR => directory(file, around),
        S_IFIFO => around.reachable(file).map(|()| Kind::Fifo),
        S_IFCHR => device(file, &shown, around),
        S_IFBLK => Err(obstacle(
            format!("the block device {shown}"),
            "raw devices belong to their host; close it first",
        )),
        _ => Err(obstacle(
            format!("{shown}, of a type that is not known"),
            "close it first",
        )),
    }
}

/// What is open as a place only. Of what has no name any more, the thing itself has to travel.
fn place(file: &Seen, shown: &str, around: &Surroundings) -> Result<Kind, Obstacle> {
    if !shown.ends_with(" (deleted)") || file.stat.links > 0 {
        return around.reachable(file).map(|()| Kind::Opath);
    }
    match file.stat.format() {
        S_IFREG if around.is_memfd(file) => Ok(Kind::Memfd),
        S_IFREG => Ok(Kind::Deleted),
        S_IFDIR => Ok(Kind::Directory),
        _ => Err(obstacle(
            format!("{shown}, open as a place only (O_PATH)"),
            "close it first",
        )),
    }
}

fn nameless(file: &Seen, shown: &str, around: &Surroundings) -> Result<Kind, Obstacle> {
    if shown.starts_with("pipe:[") {
        return pipe(file, around);
    }
    if file.stat.format() == S_IFSOCK {
        return Ok(Kind::Socket);
    }
    if let Some((_, kind)) = NAMELESS.iter().find(|(link, _)| shown == *link) {
        match kind {
            Kind::Pidfd => around.own_process(file)?,
            Kind::Inotify => inotify::judge(file, around)?,
            Kind::Fanotify => fanotify::judge(file, around)?,
            _ => (),
        }
        return Ok(kind.clone());
    }
    if let Some((_, what, remedy)) = REFUSED.iter().find(|(link, ..)| shown.starts_with(link)) {
        return Err(obstacle(*what, *remedy));
    }
    if file.filesystem == NSFS {
        if namespace::which(file, around).is_some() {
            return Ok(Kind::Namespace);
        }
        return Err(obstacle(
            format!("a namespace that no task of the container is in ({shown})"),
            "close it first",
        ));
    }
    Err(obstacle(shown, "it is not supported; close it first"))
}

fn pipe(file: &Seen, around: &Surroundings) -> Result<Kind, Obstacle> {
    if !around.leads_outside(file) {
        return Ok(Kind::Pipe);
    }
    match around.stream(file) {
        Some(stream) => Ok(Kind::External(stream)),
        None => Err(obstacle(
            format!("{} whose other end is {}", file.link, around.peer(file)),
            "checkpoint both together, or connect them by standard input and output only",
        )),
    }
}

fn regular(file: &Seen, shown: &str, around: &Surroundings) -> Result<Kind, Obstacle> {
    match file.filesystem {
        PROC | SYSFS | CGROUP | CGROUP2 => {
            around.reachable(file)?;
            return made_up(file, around).map(|()| Kind::Procfile);
        }
        MQUEUE => return mqueue::judge(file, around).map(|()| Kind::Mqueue),
        SECRETMEM => {
            return Err(obstacle(
                "secret memory (memfd_secret)",
                "nobody but the program can read it; close it first",
            ));
        }
        DEBUGFS | TRACEFS => {
            return Err(obstacle(
                shown.to_string(),
                "files for debugging the kernel belong to their host; close it first",
            ));
        }
        _ => (),
    }
    if around.is_memfd(file) {
        return Ok(Kind::Memfd);
    }
    if around.is_outside(file) {
        return match around.stream(file).is_none() && around.is_detached(file) {
            true => Ok(Kind::Deleted),
            false => outside(file, shown, around),
        };
    }
    around.name_of(file).map(|name| match name {
        Some(_) => Kind::Regular,
        None => Kind::Deleted,
    })
}

fn outside(file: &Seen, shown: &str, around: &Surroundings) -> Result<Kind, Obstacle> {
    match around.stream(file) {
        Some(stream) => Ok(Kind::External(stream)),
        None => Err(obstacle(
            format!("{shown}, on a mount that the container does not have"),
            "close it first, or mount it into the container",
        )),
    }
}

/// What the kernel makes up goes with what it is about: a process, for one.
fn made_up(file: &Seen, around: &Surroundings) -> Result<(), Obstacle> {
    let is_there = procfile::of_living(file, around).is_some();
    match is_there || procfile::of_dead(file, around).is_some() {
        true => Ok(()),
        false => Err(obstacle(
            format!("{}, which is gone with what it was about", file.link),
            "close it first",
        )),
    }
}

fn directory(file: &Seen, around: &Surroundings) -> Result<Kind, Obstacle> {
    if around.is_outside(file) {
        return Err(obstacle(
            format!(
                "the directory {}, on a mount that the container does not have",
                file.link
            ),
            "close it first, or mount it into the container",
        ));
    }
    if file.filesystem == PROC {
        made_up(file, around)?;
        if procfile::of_dead(file, around).is_some() {
            return Ok(Kind::Procfile);
        }
    }
    Ok(Kind::Directory)
}

/// Character devices without state (drivers/char/mem.c, random.c): null, zero, full, random, urandom.
const STATELESS: [(u32, u32); 5] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)];
/// `/dev/kmsg`, which has a place for each who reads it, and none for who only writes.
const KMSG: (u32, u32) = (1, 11);

/// Whether a device number is that of one without state.
pub(crate) fn is_stateless(node: (u32, u32)) -> bool {
    STATELESS.contains(&node)
}

/// Whether a device number is a terminal's: virtual consoles and serial lines, `/dev/tty` and `/dev/console`, Unix98
/// pseudoterminals (Documentation/admin-guide/devices.txt).
pub(crate) fn is_terminal(node: (u32, u32)) -> bool {
    matches!(node.0, 4 | 5 | 136..=143)
}

fn device(file: &Seen, shown: &str, around: &Surroundings) -> Result<Kind, Obstacle> {
    let node = file.stat.node;
    let writes_only = file.flags() & O_ACCMODE == O_WRONLY;
    if is_stateless(node) || (node == KMSG && writes_only) {
        return Ok(Kind::Device);
    }
    if node == tun::NODE {
        return tun::judge(file, shown).map(|()| Kind::Tun);
    }
    if is_terminal(node) {
        return around
            .terminals
            .judge(file, !around.is_outside(file))
            .map(|()| Kind::Tty);
    }
    Err(obstacle(
        format!("the device {shown} ({}:{})", node.0, node.1),
        "its driver's state cannot be taken; close it first",
    ))
}
