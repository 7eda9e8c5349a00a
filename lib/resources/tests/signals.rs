//! Signal actions and queues, between two live processes.

mod pair;

use pair::{Sleeper, everybody, free_ids, must, to_source, words};
use resources::tree::Numbers;
use resources::{credentials, signals, threads};

const RESTART_RESTORER: u64 = 0x1400_0000;

#[test]
fn actions_and_queues_with_payload_survive() {
    let first = Sleeper::new("1000");
    let mut target = first.target();
    let ids = free_ids(1);
    let thread = ids[0];
    threads::create(&mut target, &ids, &mut Numbers::default()).unwrap();
    signals::restore(&mut target, &image::signals::Signals::default()).unwrap();
    let pid = target.pid as u64;
    let stub = &mut target.leader;
    for (signal, handler, flags, mask) in [
        (libc::SIGUSR1, 0x1111, RESTART_RESTORER, 0xf0),
        (libc::SIGHUP, 1, 0, 0),
        (
            libc::SIGCHLD,
            0,
            RESTART_RESTORER | libc::SA_NOCLDSTOP as u64,
            0,
        ),
        (40, 0x2222, RESTART_RESTORER | libc::SA_SIGINFO as u64, 1),
    ] {
        let at = words(stub, &[handler, flags, 0x3333, mask]);
        must(stub, libc::SYS_rt_sigaction, &[signal as u64, at, 0, 8]);
    }
    stub.task().unwrap().set_signal_mask(u64::MAX).unwrap();
    // Two instances of a real-time signal with values, and a plain one: SI_QUEUE is -1, SI_USER 0.
    for (signal, code, value) in [(40u64, -1i64, 77u64), (40, -1, 78), (10, 0, 0)] {
        let at = words(
            stub,
            &[
                signal,
                code as u32 as u64,
                pid,
                value,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ],
        );
        must(stub, libc::SYS_rt_sigqueueinfo, &[pid, signal, at]);
    }
    let stub = target.threads.get_mut(&thread).unwrap();
    stub.task().unwrap().set_signal_mask(u64::MAX).unwrap();
    let at = words(
        stub,
        &[
            12,
            (-1i32) as u32 as u64,
            pid,
            99,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ],
    );
    must(
        stub,
        libc::SYS_rt_tgsigqueueinfo,
        &[pid, thread as u64, 12, at],
    );

    let mut source = to_source(target);
    let mut taken = signals::dump(&mut source).unwrap();
    let of_process = credentials::dump(&mut source).unwrap();
    source.threads[0].guest.rest().unwrap();
    let inside = everybody(&source);
    let mut records = threads::dump(&mut source, &inside, &of_process).unwrap();
    let found: Vec<_> = taken
        .actions
        .iter()
        .map(|a| (a.signal, a.handler, a.mask))
        .collect();
    assert_eq!(
        found,
        [(1, 1, 0), (10, 0x1111, 0xf0), (17, 0, 0), (40, 0x2222, 1)]
    );
    assert_eq!(
        taken.actions[2].flags & 1,
        1,
        "SA_NOCLDSTOP of a default action"
    );
    let queue: Vec<_> = taken
        .pending
        .iter()
        .map(|p| (p.siginfo.0[0], p.siginfo.0[24]))
        .collect();
    assert_eq!(queue, [(40, 77), (40, 78), (10, 0)]);
    assert_eq!(records[1].pending.len(), 1);
    assert_eq!(records[1].pending[0].siginfo.0[24], 99);
    drop(source);
    drop(first);

    let second = Sleeper::new("1000");
    let mut target = second.target();
    records[0].tid = target.pid;
    threads::create(&mut target, &ids, &mut Numbers::default()).unwrap();
    signals::restore(&mut target, &taken).unwrap();
    signals::resume(&mut target, &taken, &records).unwrap();
    let mut source = to_source(target);
    let again = signals::dump(&mut source).unwrap();
    // The sender of a plain signal is the process itself, now under another id.
    taken
        .pending
        .iter_mut()
        .zip(&again.pending)
        .for_each(|(a, b)| {
            a.siginfo.0[16..20].copy_from_slice(&b.siginfo.0[16..20]);
        });
    assert_eq!(again, taken);
    source.threads[0].guest.rest().unwrap();
    let inside = everybody(&source);
    let records_again = threads::dump(&mut source, &inside, &of_process).unwrap();
    assert_eq!(records_again[1].pending, records[1].pending);
}

#[test]
fn the_actions_of_restore_itself_are_not_inherited() {
    let sleeper = Sleeper::new("1000");
    let mut target = sleeper.target();
    let at = words(&mut target.leader, &[1, 0, 0, 0]);
    must(&mut target.leader, libc::SYS_rt_sigaction, &[13, at, 0, 8]);
    let ignored = pair::line(sleeper.pid(), "SigIgn");
    assert_ne!(u64::from_str_radix(&ignored, 16).unwrap() & 1 << 12, 0);
    signals::restore(&mut target, &image::signals::Signals::default()).unwrap();
    assert_eq!(pair::line(sleeper.pid(), "SigIgn"), "0000000000000000");
}
