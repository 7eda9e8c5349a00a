//! Timer descriptors: far from expiring, expired and not read, with an interval, as a point in time, not armed.
#![forbid(unsafe_code)]

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subject::Stage;

fn timer(clock: ClockId) -> TimerFd {
    TimerFd::new(clock, TimerFlags::TFD_NONBLOCK).expect("timerfd")
}

fn ticks(timer: &TimerFd) -> Result<u64, nix::errno::Errno> {
    let mut bytes = [0; 8];
    nix::unistd::read(timer.as_fd(), &mut bytes).map(|_| u64::from_ne_bytes(bytes))
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let relative = TimerSetTimeFlags::empty();
    let seconds = |s: u64| TimeSpec::from(Duration::from_secs(s));
    let far = timer(ClockId::CLOCK_MONOTONIC);
    far.set(Expiration::OneShot(seconds(5000)), relative)
        .expect("arm");
    let expired = timer(ClockId::CLOCK_BOOTTIME);
    expired
        .set(
            Expiration::OneShot(TimeSpec::from(Duration::from_millis(1))),
            relative,
        )
        .expect("arm");
    let again = timer(ClockId::CLOCK_MONOTONIC);
    let slow = Expiration::IntervalDelayed(TimeSpec::from(Duration::from_millis(1)), seconds(3000));
    again.set(slow, relative).expect("arm");
    let deadline = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the time")
        + Duration::from_secs(4000);
    let point = timer(ClockId::CLOCK_REALTIME);
    point
        .set(
            Expiration::OneShot(TimeSpec::from(deadline)),
            TimerSetTimeFlags::TFD_TIMER_ABSTIME,
        )
        .expect("arm");
    let idle = timer(ClockId::CLOCK_REALTIME);
    std::thread::sleep(Duration::from_millis(5));

    stage.wait();

    let left = |timer: &TimerFd| match timer.get() {
        Ok(Some(Expiration::OneShot(left))) => Duration::from(left).as_secs(),
        _ => 0,
    };
    stage.holds(
        "the far one has most of its time left",
        (4900..=5000).contains(&left(&far)),
    );
    stage.same(
        "the far one has not expired",
        Err(nix::errno::Errno::EAGAIN),
        ticks(&far),
    );
    stage.same("the expired one", Ok(1), ticks(&expired));
    stage.same(
        "it is read once",
        Err(nix::errno::Errno::EAGAIN),
        ticks(&expired),
    );
    stage.same("the one that goes on", Ok(1), ticks(&again));
    let interval = match again.get() {
        Ok(Some(Expiration::IntervalDelayed(_, every) | Expiration::Interval(every))) => {
            Duration::from(every).as_secs()
        }
        _ => 0,
    };
    stage.same("its interval", 3000, interval);
    let until = deadline.saturating_sub(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("the time"),
    );
    stage.holds(
        "the point in time",
        left(&point).abs_diff(until.as_secs()) <= 1,
    );
    stage.holds("the idle one", matches!(idle.get(), Ok(None)));
    let soon = TimeSpec::from(Duration::from_millis(1));
    far.set(Expiration::OneShot(soon), relative)
        .expect("arm again");
    std::thread::sleep(Duration::from_millis(20));
    stage.same("armed again, it expires", Ok(1), ticks(&far));
    stage.leave()
}
