//! Credentials and seccomp, between two live processes.

mod pair;

use image::credentials::{Credentials, Seccomp};
use kernel::remote::Caller;
use pair::{Sleeper, everybody, free_ids, must, to_source, words};
use resources::tree::Numbers;
use resources::{Error, credentials, threads};

fn prctl(stub: &mut kernel::remote::Stub, arguments: &[u64]) {
    let mut five = [0; 5];
    five[..arguments.len()].copy_from_slice(arguments);
    must(stub, libc::SYS_prctl, &five);
}

/// Loads a filter that allows all but `nr`, which gives `errno`.
fn filter(stub: &mut kernel::remote::Stub, nr: u32, verdict: u32, flags: u64) {
    let instruction = |code: u64, jump: u64, k: u32| code | jump << 16 | u64::from(k) << 32;
    let (address, _) = stub.scratch().unwrap();
    let program = [
        4,
        address + 16,
        instruction(0x20, 0, 0),           // ld [nr]
        instruction(0x15, 1 << 8, nr),     // jeq nr: next, else one further
        instruction(0x06, 0, verdict),     // ret verdict
        instruction(0x06, 0, 0x7fff_0000), // ret allow
    ];
    let at = words(stub, &program);
    must(stub, libc::SYS_seccomp, &[1, flags, at]);
}

fn build(stub: &mut kernel::remote::Stub) {
    filter(stub, libc::SYS_kexec_load as u32, 0x0005_0000 | 38, 0);
    filter(stub, libc::SYS_swapon as u32, 0x0005_0000 | 1, 2);
    let groups = words(stub, &[7 | 8 << 32, 9]);
    must(stub, libc::SYS_setgroups, &[3, groups]);
    prctl(stub, &[libc::PR_SET_KEEPCAPS as u64, 1]);
    must(stub, libc::SYS_setresgid, &[100, 101, 102]);
    must(stub, libc::SYS_setresuid, &[200, 0, 202]);
    for n in [0, 5] {
        prctl(stub, &[libc::PR_CAPBSET_DROP as u64, n]);
    }
    // CHOWN, NET_BIND_SERVICE (10) inheritable and ambient, SETPCAP for the securebits.
    let caps = 1u64 << 10 | 1 << 8 | 1 << 7;
    let at = words(stub, &[0x2008_0522, caps | caps << 32, 1 << 10, 0]);
    must(stub, libc::SYS_capset, &[at, at + 8]);
    prctl(stub, &[libc::PR_SET_SECUREBITS as u64, 1 << 4 | 1 << 5 | 1]);
    must(stub, libc::SYS_setresuid, &[u64::MAX, 201, u64::MAX]);
    let at = words(stub, &[0x2008_0522, 1 << 10 | 1u64 << 32 << 10, 1 << 10, 0]);
    must(stub, libc::SYS_capset, &[at, at + 8]);
    prctl(
        stub,
        &[
            libc::PR_CAP_AMBIENT as u64,
            libc::PR_CAP_AMBIENT_RAISE as u64,
            10,
        ],
    );
    prctl(stub, &[libc::PR_SET_DUMPABLE as u64, 1]);
    prctl(stub, &[libc::PR_SET_PDEATHSIG as u64, 12]);
    prctl(stub, &[libc::PR_SET_NO_NEW_PRIVS as u64, 1]);
}

#[test]
fn ids_capabilities_and_filters_survive_thread_by_thread() {
    let first = Sleeper::new("1000");
    let mut target = first.target();
    let ids = free_ids(2);
    threads::create(&mut target, &ids, &mut Numbers::Chosen).unwrap();
    build(target.threads.get_mut(&ids[0]).unwrap());
    let mut source = to_source(target);
    let of_process = credentials::dump(&mut source).unwrap();
    source.threads[0].guest.rest().unwrap();
    let inside = everybody(&source);
    let taken = threads::dump(&mut source, &inside, &of_process).unwrap();
    assert_eq!(of_process.uid.real, 0);
    let by_tid = |tid: i32| taken.iter().find(|t| t.tid == tid).unwrap();
    assert_eq!(by_tid(ids[1]).credentials, None, "as the process");
    let own = by_tid(ids[0]).credentials.clone().unwrap();
    assert_eq!(
        (own.uid.real, own.uid.effective, own.uid.saved),
        (200, 201, 202)
    );
    assert_eq!((own.gid.real, own.gid.filesystem), (100, 101));
    assert_eq!(own.groups, [7, 8, 9]);
    let caps = own.capabilities;
    assert_eq!(
        (caps.permitted, caps.effective, caps.ambient),
        (1 << 10, 1 << 10, 1 << 10)
    );
    assert_eq!(caps.bounding & 0x21, 0);
    assert_eq!(own.securebits, 1 << 4 | 1 << 5 | 1);
    assert!(own.no_new_privs);
    assert_eq!(by_tid(ids[0]).death_signal, 12);
    let Seccomp::Filter { filters } = &own.seccomp else {
        panic!("{:?}", own.seccomp);
    };
    assert_eq!(
        (filters.len(), filters[0].flags, filters[1].flags),
        (2, 0, 2)
    );
    let oldest = (libc::SYS_kexec_load as u32).to_ne_bytes();
    assert_eq!(filters[0].program.0[12..16], oldest, "the oldest first");
    assert_eq!(filters[0].program.0.len(), 32);
    drop(source);
    drop(first);

    let second = Sleeper::new("1000");
    let mut target = second.target();
    threads::create(&mut target, &ids, &mut Numbers::Chosen).unwrap();
    for record in taken.iter().skip(1) {
        let stub = target.threads.get_mut(&record.tid).unwrap();
        credentials::restore(stub, record, &of_process).unwrap();
    }
    credentials::restore(&mut target.leader, &taken[0], &of_process).unwrap();
    let mut source = to_source(target);
    let again = credentials::dump(&mut source).unwrap();
    assert_eq!(again, of_process);
    source.threads[0].guest.rest().unwrap();
    let inside = everybody(&source);
    let again = threads::dump(&mut source, &inside, &of_process).unwrap();
    for thread in &again[1..] {
        let before = by_tid(thread.tid);
        assert_eq!(thread.credentials, before.credentials);
        assert_eq!(thread.death_signal, before.death_signal);
    }
}

fn of_sleeper() -> (Sleeper, Credentials) {
    let sleeper = Sleeper::new("1000");
    let taken = credentials::dump(&mut sleeper.untouched()).unwrap();
    (sleeper, taken)
}

#[test]
fn what_restore_may_not_give_is_refused_by_number() {
    let (_first, mut record) = of_sleeper();
    record.capabilities.permitted |= 1 << 60;
    let second = Sleeper::new("1000");
    let mut thread = threads::dump(&mut second.untouched(), &Default::default(), &record)
        .unwrap()
        .remove(0);
    thread.credentials = Some(record.clone());
    let third = Sleeper::new("1000");
    let mut target = third.target();
    match credentials::restore(&mut target.leader, &thread, &record) {
        Err(Error::Blocked(blockers)) => assert!(blockers[0].what.contains("number 60")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_filter_with_a_supervisor_is_a_blocker() {
    let sleeper = Sleeper::new("1000");
    let mut target = sleeper.target();
    // SECCOMP_FILTER_FLAG_NEW_LISTENER gives a descriptor.
    filter(&mut target.leader, libc::SYS_swapon as u32, 0x7fc0_0000, 8);
    match credentials::dump(&mut to_source(target)) {
        Err(Error::Blocked(blockers)) => assert!(blockers[0].what.contains("supervisor")),
        other => panic!("{other:?}"),
    }
}
