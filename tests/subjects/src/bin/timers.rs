//! Timers that are not descriptors: ids with gaps between them, what remains of their time, one that ticks.
#![forbid(unsafe_code)]

use kernel::own::signal::{count, counted};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::alarm;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use subject::Stage;

const LONG: Duration = Duration::from_secs(5000);

fn event(signal: Signal, value: isize) -> SigEvent {
    SigEvent::new(SigevNotify::SigevSignal {
        signal,
        si_value: value,
    })
}

/// The timers as the kernel lists them.
fn listed() -> String {
    std::fs::read_to_string("/proc/self/timers").expect("read /proc/self/timers")
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let clocks = [
        ClockId::CLOCK_MONOTONIC,
        ClockId::CLOCK_REALTIME,
        ClockId::CLOCK_PROCESS_CPUTIME_ID,
    ];
    let mut timers: Vec<Timer> = (0..9)
        .map(|i| {
            Timer::new(clocks[i % 3], event(Signal::SIGWINCH, 100 + i as isize)).expect("a timer")
        })
        .collect();
    for gap in [7, 5, 0] {
        drop(timers.remove(gap));
    }
    let none = TimerSetTimeFlags::empty();
    let long = Expiration::IntervalDelayed(LONG.into(), Duration::from_secs(7).into());
    timers[0].set(long, none).expect("arm");
    count(Signal::SIGUSR1 as i32, nix::libc::SA_RESTART).expect("a handler");
    let mut ticking =
        Timer::new(ClockId::CLOCK_MONOTONIC, event(Signal::SIGUSR1, 1)).expect("a timer");
    let tick = Expiration::Interval(Duration::from_millis(20).into());
    ticking.set(tick, none).expect("arm");
    alarm::set(4000);
    let before = listed();

    stage.wait();
    stage.same("the timers", before, listed());
    let remains = timers[0].get().expect("timer_gettime");
    let near = |duration: Duration| duration <= LONG && LONG - duration < Duration::from_secs(600);
    let holds = match remains {
        Some(Expiration::IntervalDelayed(next, interval)) => {
            near(next.into()) && Duration::from(interval) == Duration::from_secs(7)
        }
        _ => false,
    };
    stage.holds(&format!("what remains of a timer ({remains:?})"), holds);
    stage.same("a timer that was never armed", Ok(None), timers[1].get());
    let ticks = counted(Signal::SIGUSR1 as i32);
    let begin = Instant::now();
    while counted(Signal::SIGUSR1 as i32) < ticks + 5 && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(1));
    }
    stage.holds(
        "the ticking timer ticks",
        counted(Signal::SIGUSR1 as i32) >= ticks + 5,
    );
    let remains = alarm::cancel();
    stage.holds(
        &format!("the alarm ({remains:?})"),
        remains.is_some_and(|s| (3400..=4000).contains(&s)),
    );
    let another = Timer::new(ClockId::CLOCK_MONOTONIC, event(Signal::SIGWINCH, 1));
    stage.holds("another timer can be made", another.is_ok());
    stage.leave()
}
