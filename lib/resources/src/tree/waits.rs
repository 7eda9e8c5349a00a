//! What remains of the time for which a thread waits. The kernel shows running timers, but not whose they are: the one that
//! is gone after the thread was stopped was its own. What a stop ended with `EINTR` is to go on with that much time, too.

use crate::Result;
use image::threads::Wait;
use kernel::arch::{self, Registers};
use kernel::proc::Proc;
use kernel::proc::timer_list::{self, Timers};
use kernel::ptrace::Stopped;
use kernel::vm;
use std::time::{Duration, Instant};

/// `io_pgetevents(2)`, `epoll_pwait2(2)` (arch/x86/entry/syscalls/syscall_64.tbl).
const SYS_IO_PGETEVENTS: i64 = 333;
const SYS_EPOLL_PWAIT2: i64 = 441;
/// `NSEC_PER_SEC`, and per millisecond.
const SECOND: i64 = 1_000_000_000;
const MILLISECOND: i64 = 1_000_000;
/// The most that a timer of poll and its like may be late by (fs/select.c, `MAX_SLACK`).
const MAX_SLACK: i64 = 100 * MILLISECOND;
/// How far below the stack pointer nobody's memory is, even while a small signal handler runs.
const DEPTH: u64 = 12 << 10;
/// How much code before and behind a call is looked at.
const CODE: u64 = 64;

/// Where a call has its relative timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timeout {
    /// In this argument, in milliseconds.
    Milliseconds(usize),
    /// In a `struct timespec` that this argument points to.
    Timespec(usize),
    /// The same, and its timer may be late by some part of it (fs/select.c, `select_estimate_accuracy`).
    Roughly(usize),
}

/// A call that waits for a time of its own, not until a point in time; those that write back what remains need no help.
fn timeout(nr: i64, arguments: [u64; 6]) -> Option<Timeout> {
    let command = arguments[1] & 0x7f;
    Some(match nr {
        libc::SYS_nanosleep => Timeout::Timespec(0),
        libc::SYS_clock_nanosleep if arguments[1] & libc::TIMER_ABSTIME as u64 == 0 => {
            Timeout::Timespec(2)
        }
        libc::SYS_poll => Timeout::Milliseconds(2),
        libc::SYS_futex if command == libc::FUTEX_WAIT as u64 => Timeout::Timespec(3),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => Timeout::Milliseconds(3),
        libc::SYS_semtimedop => Timeout::Timespec(3),
        SYS_EPOLL_PWAIT2 => Timeout::Roughly(3),
        libc::SYS_rt_sigtimedwait => Timeout::Timespec(2),
        libc::SYS_io_getevents | SYS_IO_PGETEVENTS => Timeout::Roughly(4),
        _ => return None,
    })
}

impl Timeout {
    /// In nanoseconds; `None` where there is none, or it cannot be read.
    fn length(self, tid: kernel::Pid, arguments: [u64; 6]) -> Option<i64> {
        match self {
            Timeout::Milliseconds(n) => {
                let length = i64::from(arguments[n] as i32);
                (length > 0).then_some(length * MILLISECOND)
            }
            Timeout::Timespec(n) | Timeout::Roughly(n) if arguments[n] == 0 => None,
            Timeout::Timespec(n) | Timeout::Roughly(n) => timespec(tid, arguments[n]),
        }
    }

    /// The slack of its timer is the thread's (hrtimers(7)), not made up from its length.
    fn is_exact(self) -> bool {
        matches!(self, Timeout::Timespec(_))
    }
}

fn timespec(tid: kernel::Pid, address: u64) -> Option<i64> {
    let seconds = vm::read_u64(tid, address).ok()? as i64;
    let nanoseconds = vm::read_u64(tid, address.checked_add(8)?).ok()? as i64;
    if seconds < 0 || !(0..SECOND).contains(&nanoseconds) {
        return None;
    }
    seconds.checked_mul(SECOND)?.checked_add(nanoseconds)
}

/// What was seen of a thread that waits for a time just before it was stopped.
#[derive(Debug)]
pub(super) struct Watch {
    /// The timers that ran.
    before: Option<Timers>,
    /// Where in the kernel it slept, by the name of a function (`/proc/PID/wchan`).
    wchan: String,
}

impl Watch {
    /// Looks at a thread that runs, and at the timers if that may be; `None` where it does not wait for a time.
    pub(super) fn begin(pid: kernel::Pid, tid: kernel::Pid, timers: bool) -> Option<Self> {
        let proc = Proc::thread(pid, tid);
        let text = proc.text("syscall").ok()?;
        let mut words = text.split_whitespace();
        let nr: i64 = words.next()?.parse().ok()?;
        let mut arguments = [0; 6];
        for argument in &mut arguments {
            *argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        }
        if nr != libc::SYS_restart_syscall {
            timeout(nr, arguments)?.length(tid, arguments)?;
        }
        let before = if timers {
            timer_list::read().ok()
        } else {
            None
        };
        let wchan = proc.text("wchan").unwrap_or_default();
        Some(Watch { before, wchan })
    }

    /// Whether the timers were looked at.
    pub(super) fn has_timers(&self) -> bool {
        self.before.is_some()
    }

    /// What remained, now that it is stopped: of timers that are gone and have not fired, the one that fits its call.
    fn remaining(&self, tid: kernel::Pid, timeout: Timeout, length: i64) -> Option<i64> {
        let before = self.before.as_ref()?;
        let after = timer_list::read().ok()?;
        let slack = Proc::process(tid).text("timerslack_ns").ok()?;
        let slack: i64 = slack.trim().parse().ok()?;
        remaining(before, &after, timeout.is_exact().then_some(slack), length)
    }
}

fn remaining(before: &Timers, after: &Timers, slack: Option<i64>, length: i64) -> Option<i64> {
    let latest = after.now.checked_add(length)?;
    let gone = before.wakeups.difference(&after.wakeups);
    let fits = gone.filter(|timer| {
        let late = timer.hard.saturating_sub(timer.soft);
        // A real-time task's timers have no slack.
        slack.map_or(late <= MAX_SLACK, |slack| late == slack || late == 0)
            && timer.hard > after.now
            && timer.soft <= latest
    });
    let ends = fits.map(|timer| timer.soft).max()?;
    Some((ends - after.now).max(1))
}

/// What is to be known of the wait that a stop interrupted, where the kernel remembers it (`before`: the registers at the
/// stop).
pub(super) fn remembered(
    tid: kernel::Pid,
    before: &Registers,
    watch: Option<&Watch>,
) -> Option<Wait> {
    if !arch::restarts_by_itself(before) {
        return None;
    }
    let mut code = [0; CODE as usize];
    let at = before.rip.saturating_sub(arch::SYSCALL.len() as u64);
    // A page before that is not there: then nothing is known of the code.
    if vm::read(tid, at.saturating_sub(CODE), &mut code).is_err() {
        code = [0; CODE as usize];
    }
    let wchan = watch.map_or("", |watch| &watch.wchan);
    let call = arch::remembered_call(before, &code, wchan)?;
    let arguments = arch::call_arguments(before);
    let told = match call {
        // It has told the program what remains, where that wanted to know (kernel/time/hrtimer.c, `nanosleep_copyout`).
        libc::SYS_nanosleep => arguments[1],
        libc::SYS_clock_nanosleep => arguments[3],
        _ => 0,
    };
    let remaining = timeout(call, arguments).and_then(|timeout| {
        let length = timeout.length(tid, arguments)?;
        match (told, watch) {
            (0, Some(watch)) => watch.remaining(tid, timeout, length),
            (0, None) => None,
            (told, _) => timespec(tid, told).filter(|told| *told <= length),
        }
    });
    Some(Wait {
        call: call as u32,
        remaining: remaining.map(|time| time as u64),
    })
}

/// A call that is about to be executed again, and when it is to give up.
#[derive(Debug)]
pub(super) struct Shortened {
    timeout: Timeout,
    ends: Instant,
}

/// Has a call that the stop ended, and which is about to be executed again, wait for what remained. Its argument is
/// changed only where nobody looks at it any more afterwards.
pub(super) fn shorten(
    task: &mut Stopped,
    before: &Registers,
    watch: &Watch,
) -> Result<Option<Shortened>> {
    let tid = task.tid();
    let arguments = arch::call_arguments(before);
    let found = arch::interrupted_call(before).and_then(|nr| timeout(nr, arguments));
    let (true, Some(timeout)) = (arch::ended_by_stop(before), found) else {
        return Ok(None);
    };
    let mut code = [0; 16];
    if vm::read(tid, before.rip, &mut code).is_err() || !arch::only_returns(&code) {
        return Ok(None);
    }
    let length = timeout.length(tid, arguments);
    let Some(time) = length.and_then(|length| watch.remaining(tid, timeout, length)) else {
        return Ok(None);
    };
    let ends = Instant::now() + Duration::from_nanos(time as u64);
    let shortened = Shortened { timeout, ends };
    let may = shortened.apply(task)?;
    Ok(may.then_some(shortened))
}

impl Shortened {
    /// Gives the call the time that remains now; `false` where there is no place to write it to.
    pub(super) fn apply(&self, task: &mut Stopped) -> kernel::Result<bool> {
        let time = self.ends.saturating_duration_since(Instant::now());
        let mut registers = task.registers()?;
        match self.timeout {
            Timeout::Milliseconds(n) => {
                let time = time.as_nanos().div_ceil(MILLISECOND as u128);
                arch::set_call_argument(&mut registers, n, time as u64);
            }
            Timeout::Timespec(n) | Timeout::Roughly(n) => {
                let at = registers.rsp.saturating_sub(DEPTH) & !15;
                let timespec = [time.as_secs(), time.subsec_nanos().into()];
                let timespec = timespec.map(u64::to_ne_bytes).concat();
                if vm::write(task.tid(), at, &timespec).is_err() {
                    return Ok(false);
                }
                arch::set_call_argument(&mut registers, n, at);
            }
        }
        task.set_registers(&registers)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::proc::timer_list::Wakeup;

    fn timers(now: i64, ends: &[(&str, i64, i64)]) -> Timers {
        let wakeup = |(address, soft, slack): &(&str, i64, i64)| Wakeup {
            address: (*address).into(),
            soft: *soft,
            hard: soft + slack,
        };
        Timers {
            now,
            wakeups: ends.iter().map(wakeup).collect(),
        }
    }

    #[test]
    fn the_timer_that_is_gone_and_fits_was_the_thread_s() {
        let own = ("<a>", 9_000, 50);
        let (fired, other, longer) = (("<b>", 2_000, 50), ("<c>", 8_000, 0), ("<d>", 90_000, 50));
        let before = timers(1_000, &[own, fired, other, longer, ("<e>", 9_500, 7)]);
        let after = timers(3_000, &[other]);
        assert_eq!(remaining(&before, &after, Some(50), 10_000), Some(6_000));
        assert_eq!(remaining(&before, &after, None, 10_000), Some(6_500));
        assert_eq!(remaining(&after, &after, Some(50), 10_000), None);
    }

    #[test]
    fn waits_until_a_point_in_time_need_no_help() {
        let until = [1, libc::TIMER_ABSTIME as u64, 0x10, 0, 0, 0];
        assert_eq!(timeout(libc::SYS_clock_nanosleep, until), None);
        let bitset = [0x10, libc::FUTEX_WAIT_BITSET as u64 | 128, 0, 0x20, 0, 0];
        assert_eq!(timeout(libc::SYS_futex, bitset), None);
        let wait = [0x10, 128, 0, 0x20, 0, 0];
        assert_eq!(timeout(libc::SYS_futex, wait), Some(Timeout::Timespec(3)));
        let forever = [0, 0, u64::from(u32::MAX), 0, 0, 0];
        let poll = timeout(libc::SYS_poll, forever).unwrap();
        assert_eq!(poll.length(0, forever), None);
    }
}
