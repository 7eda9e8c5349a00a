//! POSIX message queues of an IPC namespace of its own. There is no way to look at a message but to receive it: while all
//! stand still, the messages are taken out and put back in the same order.

pub mod sysv;

use crate::namespaces::is_own;
use crate::{Blocker, Result};
use image::ipc::{Message, Queue, Queues};
use image::path::Name;
use kernel::mqueue::{self, Attributes};
use kernel::{Namespace, Pid, descriptor, namespaces::Kind, within};
use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown};
use std::os::fd::{AsFd, OwnedFd};

/// Takes all queues of the frozen container with this root process; none where it shares the host's.
pub fn dump(root: Pid) -> Result<Queues> {
    let mut queues = Vec::new();
    if is_own(root, Kind::Ipc)? {
        for listed in within(root, &[Namespace::Ipc], mqueue::list)?? {
            queues.push(within(root, &[Namespace::Ipc], || take(&listed.name))??);
        }
    }
    Ok(Queues { queues })
}

fn take(name: &[u8]) -> Result<Queue> {
    let queue = mqueue::open(name, descriptor::O_RDWR)?;
    let limits = mqueue::attributes(queue.as_fd())?;
    let stat = fstat(&queue).map_err(|e| failed("fstat", name, e))?;
    Ok(Queue {
        name: Name(name.to_vec()),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        most: limits.messages,
        size: limits.bytes,
        messages: messages(&queue, limits)?,
    })
}

/// What is in a queue, and is in it again afterwards, whatever goes wrong in between.
fn messages(queue: &OwnedFd, limits: Attributes) -> Result<Vec<Message>> {
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
    fill(queue, &taken)?;
    drained?;
    Ok(taken)
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

/// Queues of which a process waits to be told of the next message: the kernel does not say what value goes with it. All of
/// the ipc namespace that this process is in.
pub fn blockers(root: Pid) -> Result<Vec<Blocker>> {
    let listed = within(root, &[Namespace::Ipc], mqueue::list)??;
    let waited_for = listed.into_iter().filter_map(|queue| {
        Some(Blocker {
            pid: queue.notifies?,
            place: format!("message queue /{}", Name(queue.name)),
            what: "it waits to be told of the next message (mq_notify)".into(),
            remedy: "take the container when it has been told, or have it wait in mq_receive"
                .into(),
        })
    });
    Ok(waited_for.collect())
}

/// The same where the ipc namespace is the host's: those that wait and are among `processes`.
pub fn blockers_of(root: Pid, processes: &[Pid]) -> Result<Vec<Blocker>> {
    let mut found = blockers(root)?;
    found.retain(|blocker| processes.contains(&blocker.pid));
    Ok(found)
}

fn failed(what: &str, name: &[u8], errno: Errno) -> crate::Error {
    let what = format!("{what} of the message queue /{}", Name(name.to_vec()));
    kernel::Error::errno(what, errno as i32).into()
}
