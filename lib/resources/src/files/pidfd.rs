//! Process descriptors.

use super::borrowed::Borrowed;
use super::collect::Collector;
use crate::{Error, Result, Target};
use image::files::pidfd::Pidfd;
use kernel::event;
use std::os::fd::OwnedFd;

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Pidfd> {
    let pid = match file.fdinfo.pidfd()? {
        None => None,
        Some(ours) => Some(collector.source.inside(ours).ok_or_else(|| {
            Error::Refused(format!(
                "{}: a descriptor of process {ours}, which is outside the container; close it first",
                file.holder
            ))
        })?),
    };
    Ok(Pidfd { pid })
}

/// Makes one.
pub(crate) fn restore(record: &Pidfd, flags: u32, target: &Target) -> Result<OwnedFd> {
    let thread = flags as i32 & event::PIDFD_THREAD != 0;
    match record.pid {
        None => Ok(event::pidfd_of_the_dead()?),
        Some(inside) => Ok(event::pidfd(super::ours(inside, target)?, thread)?),
    }
}
