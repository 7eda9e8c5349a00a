//! Time namespaces inside the container: one whose maker is there and has it for its children alone, one whose maker is gone. The
//! clocks in there go on, as far from the container's as they were, and so does what waits by them.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use nix::sched::{CloneFlags, unshare};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId as Clock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, pipe, read, write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use subject::Stage;

/// `CLONE_NEWTIME`, which nix has no name for.
const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME);
const FAR: i64 = 100_000;
const LATER: i64 = 10_000;

fn now(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec())
}

fn ended(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, status)) => status,
        _ => 99,
    }
}

/// A time namespace for the children, in a user namespace: in the container's it might not be allowed.
fn shift(seconds: i64) {
    unshare(CloneFlags::CLONE_NEWUSER | NEWTIME).expect("unshare");
    std::fs::write("/proc/self/setgroups", "deny").expect("deny setgroups");
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/self/{map}"), "0 0 1\n").expect("map");
    }
    let offsets = format!("monotonic {seconds} 0\nboottime {} 0\n", 2 * seconds);
    std::fs::write("/proc/self/timens_offsets", offsets).expect("set the offsets");
}

/// Waits in the namespace; tells the main process what the clocks show there, before and after.
fn dwell(say: &OwnedFd, told: &OwnedFd) -> i32 {
    let timer = TimerFd::new(Clock::CLOCK_MONOTONIC, TimerFlags::empty()).expect("timerfd");
    let at = TimeSpec::seconds(now(ClockId::CLOCK_MONOTONIC) + LATER);
    let absolute = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
    timer
        .set(Expiration::OneShot(at), absolute)
        .expect("timerfd_settime");
    let tell = || {
        let clocks = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME].map(now);
        write(say, &clocks.map(i64::to_ne_bytes).concat()) == Ok(16)
    };
    let well = tell() && read(told, &mut [0]) == Ok(1) && tell();
    let left = match timer.get() {
        Ok(Some(Expiration::OneShot(left))) => left.tv_sec(),
        _ => 0,
    };
    i32::from(!well) + 2 * i32::from(!(LATER - 900..=LATER).contains(&left))
}

/// How far the clocks of who tells are from ours.
fn distance(heard: &OwnedFd) -> [i64; 2] {
    let mut bytes = [0; 16];
    let _ = read(heard, &mut bytes);
    let mut clocks = [[0; 8]; 2];
    for (clock, bytes) in clocks.iter_mut().zip(bytes.chunks(8)) {
        clock.copy_from_slice(bytes);
    }
    let [monotonic, boottime] = clocks.map(i64::from_ne_bytes);
    [
        monotonic - now(ClockId::CLOCK_MONOTONIC),
        boottime - now(ClockId::CLOCK_BOOTTIME),
    ]
}

/// Whether that is so, as the clocks go on between two looks.
fn near(found: [i64; 2], seconds: i64) -> bool {
    let wanted = [seconds, 2 * seconds];
    let mut both = found.iter().zip(wanted);
    both.all(|(found, wanted)| (wanted - 2..=wanted + 2).contains(found))
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    nix::sys::prctl::set_child_subreaper(true).expect("PR_SET_CHILD_SUBREAPER");
    let ((told, tell), (heard, say)) = (pipe().expect("pipe"), pipe().expect("pipe"));
    let ((told_too, tell_too), (heard_too, say_too)) =
        (pipe().expect("pipe"), pipe().expect("pipe"));
    let maker = fork(|| {
        shift(FAR);
        let first = fork(|| dwell(&say, &told)).expect("fork");
        let first = ended(first);
        // The next child is in there, too; the maker itself is not.
        let second = fork(|| {
            let clocks = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME].map(now);
            i32::from(write(&say, &clocks.map(i64::to_ne_bytes).concat()) != Ok(16))
        });
        first + 4 * ended(second.expect("fork"))
    });
    let gone = fork(|| {
        shift(7 * FAR);
        fork(|| dwell(&say_too, &told_too)).map_or(1, |_| 0)
    });
    stage.same("a maker's end", 0, ended(gone.expect("fork")));
    stage.holds("the clocks ahead", near(distance(&heard), FAR));
    stage.holds("those further ahead", near(distance(&heard_too), 7 * FAR));
    let before = now(ClockId::CLOCK_MONOTONIC);

    stage.wait();

    let passed = now(ClockId::CLOCK_MONOTONIC) - before;
    stage.holds("the container's clock", (0..900).contains(&passed));
    write(&tell, b"!").expect("tell");
    stage.holds("the clocks ahead, still", near(distance(&heard), FAR));
    stage.holds("and of the next child", near(distance(&heard), FAR));
    write(&tell_too, b"!").expect("tell");
    let found = distance(&heard_too);
    stage.holds("those further ahead, still", near(found, 7 * FAR));
    stage.same("the maker's end", 0, ended(maker.expect("fork")));
    stage.same("the orphan's end", 0, ended(-1));
    stage.leave()
}
