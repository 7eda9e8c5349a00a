//! Limits and process-wide settings, between two live processes.

mod pair;
mod poor;

use image::limits::Resource;
use pair::{Sleeper, must, to_source, words};
use resources::limits;

#[test]
fn limits_and_settings_survive() {
    let first = Sleeper::new("1000");
    let mut target = first.target();
    let stub = &mut target.leader;
    for (resource, soft, hard) in [(7, 100, 1000), (4, 0, 4096), (9, 1 << 40, 1 << 41)] {
        let at = words(stub, &[soft, hard]);
        must(stub, libc::SYS_prlimit64, &[0, resource, at, 0]);
    }
    must(stub, libc::SYS_personality, &[0x0040000 | 0x0100000]);
    must(
        stub,
        libc::SYS_prctl,
        &[libc::PR_SET_CHILD_SUBREAPER as u64, 1],
    );
    must(
        stub,
        libc::SYS_prctl,
        &[libc::PR_SET_THP_DISABLE as u64, 1, 0, 0, 0],
    );
    must(stub, libc::SYS_prctl, &[65, 1, 0, 0, 0]); // PR_SET_MDWE
    must(stub, libc::SYS_prctl, &[67, 1, 0, 0, 0]); // PR_SET_MEMORY_MERGE
    // MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, …_PRIVATE_EXPEDITED, …_PRIVATE_EXPEDITED_SYNC_CORE
    for command in [1 << 2, 1 << 4, 1 << 6] {
        must(stub, libc::SYS_membarrier, &[command, 0, 0]);
    }
    std::fs::write(target.proc.path("oom_score_adj"), "500").unwrap();
    std::fs::write(target.proc.path("coredump_filter"), "0x7").unwrap();
    let taken = limits::dump(&mut to_source(target)).unwrap();
    assert_eq!(taken.oom_score_adj, 500);
    assert_eq!(taken.coredump_filter, Some(7));
    assert_eq!(taken.personality, 0x0140000);
    assert!(taken.child_subreaper && taken.thp_disable == 1);
    assert!(taken.mdwe == 1 && taken.memory_merge);
    assert_eq!(taken.membarrier, 1 << 2 | 1 << 4 | 1 << 6);
    assert_eq!(
        (taken.resources[7].soft, taken.resources[7].hard),
        (Some(100), Some(1000))
    );
    drop(first);

    let second = Sleeper::new("1000");
    let mut target = second.target();
    limits::register(&mut target, &taken).unwrap();
    let words = limits::restore(&mut target, &taken).unwrap();
    assert!(words.is_empty(), "{words:?}");
    assert_eq!(limits::dump(&mut to_source(target)).unwrap(), taken);
}

#[test]
fn a_limit_that_cannot_be_raised_is_reported_and_one_that_holds_is_not() {
    let sleeper = Sleeper::new("1000");
    let mut target = sleeper.target();
    let stub = &mut target.leader;
    // Without the capability, as where `restore` has it not.
    let at = words(stub, &[0x2008_0522, 0, 0, 0, 0]);
    must(stub, libc::SYS_capset, &[at, at + 16]);
    let other = Sleeper::new("1000");
    let mut record = limits::dump(&mut other.untouched()).unwrap();
    assert!(
        limits::restore(&mut target, &record).unwrap().is_empty(),
        "as it is"
    );
    let nofile = record
        .resources
        .iter_mut()
        .find(|l| l.resource == Resource::Nofile)
        .unwrap();
    nofile.soft = Some(64);
    nofile.hard = nofile.hard.map(|hard| hard + 1);
    let can = pair::line(std::process::id() as i32, "CapEff");
    let can = u64::from_str_radix(&can, 16).unwrap() & 1 << 24 != 0;
    let words = limits::restore(&mut target, &record).unwrap();
    assert_eq!(words.len(), usize::from(!can), "{words:?}");
    let now = kernel::proc::limits::read(target.pid).unwrap();
    assert_eq!(now[7].soft, Some(64));
}

#[test]
fn limits_of_a_user_with_no_capability_are_widened_and_come_back() {
    let first = poor::Poor::of_nobody();
    let mut target = first.target(0x10_0000);
    for (resource, soft, hard) in [(7, 100, 1000), (1, 4096, 8192), (8, 65536, 65536)] {
        let at = words(&mut target.leader, &[soft, hard]);
        must(
            &mut target.leader,
            libc::SYS_prlimit64,
            &[0, resource, at, 0],
        );
    }
    let taken = limits::dump(&mut to_source(target)).unwrap();
    drop(first);
    let second = poor::Poor::of_nobody();
    let mut target = second.target(0x10_0000);
    let at = words(&mut target.leader, &[10, 2000]);
    must(&mut target.leader, libc::SYS_prlimit64, &[0, 7, at, 0]);
    limits::widen(&mut target.leader).unwrap();
    let widened = kernel::proc::limits::read(second.pid).unwrap();
    assert_eq!((widened[7].soft, widened[7].hard), (Some(2000), Some(2000)));
    assert_eq!(widened[3].soft.is_some(), taken.resources[3].soft.is_some());
    let words = limits::restore(&mut target, &taken).unwrap();
    assert!(words.is_empty(), "{words:?}");
    let again = limits::dump(&mut to_source(target)).unwrap();
    assert_eq!(again, taken);
}
