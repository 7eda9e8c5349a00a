//! Fifos: opened at both ends on our side, so that nothing waits, and filled like pipes.

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::spare_name;
use super::surroundings::Surroundings;
use crate::{Error, Result};
use image::files::fifo::Fifo;
use kernel::descriptor::{self, O_NONBLOCK, O_RDWR, S_IFIFO};
use kernel::open::Root;
use std::os::fd::{AsFd, OwnedFd};

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &mut Collector) -> Result<Fifo> {
    let pipe = collector.pipe(file)?;
    let around = &collector.around;
    let path = around.inside(&file.link);
    let path =
        path.ok_or_else(|| Error::Refused(format!("{}: {} is outside", file.holder, file.link)))?;
    let deleted = !around.leads_to(&path, file.stat.device, file.stat.inode);
    Ok(Fifo {
        pipe,
        path: match deleted {
            true => Surroundings::without_deleted(&path),
            false => path,
        },
        deleted,
        mode: file.stat.permissions(),
    })
}

/// The fifo itself, open for both: kept until the last end is.
pub(crate) fn both(record: &Fifo, root: &Root) -> Result<OwnedFd> {
    let path = record.path.as_path();
    if !record.deleted {
        super::expect(root, path, S_IFIFO, "a fifo")?;
        return Ok(root.open(path, O_RDWR | O_NONBLOCK)?);
    }
    let (path, fd) = spare_name(path, |path| {
        root.mkfifo(path, record.mode)?;
        root.open(path, O_RDWR | O_NONBLOCK)
    })?;
    root.remove(&path, false)?;
    Ok(fd)
}

/// Opens an end.
pub(crate) fn restore(flags: u32, both: &OwnedFd) -> Result<OwnedFd> {
    let access = flags as i32 & descriptor::O_ACCMODE;
    Ok(descriptor::reopen(both.as_fd(), access | O_NONBLOCK)?)
}
