//! Timer descriptors.

use super::borrowed::Borrowed;
use crate::Result;
use image::files::timerfd::Timerfd;
use kernel::event::{
    self, CLOCK_REALTIME, CLOCK_REALTIME_ALARM, TIMER_ABSTIME, TIMER_CANCEL_ON_SET,
};
use kernel::proc::Proc;
use kernel::proc::fdinfo::{self, Timer};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How often a timer is looked at that expires while it is.
const LOOKS: usize = 20;

/// Takes one.
pub(crate) fn dump(file: &Borrowed) -> Result<Timerfd> {
    let timer = counted(file)?;
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

/// All expirations and what remains until the next: of a timer with an interval that has expired and was not read, the
/// kernel shows one only.
fn counted(file: &Borrowed) -> Result<Timer> {
    let mut timer = file.fdinfo.timerfd()?;
    for _ in 0..LOOKS {
        if timer.interval == 0 || timer.remaining != 0 || timer.ticks == 0 {
            break;
        }
        event::count(file.fd.as_fd())?;
        let shown =
            Proc::process(file.holder.pid).text(&format!("fdinfo/{}", file.holder.number))?;
        timer = fdinfo::parse(&shown)?.timerfd()?;
    }
    Ok(timer)
}

/// Makes one that is not armed.
pub(crate) fn restore(record: &Timerfd) -> Result<OwnedFd> {
    Ok(event::timerfd(record.clock)?)
}

/// Arms it: the time it has left begins to run when the container does, but a point in time comes when it comes.
pub(crate) fn resume(record: &Timerfd, fd: BorrowedFd) -> Result<()> {
    let flags = record.flags & (TIMER_ABSTIME | TIMER_CANCEL_ON_SET);
    let absolute = flags & TIMER_ABSTIME != 0;
    let (first, ticks) = match record.deadline {
        Some(deadline) if absolute => due(record, deadline, event::now(CLOCK_REALTIME)?),
        _ if record.remaining == 0 => (0, record.ticks),
        _ if absolute => {
            let first = event::now(record.clock)?.saturating_add(record.remaining);
            (first, record.ticks)
        }
        _ => (record.remaining, record.ticks),
    };
    if first != 0 {
        event::arm(fd, flags, first, record.interval)?;
        if ticks != 0 {
            event::set_ticks(fd, ticks)?;
        }
    } else if ticks != 0 && record.interval != 0 {
        // Expired, and started again only when it is read (fs/timerfd.c, timerfd_read): let it expire at once.
        event::arm(fd, 0, 1, record.interval)?;
        if ticks > 1 {
            event::set_ticks(fd, ticks)?;
        }
    } else if ticks != 0 {
        event::set_ticks(fd, ticks)?;
    }
    Ok(())
}

/// When one with an interval is due next, and how often it was by then: what expires before its ticks are set would be
/// lost with them.
fn due(record: &Timerfd, deadline: u64, now: u64) -> (u64, u64) {
    let missed = match now.checked_sub(deadline) {
        Some(late) if record.interval != 0 => (late / record.interval).saturating_add(1),
        _ => 0,
    };
    let first = deadline.saturating_add(missed.saturating_mul(record.interval));
    (first, record.ticks.saturating_add(missed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_on_the_way_is_counted() {
        let mut timer = Timerfd {
            clock: CLOCK_REALTIME,
            ticks: 2,
            flags: TIMER_ABSTIME,
            remaining: 5,
            deadline: Some(100),
            interval: 10,
        };
        assert_eq!(due(&timer, 100, 99), (100, 2));
        assert_eq!(due(&timer, 100, 100), (110, 3));
        assert_eq!(due(&timer, 100, 129), (130, 5));
        timer.interval = 0;
        assert_eq!(due(&timer, 100, 129), (100, 2));
        timer.interval = 1;
        assert_eq!(due(&timer, 0, u64::MAX), (u64::MAX, u64::MAX));
    }
}
