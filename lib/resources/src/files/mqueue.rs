//! Descriptors of POSIX message queues: opened again by name. The queues themselves are `crate::ipc`'s.

use super::borrowed::Borrowed;
use super::collect::Collector;
use crate::{Error, Result};
use image::files::mqueue::Mqueue;
use image::path::Name;
use kernel::descriptor::{self, O_ACCMODE, O_RDONLY};
use kernel::{Namespace, Pid, mqueue, within};
use std::os::fd::{AsFd, OwnedFd};

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Mqueue> {
    let name = file.link.0.strip_prefix(b"/").unwrap_or(&file.link.0);
    let root = collector.root();
    // Its name may be gone, or another queue's by now, or one of another namespace.
    let found = within(root, &[Namespace::Ipc], || mqueue::open(name, O_RDONLY))?;
    let stat = found.and_then(|queue| descriptor::stat(queue.as_fd()));
    let same =
        |stat: &descriptor::Stat| (stat.device, stat.inode) == (file.stat.device, file.stat.inode);
    match stat {
        Ok(stat) if same(&stat) => Ok(Mqueue {
            name: Name(name.to_vec()),
        }),
        _ => Err(Error::Refused(format!(
            "{}: the message queue {} has no name in the container any more; close it first",
            file.holder, file.link
        ))),
    }
}

/// Opens it.
pub(crate) fn restore(record: &Mqueue, flags: u32, vessel: Pid) -> Result<OwnedFd> {
    let access = flags as i32 & O_ACCMODE;
    let opened = within(vessel, &[Namespace::Ipc], || {
        mqueue::open(&record.name.0, access)
    })?;
    Ok(opened?)
}
