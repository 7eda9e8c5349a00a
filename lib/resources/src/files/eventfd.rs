//! Event counters.

use super::borrowed::Borrowed;
use crate::Result;
use image::files::eventfd::Eventfd;
use kernel::event;
use std::os::fd::OwnedFd;

/// Takes one.
pub(crate) fn dump(file: &Borrowed) -> Result<Eventfd> {
    let (count, semaphore) = file.fdinfo.eventfd()?;
    let semaphore = semaphore.ok_or_else(|| kernel::Error::Unsupported {
        what: format!(
            "{}: this kernel does not tell whether an eventfd is a semaphore; Linux 6.5 does",
            file.holder
        ),
    })?;
    Ok(Eventfd { count, semaphore })
}

/// Makes one.
pub(crate) fn restore(record: &Eventfd) -> Result<OwnedFd> {
    Ok(event::eventfd(record.count, record.semaphore)?)
}
