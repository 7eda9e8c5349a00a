//! Descriptors of POSIX message queues: opened again by name, or, where that was removed, through the queue itself. What is in
//! the queues is `crate::ipc`'s.

use super::borrowed::{Borrowed, Seen};
use super::collect::Collector;
use super::kind::{Obstacle, obstacle};
use super::surroundings::Surroundings;
use crate::{Error, Result, Target};
use image::files::mqueue::{Mqueue, Unlinked};
use image::ids::{FileId, NsId, SharedId};
use image::path::Name;
use kernel::descriptor::{self, O_ACCMODE, O_RDONLY, O_RDWR};
use kernel::{Namespace, Pid, mqueue, within};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

/// A queue without a name that was met, to be taken when all processes can be asked.
#[derive(Debug)]
pub(crate) struct Nameless {
    pub id: SharedId,
    pub namespace: Option<NsId>,
    /// The name that it had.
    pub name: Name,
    /// Opened by us, for reading and writing.
    pub queue: OwnedFd,
}

/// Refuses one without a name that somebody outside may fill and empty meanwhile.
pub(crate) fn judge(file: &Seen, around: &Surroundings) -> std::result::Result<(), Obstacle> {
    if file.stat.links > 0 {
        return Ok(());
    }
    match around.shared_with(file) {
        None => Ok(()),
        Some(who) => Err(obstacle(
            format!(
                "the message queue {}, which {who}, outside the container, has open, too",
                file.link
            ),
            "close it there or here first",
        )),
    }
}

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &mut Collector) -> Result<Mqueue> {
    let link = Surroundings::without_deleted(&file.link);
    let name = Name(link.0.strip_prefix(b"/").unwrap_or(&link.0).to_vec());
    let known = collector.around.queues.get(&file.stat.device);
    if file.stat.links == 0 {
        // Of a namespace that nobody is in any more, it is as good as the container's.
        let namespace = known.and_then(|(namespace, _)| *namespace);
        let (id, new) = collector.object(file);
        if new {
            collector.queues.push(Nameless {
                id,
                namespace,
                name: name.clone(),
                queue: descriptor::reopen(file.fd.as_fd(), O_RDWR | descriptor::O_NONBLOCK)?,
            });
        }
        return Ok(Mqueue {
            name,
            namespace,
            unlinked: Some(id),
        });
    }
    let Some((namespace, there)) = known.copied() else {
        return Err(Error::Refused(format!(
            "{}: the message queue {} is of an ipc namespace that no task of the container is in; close it first",
            file.holder, file.link
        )));
    };
    // A name may end as those do that are gone.
    let name = Name(
        file.link
            .0
            .strip_prefix(b"/")
            .unwrap_or(&file.link.0)
            .to_vec(),
    );
    let found = within(there, &[Namespace::Ipc], || mqueue::open(&name.0, O_RDONLY))??;
    let stat = descriptor::stat(found.as_fd())?;
    if (stat.device, stat.inode) != file.key() {
        return Err(Error::Refused(format!(
            "{}: the message queue {} is not found by that name; close it first",
            file.holder, file.link
        )));
    }
    Ok(Mqueue {
        name,
        namespace,
        unlinked: None,
    })
}

/// Who is in the IPC namespace of a queue.
pub(crate) fn vessel(namespace: Option<NsId>, target: &Target) -> Result<Pid> {
    let Some(id) = namespace else {
        return Ok(target.root_pid);
    };
    target.inners.pid(id).ok_or_else(|| {
        Error::Refused(format!(
            "the image has a message queue open in namespace {}, which is not in it",
            id.0
        ))
    })
}

/// Opens one that has a name.
pub(crate) fn restore(record: &Mqueue, flags: u32, target: &Target) -> Result<OwnedFd> {
    let access = flags as i32 & O_ACCMODE;
    let there = vessel(record.namespace, target)?;
    let opened = within(there, &[Namespace::Ipc], || {
        mqueue::open(&record.name.0, access)
    })?;
    Ok(opened?)
}

/// Makes one that has none, opened as often as these open files say. Opened by way of `/proc` they would show `O_LARGEFILE`,
/// which mq_open(3) does not.
pub(crate) fn restore_unlinked(
    record: &Unlinked,
    there: Pid,
    files: Vec<(FileId, u32)>,
) -> Result<HashMap<FileId, OwnedFd>> {
    within(there, &[Namespace::Ipc], || {
        let (made, name) = crate::ipc::restore_unnamed(&record.queue)?;
        let open = |(id, flags): &(FileId, u32)| {
            let access = *flags as i32 & O_ACCMODE;
            Ok((*id, mqueue::open(&name, access)?))
        };
        let opened = files.iter().map(open).collect();
        mqueue::unlink(&name)?;
        drop(made);
        opened
    })?
}
