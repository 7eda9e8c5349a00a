//! Signal descriptors.

use super::borrowed::Borrowed;
use crate::Result;
use image::files::signalfd::Signalfd;
use kernel::event;
use std::os::fd::OwnedFd;

/// Takes one.
pub(crate) fn dump(file: &Borrowed) -> Result<Signalfd> {
    Ok(Signalfd {
        mask: file.fdinfo.signalfd()?,
    })
}

/// Makes one: it gives whoever reads it that reader's own signals, whoever made it (signalfd(2)).
pub(crate) fn restore(record: &Signalfd) -> Result<OwnedFd> {
    Ok(event::signalfd(record.mask)?)
}
