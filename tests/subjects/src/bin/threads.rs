//! Threads: ids, names, what is their own in memory and in the kernel, and the locks and queues between them.
#![forbid(unsafe_code)]

use kernel::own::setting;
use kernel::{proc::Proc, robust, sched};
use nix::sched::sched_getcpu;
use nix::unistd::gettid;
use std::cell::Cell;
use std::process::ExitCode;
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use subject::Stage;

const WORKERS: usize = 6;

thread_local! {
    static OWN: Cell<usize> = const { Cell::new(0) };
}

/// All that is the calling thread's own.
fn own() -> Vec<String> {
    let tid = gettid().as_raw();
    let proc = Proc::process(tid);
    let text = |name: &str| proc.text(name).expect("read /proc");
    let status = kernel::proc::status::parse(&text("status"));
    vec![
        format!("tid {tid}"),
        format!("in memory {}", OWN.get()),
        format!("name {}", text("comm").trim()),
        format!("robust list {:?}", robust::list(tid)),
        format!("scheduling {:?}", sched::attributes(tid)),
        format!("processors {:?}", sched::processors(tid)),
        format!("io priority {:?}", sched::io_priority(tid)),
        format!("timer slack {:?}", nix::sys::prctl::get_timerslack()),
        format!("blocked {:?}", status.get("SigBlk")),
        format!("time stamp counter faults {:?}", setting::tsc_faults().ok()),
        format!(
            "alternate stack {:?}",
            kernel::own::signal::alternate_stack()
        ),
    ]
}

fn distinguish(i: usize) {
    let tid = gettid().as_raw();
    OWN.set(1000 + i);
    let mut attributes = sched::attributes(tid).expect("attributes");
    attributes.nice = i as i32;
    if i == 2 {
        attributes.policy = 3; // SCHED_BATCH
    }
    sched::set_attributes(tid, attributes).expect("set attributes");
    if i == 3 {
        setting::make_tsc_fault().expect("the time stamp counter");
    }
    if i == 1 {
        sched::set_processors(tid, &[0]).expect("set processors");
    }
    sched::set_io_priority(tid, 2 << 13 | i as u32).expect("io priority");
    nix::sys::prctl::set_timerslack(70_000 + i as u64).expect("timer slack");
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let start = Arc::new(Barrier::new(WORKERS + 1));
    let told = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::new(Mutex::new(0));
    let (say, heard) = mpsc::channel();
    let mut workers = Vec::new();
    for i in 0..WORKERS {
        let (start, told, held, say) = (start.clone(), told.clone(), held.clone(), say.clone());
        let worker = std::thread::Builder::new().name(format!("worker ({i}) x"));
        let work = move || {
            distinguish(i);
            let before = own();
            // The first holds a lock the whole time; the last wants it the whole time.
            let lock = (i == 0).then(|| held.lock().expect("lock"));
            start.wait();
            if i == WORKERS - 1 {
                *held.lock().expect("lock") += 1;
            }
            let (flag, changed) = &*told;
            let mut is_told = flag.lock().expect("lock");
            while !*is_told {
                is_told = changed.wait(is_told).expect("wait");
            }
            drop(is_told);
            drop(lock);
            let processor = if i == 1 {
                sched_getcpu().expect("getcpu")
            } else {
                0
            };
            say.send((i, before, own(), processor)).expect("say");
        };
        workers.push(worker.spawn(work).expect("spawn"));
    }
    start.wait();
    let leader = own();
    stage.wait();
    stage.same("the leader", leader, own());
    *told.0.lock().expect("lock") = true;
    told.1.notify_all();
    for _ in 0..WORKERS {
        let (i, before, after, processor) = heard.recv().expect("hear");
        stage.same(&format!("worker {i}"), before, after);
        stage.same(
            "the processor (by rseq) of the one that has only processor 0",
            0,
            processor,
        );
    }
    for worker in workers {
        stage.holds("a thread ends and is joined", worker.join().is_ok());
    }
    stage.same("what the lock guards", 1, *held.lock().expect("lock"));
    stage.leave()
}
