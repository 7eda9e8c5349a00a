//! Message queues of System V with messages of several types, one of them full, one without any.
#![forbid(unsafe_code)]

use kernel::sysv::msg;
use nix::sched::{CloneFlags, unshare};
use std::process::ExitCode;
use subject::Stage;

fn all(id: i32) -> Vec<(i64, Vec<u8>)> {
    (0..)
        .map_while(|at| msg::peek(id, at, 10000).expect("peek"))
        .collect()
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let _ = unshare(CloneFlags::CLONE_NEWIPC);
    let passing = msg::make(0, 0o600).expect("msgget");
    msg::remove(passing).expect("remove it");
    let queue = msg::make(0x5eaf, 0o620).expect("msgget");
    let full = msg::make(0, 0o600).expect("msgget");
    let empty = msg::make(7, 0o600).expect("msgget");
    for (kind, text) in [(9, "one"), (2, ""), (9, "three"), (i64::MAX, "four")] {
        msg::send(queue, kind, text.as_bytes()).expect("msgsnd");
    }
    let long: Vec<u8> = (0..8192u32).map(|i| (i * 7) as u8).collect();
    while msg::send(full, 1, &long).is_ok() {}
    let mut lower = msg::list().expect("list")[1].permissions;
    lower.id = full;
    lower.mode = 0o600;
    msg::set(&lower, 5000).expect("less than is in it");
    let look = || {
        (
            msg::list(),
            [queue, full, empty].map(|id| (all(id), msg::limit(id))),
        )
    };
    let before = look();

    stage.wait();

    stage.same("queues and messages", before, look());
    stage.holds("a full one takes no more", msg::send(full, 1, b"").is_err());
    let sent = msg::send(queue, 5, b"another");
    stage.holds("another one does", sent.is_ok());
    stage.same(
        "at its end",
        Some((5, b"another".to_vec())),
        all(queue).pop(),
    );
    stage.leave()
}
