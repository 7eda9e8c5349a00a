//! Signal actions, masks, and signals that wait with what they bring.
#![forbid(unsafe_code)]

use kernel::own::signal::{Brought, action, count, counted, last_value, queue, take};
use nix::libc::{SA_RESTART, SIGRTMIN};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};
use std::process::ExitCode;
use subject::Stage;

/// `SI_QUEUE`.
const QUEUED: i32 = -1;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let own = std::process::id() as i32;
    let real_time = SIGRTMIN() + 3;
    count(Signal::SIGUSR1 as i32, SA_RESTART).expect("a handler");
    count(real_time, 0).expect("a handler");
    // nix's sets have no real-time signals; queues of those are tried in lib/resources/tests/signals.rs.
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGUSR2, Signal::SIGWINCH, Signal::SIGALRM] {
        blocked.add(signal);
    }
    blocked.thread_block().expect("block");
    queue(own, Signal::SIGUSR2 as i32, 0xfeed_0001).expect("queue");
    queue(own, Signal::SIGALRM as i32, 0xfeed_0002).expect("queue");
    raise(Signal::SIGWINCH).expect("raise");
    let signals = 1..=31;
    let actions = |signals: std::ops::RangeInclusive<i32>| -> Vec<_> {
        signals.map(|signal| (signal, action(signal))).collect()
    };
    let before = (actions(signals.clone()), action(real_time));
    let status = || {
        let status = kernel::proc::status::read(own).expect("status");
        ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"]
            .map(|key| status.get(key).map(str::to_owned))
    };
    let masks = status();

    // Fewer than wait already.
    let limit = getrlimit(Resource::RLIMIT_SIGPENDING).expect("getrlimit");
    setrlimit(Resource::RLIMIT_SIGPENDING, 1, limit.1).expect("setrlimit");

    stage.wait();
    let now = getrlimit(Resource::RLIMIT_SIGPENDING);
    stage.same("the limit of signals", Ok((1, limit.1)), now);
    setrlimit(Resource::RLIMIT_SIGPENDING, limit.0, limit.1).expect("setrlimit");
    stage.same("masks and queues", masks, status());
    let after = (actions(signals), action(real_time));
    stage.same("actions", before, after);
    for (signal, value) in [
        (Signal::SIGUSR2, 0xfeed_0001),
        (Signal::SIGALRM, 0xfeed_0002),
    ] {
        let signal = signal as i32;
        let expected = Brought {
            signal,
            code: QUEUED,
            value,
        };
        stage.same(
            "a waiting signal",
            Ok(Some(expected)),
            take(1 << (signal - 1), 1),
        );
    }
    let winch = Signal::SIGWINCH as i32;
    let raised = take(1 << (winch - 1), 1).map(|brought| brought.map(|b| b.signal));
    stage.same("a signal raised for the thread", Ok(Some(winch)), raised);
    stage.same("and no second one", Ok(None), take(1 << (winch - 1), 0));
    stage.same(
        "handlers did not run for nothing",
        0,
        counted(Signal::SIGUSR1 as i32),
    );
    raise(Signal::SIGUSR1).expect("raise");
    stage.same("a handler runs", 1, counted(Signal::SIGUSR1 as i32));
    queue(own, real_time, 77).expect("queue");
    stage.same(
        "one with a value too",
        (1, 77),
        (counted(real_time), last_value()),
    );
    stage.leave()
}
