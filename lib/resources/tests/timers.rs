//! Interval and POSIX timers, between two live processes.

mod pair;

use image::timers::{IntervalKind, Timers};
use kernel::remote::Caller;
use pair::{Sleeper, free_ids, must, to_source, words};
use resources::tree::Numbers;
use resources::{threads, timers};

const SECOND: u64 = 1_000_000_000;

/// A timer with `sigev_notify`, signal and receiver; gives its id.
fn timer(stub: &mut kernel::remote::Stub, clock: i32, notify: u64, receiver: i32) -> i32 {
    let event = [0xfeed, notify << 32 | 34, receiver as u64, 0, 0, 0, 0, 0, 0];
    let at = words(stub, &event);
    must(stub, libc::SYS_timer_create, &[clock as u64, at, at + 64]);
    let mut id = [0; 4];
    stub.read(at + 64, &mut id).unwrap();
    i32::from_ne_bytes(id)
}

fn times(timers: &Timers) -> Vec<u64> {
    let posix = timers.posix.iter().map(|t| t.remaining / 1000);
    posix
        .chain(timers.interval.iter().map(|t| t.remaining))
        .collect()
}

#[test]
fn timers_keep_their_ids_and_what_remains_of_their_time() {
    let first = Sleeper::new("1000");
    let mut target = first.target();
    let ids = free_ids(1);
    threads::create(&mut target, &ids, &mut Numbers::default()).unwrap();
    let thread = ids[0];
    let stub = &mut target.leader;
    let made: Vec<i32> = (0..6).map(|i| timer(stub, i % 2, 0, 0)).collect();
    for gap in [0, 1, 3] {
        must(stub, libc::SYS_timer_delete, &[made[gap] as u64]);
    }
    let for_thread = timer(stub, 1, 4, thread);
    let quiet = timer(stub, 2, 1, 0);
    for (id, interval, value) in [(made[2], 0, 500), (for_thread, 7, 900)] {
        let at = words(stub, &[interval, 5, value, 0]);
        must(stub, libc::SYS_timer_settime, &[id as u64, 0, at, 0]);
    }
    for (which, interval, value) in [(0, 3, 600), (2, 0, 50)] {
        let at = words(stub, &[interval, 250_000, value, 0]);
        must(stub, libc::SYS_setitimer, &[which, at, 0]);
    }
    let mut taken = timers::dump(&mut to_source(target)).unwrap();
    let found: Vec<_> = taken
        .posix
        .iter()
        .map(|t| (t.id, t.clock, t.notify))
        .collect();
    let expected = [
        (made[2], 0, 0),
        (made[4], 0, 0),
        (made[5], 1, 0),
        (for_thread, 1, 4),
        (quiet, -6, 1),
    ];
    assert_eq!(found, expected);
    assert_eq!(taken.posix[3].interval, 7 * SECOND + 5);
    assert!((899 * SECOND..=900 * SECOND).contains(&taken.posix[3].remaining));
    assert_eq!(
        (taken.posix[3].receiver, taken.posix[3].value),
        (thread, 0xfeed)
    );
    assert_eq!(
        (taken.posix[1].remaining, taken.posix[1].interval),
        (0, 0),
        "not armed"
    );
    let kinds: Vec<_> = taken
        .interval
        .iter()
        .map(|t| (t.kind, t.interval))
        .collect();
    assert_eq!(
        kinds,
        [
            (IntervalKind::Real, 3_250_000),
            (IntervalKind::Profiling, 250_000)
        ]
    );
    let old = first.pid();
    drop(first);

    let second = Sleeper::new("1000");
    let mut target = second.target();
    threads::create(&mut target, &ids, &mut Numbers::default()).unwrap();
    for timer in taken.posix.iter_mut().filter(|t| t.receiver == old) {
        timer.receiver = second.pid();
    }
    timers::restore(&mut target, &taken).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    timers::resume(&mut target, &taken).unwrap();
    let mut again = timers::dump(&mut to_source(target)).unwrap();
    for (before, after) in times(&taken).into_iter().zip(times(&again)) {
        // The second in between did not count: it passed while nothing ran.
        assert!(before.abs_diff(after) < 1_000_000, "{before} {after}");
    }
    for (to, from) in again.posix.iter_mut().zip(&taken.posix) {
        to.remaining = from.remaining;
    }
    for (to, from) in again.interval.iter_mut().zip(&taken.interval) {
        to.remaining = from.remaining;
    }
    assert_eq!(again, taken);
}

#[test]
fn a_timer_whose_thread_has_ended_counts_on_for_nobody() {
    let sleeper = Sleeper::new("1000");
    let mut target = sleeper.target();
    let ids = free_ids(1);
    threads::create(&mut target, &ids, &mut Numbers::default()).unwrap();
    let id = timer(&mut target.leader, 1, 4, ids[0]);
    let at = words(&mut target.leader, &[0, 0, 900, 0]);
    let arm = [id as u64, 0, at, 0];
    must(&mut target.leader, libc::SYS_timer_settime, &arm);
    let mut source = to_source(target);
    // As if the thread had ended meanwhile.
    source.threads.retain(|thread| thread.tid == sleeper.pid());
    let taken = timers::dump(&mut source).unwrap();
    let found = &taken.posix[0];
    let none = libc::SIGEV_NONE;
    assert_eq!(
        (found.id, found.notify, found.receiver),
        (id, none, sleeper.pid())
    );
    assert!((899 * SECOND..=900 * SECOND).contains(&found.remaining));
}
