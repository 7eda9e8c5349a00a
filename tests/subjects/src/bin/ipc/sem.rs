//! Semaphores of System V: values, who was the last, and what is taken back when a process ends.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use kernel::sysv::sem::{self, Operation};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe, read, write};
use std::process::ExitCode;
use subject::Stage;

const COUNT: u32 = 5;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let _ = unshare(CloneFlags::CLONE_NEWIPC);
    let passing = sem::make(0, 1, 0o600).expect("semget");
    sem::remove(passing).expect("remove it");
    let set = sem::make(0x5eaf, COUNT, 0o640).expect("semget");
    let fresh = sem::make(0, 2, 0o600).expect("semget");
    sem::set_values(set, &[3, 0, 32767, 10, 0]).expect("SETALL");
    // A thread shares what is taken back with its process.
    let ours = [Operation::new(0, -1), Operation::new(1, 4)].map(Operation::undone);
    std::thread::spawn(move || sem::operate(set, &ours).expect("semop"))
        .join()
        .expect("the thread");
    let (told, tell) = pipe().expect("pipe");
    let (heard, say) = pipe().expect("pipe");
    let child = fork(|| {
        let theirs = [Operation::new(2, -7), Operation::new(3, 100)].map(Operation::undone);
        let done = sem::operate(set, &theirs).is_ok();
        let _ = write(&say, &[u8::from(done)]);
        let _ = read(&told, &mut [0]);
        0
    })
    .expect("fork");
    let mut byte = [0];
    read(&heard, &mut byte).expect("hear the child");
    assert_eq!(byte, [1], "semop in the child");
    let look = || {
        let pids: Vec<_> = (0..COUNT)
            .map(|number| sem::last_pid(set, number))
            .collect();
        (
            sem::list(),
            sem::values(set, COUNT),
            sem::values(fresh, 2),
            pids,
        )
    };
    let before = look();

    stage.wait();

    stage.same("sets, values and who was the last", before, look());
    write(&tell, &[1]).expect("tell the child");
    waitpid(Pid::from_raw(child), None).expect("wait for the child");
    let after = sem::values(set, COUNT);
    stage.same(
        "what the child did is taken back",
        Ok(vec![2, 4, 32767, 10, 0]),
        after,
    );
    // What we owe is seen by nobody before we end: but that it is in the way of owing too much.
    let more = Operation::new(1, 32760).undone();
    let all = [
        more,
        Operation::new(1, -32760),
        Operation::new(1, 4).undone(),
    ];
    let within = sem::operate(set, &all);
    stage.holds("four are owed, and four more may be", within.is_ok());
    let one = sem::operate(set, &[Operation::new(1, 1).undone()]).map_err(|e| e.raw());
    stage.same("and not one more", Err(Some(kernel::sysv::ERANGE)), one);
    stage.leave()
}
