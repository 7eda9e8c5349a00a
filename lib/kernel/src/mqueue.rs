//! POSIX message queues (mq_overview(7)): those of the calling thread's IPC namespace.

use crate::error::{Named, check};
use crate::{Error, Pid, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// A queue as the file system of queues lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, without the slash.
    pub name: Vec<u8>,
    /// Who waits to be told of the next message (mq_notify(3)).
    pub notifies: Option<Noticed>,
}

/// Who is told of the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noticed {
    /// The process.
    pub pid: Pid,
    /// How.
    pub kind: Kind,
    /// By which signal.
    pub signal: i32,
}

/// `sigev_notify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `SIGEV_SIGNAL`.
    Signal = 0,
    /// `SIGEV_NONE`.
    Nothing = 1,
    /// `SIGEV_THREAD`, which to the kernel means a netlink socket.
    Thread = 2,
}

/// Bytes of the message to such a socket (`NOTIFY_COOKIE_LEN`, include/uapi/linux/mqueue.h).
pub const COOKIE: usize = 32;
/// Bytes of a `struct sigevent`.
pub const EVENT: usize = 64;

/// A `struct sigevent`: the value, the signal or the socket, the kind.
pub fn event(value: u64, signal: i32, kind: Kind) -> [u8; EVENT] {
    let mut event = [0; EVENT];
    let words = [
        value.to_ne_bytes().as_slice(),
        &signal.to_ne_bytes(),
        &(kind as i32).to_ne_bytes(),
    ]
    .concat();
    for (to, from) in event.iter_mut().zip(words) {
        *to = from;
    }
    event
}

/// What a queue can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Most messages.
    pub messages: i64,
    /// Most bytes of one.
    pub bytes: i64,
    /// Messages in it now.
    pub waiting: i64,
}

/// Where the file system of queues is looked at.
const PLACE: &str = "/dev";

/// Mounts the file system of queues, in a mount namespace that nobody else sees.
fn mounted() -> Result<()> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
        .named(|| "unshare the mount namespace of a thread".into())?;
    let (none, kind) = (None::<&str>, Some("mqueue"));
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).named(|| "make all mounts private".into())?;
    mount(kind, PLACE, kind, MsFlags::empty(), none).named(|| "mount an mqueue".into())
}

/// The device number that all queues of the namespace have. For a thread of its own, as [`list`].
pub fn device() -> Result<u64> {
    mounted()?;
    let found = nix::sys::stat::stat(PLACE).named(|| "stat an mqueue".into())?;
    Ok(found.st_dev)
}

/// Who waits to be told of the next message in an open queue.
pub fn noticed(queue: BorrowedFd) -> Result<Option<Noticed>> {
    let mut text = [0; 256];
    let length = nix::sys::uio::pread(queue, &mut text, 0).named(|| "read a queue".into())?;
    Ok(notifies(&String::from_utf8_lossy(
        text.get(..length).unwrap_or_default(),
    )))
}

/// Removes the name of a queue.
pub fn unlink(name: &[u8]) -> Result<()> {
    let path = slash(name)?;
    // SAFETY: the path is a NUL-terminated string.
    let result = unsafe { libc::mq_unlink(path.as_ptr()) };
    check(result.into(), || {
        format!(
            "remove the message queue /{}",
            String::from_utf8_lossy(name)
        )
    })
    .map(drop)
}

/// Lists all queues. The calling thread leaves its mount namespace: for a thread of its own ([`crate::within`]).
pub fn list() -> Result<Vec<Listed>> {
    mounted()?;
    let fail = |e: std::io::Error| Error::io("list message queues", &e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(PLACE).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let text = std::fs::read_to_string(entry.path()).map_err(fail)?;
        found.push(Listed {
            name: entry.file_name().into_vec(),
            notifies: notifies(&text),
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// `QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260`, the numbers filled up with spaces.
fn notifies(text: &str) -> Option<Noticed> {
    let number = |key: &str| {
        let mut words = text.split_whitespace();
        words.find_map(|word| word.strip_prefix(key))?.parse().ok()
    };
    let pid = number("NOTIFY_PID:").filter(|pid| *pid != 0)?;
    Some(Noticed {
        pid,
        kind: match number("NOTIFY:")? {
            0 => Kind::Signal,
            1 => Kind::Nothing,
            _ => Kind::Thread,
        },
        signal: number("SIGNO:")?,
    })
}

fn slash(name: &[u8]) -> Result<CString> {
    CString::new([b"/", name].concat())
        .map_err(|_| Error::unreadable("the name of a message queue", "a NUL byte in it"))
}

fn opened(result: libc::c_int, name: &[u8]) -> Result<OwnedFd> {
    let what = || format!("open the message queue /{}", String::from_utf8_lossy(name));
    let fd = check(result.into(), what)?;
    // SAFETY: the descriptor was just made, and is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Opens a queue, with `O_*` flags; receiving and sending never wait.
pub fn open(name: &[u8], flags: i32) -> Result<OwnedFd> {
    let path = slash(name)?;
    let flags = flags | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the path is a NUL-terminated string, and without O_CREAT there are no more arguments.
    opened(unsafe { libc::mq_open(path.as_ptr(), flags) }, name)
}

/// Makes a queue that is not there yet.
pub fn create(name: &[u8], attributes: Attributes) -> Result<OwnedFd> {
    let path = slash(name)?;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mode: libc::mode_t = 0o600;
    // SAFETY: all fields are integers, for which zeros are a value.
    let mut wanted: libc::mq_attr = unsafe { std::mem::zeroed() };
    wanted.mq_maxmsg = attributes.messages;
    wanted.mq_msgsize = attributes.bytes;
    // SAFETY: the path is a NUL-terminated string; with O_CREAT a mode and the attributes follow, which outlive the call.
    opened(
        unsafe { libc::mq_open(path.as_ptr(), flags, mode, &wanted) },
        name,
    )
}

/// What a queue can hold, and how much is in it.
pub fn attributes(queue: BorrowedFd) -> Result<Attributes> {
    // SAFETY: all fields are integers, for which zeros are a value; the struct outlives the call, which fills it.
    let (result, found) = unsafe {
        let mut found: libc::mq_attr = std::mem::zeroed();
        (libc::mq_getattr(queue.as_raw_fd(), &mut found), found)
    };
    check(result.into(), || "mq_getattr".into())?;
    Ok(Attributes {
        messages: found.mq_maxmsg,
        bytes: found.mq_msgsize,
        waiting: found.mq_curmsgs,
    })
}

/// Takes the next message, with its priority; none where the queue is empty. The buffer must hold the longest there is.
pub fn receive(queue: BorrowedFd, buffer: &mut [u8]) -> Result<Option<(Vec<u8>, u32)>> {
    let mut priority = 0;
    // SAFETY: buffer and priority outlive the call, which writes at most as many bytes as the buffer has.
    let length = unsafe {
        libc::mq_receive(
            queue.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            &mut priority,
        )
    };
    match check(length as i64, || "mq_receive".into()) {
        Ok(length) => Ok(Some((buffer[..length as usize].to_vec(), priority))),
        Err(e) if e.raw() == Some(libc::EAGAIN) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts a message behind those of its priority.
pub fn send(queue: BorrowedFd, message: &[u8], priority: u32) -> Result<()> {
    // SAFETY: the message outlives the call, which reads as many bytes as it has.
    let result = unsafe {
        libc::mq_send(
            queue.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            priority,
        )
    };
    check(result.into(), || "mq_send".into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn who_waits_to_be_told_is_seen() {
        let text = |how: i32, signal: i32, pid: i32| {
            format!("QSIZE:129        NOTIFY:{how}     SIGNO:{signal}     NOTIFY_PID:{pid:<6}\n")
        };
        assert_eq!(notifies(&text(0, 0, 0)), None);
        let found = notifies(&text(0, 10, 8260)).unwrap();
        assert_eq!(
            (found.pid, found.kind, found.signal),
            (8260, Kind::Signal, 10)
        );
        let found = notifies(&text(2, 0, 8260)).unwrap();
        assert_eq!((found.pid, found.kind), (8260, Kind::Thread));
    }

    #[test]
    fn an_event_is_laid_out_as_the_kernel_reads_it() {
        let event = event(0x1122, 10, Kind::Thread);
        assert_eq!(event[..2], [0x22, 0x11]);
        assert_eq!((event[8], event[12], event[16]), (10, 2, 0));
    }

    #[test]
    fn queues_are_listed_and_keep_their_order() {
        let work = || {
            unshare(CloneFlags::CLONE_NEWIPC).unwrap();
            let limits = Attributes {
                messages: 4,
                bytes: 64,
                waiting: 0,
            };
            let queue = create(b"one", limits).unwrap();
            for (message, priority) in [("low", 1), ("first", 7), ("second", 7), ("", 0)] {
                send(queue.as_fd(), message.as_bytes(), priority).unwrap();
            }
            assert!(send(queue.as_fd(), b"too many", 1).is_err());
            assert_eq!(
                attributes(queue.as_fd()).unwrap(),
                Attributes {
                    waiting: 4,
                    ..limits
                }
            );
            let again = open(b"one", libc::O_RDONLY).unwrap();
            let mut buffer = [0; 64];
            let mut next = || receive(again.as_fd(), &mut buffer).unwrap();
            assert_eq!(next(), Some((b"first".to_vec(), 7)));
            assert_eq!(next(), Some((b"second".to_vec(), 7)));
            assert_eq!(next(), Some((b"low".to_vec(), 1)));
            assert_eq!(next(), Some((Vec::new(), 0)));
            assert_eq!(next(), None);
            let name = b"one".to_vec();
            assert_eq!(
                list().unwrap(),
                [Listed {
                    name,
                    notifies: None
                }]
            );
        };
        std::thread::spawn(work).join().unwrap();
    }
}
