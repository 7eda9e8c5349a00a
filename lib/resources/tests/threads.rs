//! Threads, between two live processes at the same addresses.

mod pair;

use image::threads::{Thread, Wait};
use kernel::remote::{Call, Caller};
use pair::{Sleeper, everybody, free_ids, must, to_source, words};
use resources::credentials::Base;
use resources::tree::Numbers;
use resources::{SourceProcess, credentials, threads};
use std::time::{Duration, Instant};

fn dump(source: &mut SourceProcess) -> Vec<Thread> {
    let of_process = credentials::dump(source).unwrap();
    source.threads[0].guest.rest().unwrap();
    let inside = everybody(source);
    threads::dump(source, &inside, &of_process).unwrap()
}

#[test]
fn what_the_kernel_keeps_for_a_thread_survives() {
    let first = Sleeper::new("1000");
    let mut target = first.target();
    let ids = free_ids(3);
    threads::create(&mut target, &ids, &mut Numbers::default()).unwrap();
    let mut faults = false;
    for (i, id) in ids.iter().enumerate() {
        let n = i as u64 + 1;
        let stub = target.threads.get_mut(id).unwrap();
        if i != 2 {
            let at = words(stub, &[0x7000_0000 * n, 0, 0x4000 * n]);
            must(stub, libc::SYS_sigaltstack, &[at, 0]);
        }
        must(stub, libc::SYS_set_robust_list, &[0x1000 * n, 24]);
        must(stub, libc::SYS_set_tid_address, &[0x2000 * n]);
        let at = stub.put(format!("worker {i}\n\0").as_bytes()).unwrap();
        must(stub, libc::SYS_prctl, &[libc::PR_SET_NAME as u64, at]);
        must(
            stub,
            libc::SYS_prctl,
            &[libc::PR_SET_TIMERSLACK as u64, 1000 * n],
        );
        must(stub, libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as u64, n]);
        must(stub, libc::SYS_ioprio_set, &[1, 0, 2 << 13 | n]);
        if i == 1 {
            must(stub, libc::SYS_prctl, &[libc::PR_SET_TSC as u64, 2]);
            // ARCH_SET_CPUID: where the processor can.
            let set = Call::new(libc::SYS_arch_prctl, &[0x1012, 0]);
            faults = stub.call(set).unwrap() == 0;
        }
        must(stub, libc::SYS_setpriority, &[0, 0, n]);
    }
    kernel::sched::set_processors(ids[1], &[0]).unwrap();
    let mut source = to_source(target);
    let taken = dump(&mut source);
    assert!(taken[0].rseq.is_some() && taken[0].robust_list.is_some());
    let thread = taken.iter().find(|t| t.tid == ids[1]).unwrap();
    assert_eq!(thread.name.0, b"worker 1\n");
    assert_eq!(thread.alternate_stack.as_ref().unwrap().size, 0x8000);
    assert_eq!(thread.clear_child_tid, 0x4000);
    assert_eq!((thread.death_signal, thread.scheduling.nice), (2, 2));
    assert_eq!(thread.scheduling.processors, Some(vec![0]));
    assert!(thread.controls.no_tsc && thread.controls.no_cpuid == faults);
    assert!(!taken[0].controls.no_tsc);
    assert_eq!(
        (thread.scheduling.timer_slack, thread.scheduling.io_priority),
        (2000, 2 << 13 | 2)
    );
    drop(source);
    drop(first);

    let second = Sleeper::new("1000");
    let mut target = second.target();
    threads::unregister_rseq(&mut target.leader).unwrap();
    threads::unregister_rseq(&mut target.leader).unwrap();
    threads::create(&mut target, &ids, &mut Numbers::default()).unwrap();
    let of_process = credentials::dump(&mut Sleeper::new("1000").untouched()).unwrap();
    for record in &taken {
        let stub = target
            .threads
            .get_mut(&record.tid)
            .unwrap_or(&mut target.leader);
        let words = threads::restore(stub, record).unwrap();
        assert!(words.is_empty(), "{words:?}");
        credentials::restore(stub, record, &of_process, &Base::default()).unwrap();
    }
    let mut again = dump(&mut to_source(target));
    again[0].tid = taken[0].tid;
    for (before, after) in taken.iter().zip(&mut again) {
        // Registers come last, by `release`: the next test.
        after.registers = before.registers.clone();
        after.extended = before.extended.clone();
        assert_eq!(before, after);
    }
}

#[test]
fn a_sleep_goes_on_with_the_time_that_remained() {
    let first = Sleeper::new("1.5");
    std::thread::sleep(Duration::from_millis(1000));
    let mut source = first.untouched();
    let mut taken = dump(&mut source);
    let registers = taken[0].registers.clone();
    assert_eq!((registers.orig_rax, registers.rax as i64), (230, -516));
    // The stack, where the kernel has written what remains; `tree::freeze` has it from the kernel's timers.
    let remains: [u8; 16] = kernel::vm::read_array(first.pid(), registers.r10).unwrap();
    let [seconds, nanoseconds] =
        [0, 8].map(|at| u64::from_ne_bytes(remains[at..at + 8].try_into().unwrap()));
    taken[0].wait = Some(Wait {
        call: 230,
        remaining: Some(seconds * 1_000_000_000 + nanoseconds),
    });
    drop(source);
    drop(first);

    let mut second = Sleeper::new("1000");
    let mut target = second.target();
    threads::restore(&mut target.leader, &taken[0]).unwrap_err(); // rseq is still registered
    threads::unregister_rseq(&mut target.leader).unwrap();
    threads::restore(&mut target.leader, &taken[0]).unwrap();
    let remembered = threads::wait_again(&mut target.leader, &taken[0]).unwrap();
    assert!(remembered, "the kernel goes on with it");
    let stopped = target.leader.remove().unwrap();
    let stopped = threads::release(stopped, &taken[0], remembered).unwrap();
    let set = stopped.registers().unwrap();
    assert_eq!(set.fs_base, registers.fs_base);
    let begin = Instant::now();
    stopped.detach(0).unwrap();
    assert!(second.exits(Duration::from_secs(2)), "it sleeps on and on");
    let slept = begin.elapsed();
    assert!((300..900).contains(&slept.as_millis()), "{slept:?}");
}

#[test]
fn vector_registers_and_mask_come_back_bit_by_bit() {
    let first = Sleeper::new("1000");
    let mut source = first.untouched();
    let mut record = dump(&mut source).remove(0);
    for (i, component) in record.extended.components.iter_mut().enumerate() {
        if [2, 5, 6, 7].contains(&component.number) {
            component.bytes.0.fill(i as u8 + 0x41);
        }
    }
    // xmm0 to xmm15 begin at byte 160 of the legacy region (FXSAVE).
    record.extended.legacy.0[160..416].fill(0x5a);
    record.extended.in_use |= 3;
    record.mask = 0x8000_0001 | 1 << 40;
    let second = Sleeper::new("1000");
    let target = second.target();
    let stopped = threads::release(target.leader.remove().unwrap(), &record, false).unwrap();
    let found = kernel::arch::xstate::read(&stopped).unwrap();
    assert_eq!(found.legacy, record.extended.legacy.0);
    let components: Vec<_> = record
        .extended
        .components
        .iter()
        .map(|c| (c.number, c.bytes.0.clone()))
        .collect();
    assert_eq!(found.components, components);
    assert_eq!(stopped.signal_mask().unwrap(), record.mask);
    // It runs on, and still sleeps.
    stopped.detach(0).unwrap();
    second.until_asleep();
}

#[test]
fn a_processor_without_a_component_is_a_blocker() {
    let sleeper = Sleeper::new("1000");
    let mut record = dump(&mut sleeper.untouched()).remove(0);
    assert!(threads::missing(&record).is_empty());
    record.extended.components.push(image::threads::Component {
        number: 19,
        bytes: vec![1; 128].into(),
    });
    let missing = threads::missing(&record);
    assert!(missing[0].what.contains("APX"), "{missing:?}");
}

#[test]
fn a_traced_or_32_bit_process_is_found_before_it_is_frozen() {
    let sleeper = Sleeper::new("1000");
    assert_eq!(threads::blockers(sleeper.pid()).unwrap(), []);
    let _traced = sleeper.untouched();
    let found = threads::blockers(sleeper.pid()).unwrap();
    assert!(found[0].what.contains("traced by process"), "{found:?}");
}
