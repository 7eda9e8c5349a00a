//! POSIX message queues of an IPC namespace of its own. There is no way to look at a message but to receive it: while all
//! stand still, the messages are taken out and put back in the same order.

pub mod notices;
pub mod sysv;

use crate::namespaces::is_own;
use crate::{Blocker, Error, Result, Source};
use image::ipc::notices::Notice;
use image::ipc::{Message, Queue, Queues};
use image::path::Name;
use kernel::mqueue::{self, Attributes, Listed};
use kernel::{Namespace, Pid, descriptor, namespaces::Kind, within};
use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown};
use notices::Waiting;
use std::os::fd::{AsFd, OwnedFd};

/// Takes all queues of the frozen container with this root process; none where it shares the host's.
pub fn dump(root: Pid, source: &mut Source) -> Result<Queues> {
    let mut queues = Vec::new();
    if is_own(root, Kind::Ipc)? {
        for listed in within(root, &[Namespace::Ipc], mqueue::list)?? {
            queues.push(take(root, listed, Some(&mut *source))?);
        }
    }
    Ok(Queues { queues })
}

/// The same of an IPC namespace inside the container, where nobody waits to be told.
pub fn dump_inner(pid: Pid) -> Result<Queues> {
    let listed = within(pid, &[Namespace::Ipc], mqueue::list)??;
    let queues = listed.into_iter().map(|listed| take(pid, listed, None));
    Ok(Queues {
        queues: queues.collect::<Result<_>>()?,
    })
}

fn take(pid: Pid, listed: Listed, source: Option<&mut Source>) -> Result<Queue> {
    let name = listed.name.as_slice();
    let open = || mqueue::open(name, descriptor::O_RDWR);
    let queue = within(pid, &[Namespace::Ipc], open)??;
    let mut waiting = match (listed.notifies, source) {
        (None, _) => None,
        (Some(noticed), Some(source)) => Some(Waiting::find(source, queue.as_fd(), name, noticed)?),
        (Some(noticed), None) => return Err(Error::Blocked(vec![notices::waits(&noticed, name)])),
    };
    let limits = mqueue::attributes(queue.as_fd())?;
    let stat = fstat(&queue).map_err(|e| failed("fstat", name, e))?;
    let (messages, notice) = messages(&queue, limits, waiting.as_mut())?;
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
            mqueue::send(queue.as_fd(), content, priority)?;
            let notice = waiting.learn();
            match taken.split_first() {
                Some((_, rest)) => fill(queue, rest)?,
                None => drop(mqueue::receive(queue.as_fd(), &mut buffer)?),
            }
            let notice = notice?;
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
        record.queues.iter().try_for_each(make)
    })?
}

fn make(record: &Queue) -> Result<()> {
    let name = &record.name.0;
    let limits = Attributes {
        messages: record.most,
        bytes: record.size,
        waiting: 0,
    };
    let queue = mqueue::create(name, limits)?;
    let owner = (Uid::from_raw(record.uid), Gid::from_raw(record.gid));
    fchown(&queue, Some(owner.0), Some(owner.1)).map_err(|e| failed("owner", name, e))?;
    let mode = Mode::from_bits_truncate(record.mode);
    fchmod(&queue, mode).map_err(|e| failed("mode", name, e))?;
    fill(&queue, &record.messages)
}

/// Queues of an IPC namespace of the container's own of which somebody waits to be told who cannot be asked for what.
pub fn blockers(root: Pid, processes: &[Pid]) -> Result<Vec<Blocker>> {
    found(root, |noticed, name| {
        notices::judge(noticed, name, processes)
    })
}

/// Those of which anybody waits to be told: in an IPC namespace inside the container.
pub fn blockers_inner(pid: Pid) -> Result<Vec<Blocker>> {
    found(pid, |noticed, name| Some(notices::waits(noticed, name)))
}

/// The same where the namespace is the host's: those that wait and are among `processes`.
pub fn blockers_of(root: Pid, processes: &[Pid]) -> Result<Vec<Blocker>> {
    let mut found = blockers_inner(root)?;
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
