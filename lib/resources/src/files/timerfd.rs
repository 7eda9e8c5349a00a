//! Timer descriptors.

use super::borrowed::Borrowed;
use crate::Result;
use image::files::timerfd::Timerfd;
use kernel::event::{
    self, CLOCK_REALTIME, CLOCK_REALTIME_ALARM, TIMER_ABSTIME, TIMER_CANCEL_ON_SET,
};
use std::os::fd::{BorrowedFd, OwnedFd};

/// Takes one.
pub(crate) fn dump(file: &Borrowed) -> Result<Timerfd> {
    let timer = file.fdinfo.timerfd()?;
    let shared = matches!(timer.clock, CLOCK_REALTIME | CLOCK_REALTIME_ALARM);
    let point = shared && timer.flags & TIMER_ABSTIME != 0 && timer.remaining != 0;
    let deadline = match point {
        true => Some(event::now(CLOCK_REALTIME)?.saturating_add(timer.remaining)),
        false => None,
    };
    Ok(Timerfd {
        clock: timer.clock,
        ticks: timer.ticks,
        flags: timer.flags,
        remaining: timer.remaining,
        deadline,
        interval: timer.interval,
    })
}

/// Makes one that is not armed.
pub(crate) fn restore(record: &Timerfd) -> Result<OwnedFd> {
    Ok(event::timerfd(record.clock)?)
}

/// Arms it: the time it has left begins to run when the container does.
pub(crate) fn resume(record: &Timerfd, fd: BorrowedFd) -> Result<()> {
    let flags = record.flags & (TIMER_ABSTIME | TIMER_CANCEL_ON_SET);
    let absolute = flags & TIMER_ABSTIME != 0;
    let first = match record.deadline {
        Some(deadline) if absolute => deadline,
        _ if record.remaining == 0 => 0,
        _ if absolute => event::now(record.clock)?.saturating_add(record.remaining),
        _ => record.remaining,
    };
    if first != 0 {
        event::arm(fd, flags, first, record.interval)?;
        if record.ticks != 0 {
            event::set_ticks(fd, record.ticks)?;
        }
    } else if record.ticks != 0 && record.interval != 0 {
        // Expired, and started again only when it is read (fs/timerfd.c, timerfd_read): let it expire at once.
        event::arm(fd, 0, 1, record.interval)?;
        if record.ticks > 1 {
            event::set_ticks(fd, record.ticks)?;
        }
    } else if record.ticks != 0 {
        event::set_ticks(fd, record.ticks)?;
    }
    Ok(())
}
