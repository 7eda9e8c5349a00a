//! POSIX message queues of an IPC namespace of its own. There is no way to look at a message but to receive it: while all
//! stand still, the messages are taken out and put back in the same order.

pub mod notices;
pub mod sysv;

use crate::namespaces::is_own;
use crate::{Blocker, Result, Source, files};
use image::files::mqueue::Unlinked;
use image::ipc::notices::Notice;
use image::ipc::{Message, Queue, Queues};
use image::namespaces::nested::{Content, Nested};
use image::path::Name;
use kernel::mqueue::{self, Attributes, Noticed};
use kernel::{Namespace, Pid, descriptor, namespaces::Kind, within};
use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown};
use notices::Waiting;
use std::os::fd::{AsFd, OwnedFd};

/// Takes all queues of the frozen container with this root process; none where it shares the host's.
pub fn dump(root: Pid, source: &mut Source) -> Result<Queues> {
    match is_own(root, Kind::Ipc)? {
        true => of(root, source),
        false => Ok(Queues::default()),
    }
}

/// Adds those of the IPC namespaces inside the container.
pub fn dump_inner(nested: &mut Nested, source: &mut Source) -> Result<()> {
    for (id, there, _) in source.sights.queues.clone() {
        let found = of(there, source)?;
        let inner = nested.namespaces.iter_mut().find(|inner| inner.id == id);
        if let Some(Content::Ipc { queues, .. }) = inner.map(|inner| &mut inner.content) {
            *queues = found;
        }
    }
    Ok(())
}

/// Adds those without a name, which were met among the open files.
pub fn dump_unlinked(files: &mut files::Taken, source: &mut Source) -> Result<()> {
    for met in std::mem::take(&mut files.queues) {
        let noticed = mqueue::noticed(met.queue.as_fd())?;
        files.record.queues.push(Unlinked {
            id: met.id,
            namespace: met.namespace,
            queue: take(&met.queue, &met.name.0, noticed, source)?,
        });
    }
    Ok(())
}

fn of(there: Pid, source: &mut Source) -> Result<Queues> {
    let mut queues = Vec::new();
    for listed in within(there, &[Namespace::Ipc], mqueue::list)?? {
        let name = listed.name.as_slice();
        let open = || mqueue::open(name, descriptor::O_RDWR);
        let queue = within(there, &[Namespace::Ipc], open)??;
        queues.push(take(&queue, name, listed.notifies, source)?);
    }
    Ok(Queues { queues })
}

fn take(
    queue: &OwnedFd,
    name: &[u8],
    noticed: Option<Noticed>,
    source: &mut Source,
) -> Result<Queue> {
    let mut waiting = match noticed {
        None => None,
        Some(noticed) => Some(Waiting::find(source, queue.as_fd(), name, noticed)?),
    };
    let limits = mqueue::attributes(queue.as_fd())?;
    let stat = fstat(queue).map_err(|e| failed("fstat", name, e))?;
    let (messages, notice) = messages(queue, limits, waiting.as_mut())?;
    Ok(Queue {
        name: Name(name.to_vec()),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        most: limits.messages,
        size: limits.bytes,
        messages,
        notice,
    })
}

/// What is in a queue, and is in it again afterwards, whatever goes wrong in between; and what who waits for the next message
/// is told by it.
fn messages(
    queue: &OwnedFd,
    limits: Attributes,
    waiting: Option<&mut Waiting>,
) -> Result<(Vec<Message>, Option<Notice>)> {
    let mut buffer = vec![0; usize::try_from(limits.bytes).unwrap_or(0)];
    let mut taken = Vec::new();
    let drained = loop {
        match mqueue::receive(queue.as_fd(), &mut buffer) {
            Ok(Some((content, priority))) => taken.push(Message {
                priority,
                content: content.into(),
            }),
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    let notice = match waiting {
        None => fill(queue, &taken).map(|()| None)?,
        Some(waiting) => {
            // By its first message, or one that nobody else will see.
            let first = taken.first();
            let (content, priority) = first.map_or((&[][..], 0), |m| (&m.content.0, m.priority));
            let told = waiting.told(|| Ok(mqueue::send(queue.as_fd(), content, priority)?));
            let sent = mqueue::attributes(queue.as_fd())?.waiting > 0;
            match taken.split_first() {
                Some((_, rest)) if sent => fill(queue, rest)?,
                Some(_) => fill(queue, &taken)?,
                None => drop(mqueue::receive(queue.as_fd(), &mut buffer)?),
            }
            let notice = told?;
            waiting.again(&notice)?;
            Some(notice)
        }
    };
    drained?;
    Ok((taken, notice))
}

fn fill(queue: &OwnedFd, messages: &[Message]) -> Result<()> {
    for message in messages {
        mqueue::send(queue.as_fd(), &message.content.0, message.priority)?;
    }
    Ok(())
}

/// Makes the queues in the vessel whose first process this is.
pub fn restore(vessel: Pid, record: &Queues) -> Result<()> {
    within(vessel, &[Namespace::Ipc], || {
        record.queues.iter().try_for_each(|queue| {
            let made = mqueue::create(&queue.name.0, limits(queue))?;
            prepare(&made, queue)
        })
    })?
}

/// Makes a queue in the calling thread's namespace that is to have no name: for the moment by that which it had, where that is
/// free.
pub(crate) fn restore_unnamed(record: &Queue) -> Result<(OwnedFd, Vec<u8>)> {
    let mut name = record.name.0.clone();
    for attempt in 1..ATTEMPTS {
        match mqueue::create(&name, limits(record)) {
            Err(e) if e.raw() == Some(libc::EEXIST) => {
                name = format!("ferry-{}-{attempt}", std::process::id()).into_bytes();
            }
            made => {
                let made = made?;
                if let Err(error) = prepare(&made, record) {
                    let _ = mqueue::unlink(&name);
                    return Err(error);
                }
                return Ok((made, name));
            }
        }
    }
    Err(failed("make", &name, Errno::EEXIST))
}

/// How many names are tried for a queue that is to have none.
const ATTEMPTS: u32 = 100;

fn limits(record: &Queue) -> Attributes {
    Attributes {
        messages: record.most,
        bytes: record.size,
        waiting: 0,
    }
}

fn prepare(queue: &OwnedFd, record: &Queue) -> Result<()> {
    let name = &record.name.0;
    let owner = (Uid::from_raw(record.uid), Gid::from_raw(record.gid));
    fchown(queue, Some(owner.0), Some(owner.1)).map_err(|e| failed("owner", name, e))?;
    let mode = Mode::from_bits_truncate(record.mode);
    fchmod(queue, mode).map_err(|e| failed("mode", name, e))?;
    fill(queue, &record.messages)
}

/// Queues of an IPC namespace of the container's, its own or one inside it, of which somebody waits to be told who cannot be
/// asked for what.
pub fn blockers(there: Pid, processes: &[Pid]) -> Result<Vec<Blocker>> {
    found(there, |noticed, name| {
        notices::judge(noticed, name, processes)
    })
}

/// The same where the namespace is the host's: those that wait and are among `processes`.
pub fn blockers_of(root: Pid, processes: &[Pid]) -> Result<Vec<Blocker>> {
    let mut found = found(root, |noticed, name| Some(notices::waits(noticed, name)))?;
    found.retain(|blocker| processes.contains(&blocker.pid));
    Ok(found)
}

fn found(
    pid: Pid,
    judge: impl Fn(&mqueue::Noticed, &[u8]) -> Option<Blocker>,
) -> Result<Vec<Blocker>> {
    let listed = within(pid, &[Namespace::Ipc], mqueue::list)??;
    let waited_for = listed.iter();
    Ok(waited_for
        .filter_map(|queue| judge(queue.notifies.as_ref()?, &queue.name))
        .collect())
}

fn failed(what: &str, name: &[u8], errno: Errno) -> crate::Error {
    let what = format!("{what} of the message queue /{}", Name(name.to_vec()));
    kernel::Error::errno(what, errno as i32).into()
}
