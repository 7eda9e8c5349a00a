//! A thousand tasks, all alive and right after three generations: wide and deep trees of processes, and threads.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Way, built, until};

const COUNT: usize = 1000;

/// `kind` is what `crowd` (tests/src/bin/crowd.rs) makes.
fn a_thousand(kind: &str) {
    let host = Host::new("alder");
    let directory = host.path("crowd");
    std::fs::create_dir(&directory).expect("make the crowd's directory");
    let (crowd, at) = (built().join("crowd"), directory.display());
    let line = format!("{} {kind} {COUNT} {at}", crowd.display());
    let mut program = Program::alone(&host, "crowd", &line);
    until("the crowd to begin", LONG, || {
        directory.join("asked").exists().then_some(())
    });
    let answers = |when: &str| {
        let right = host
            .sh(&format!("{} call {at} {COUNT}", crowd.display()))
            .ok();
        assert_eq!(right, COUNT.to_string(), "tasks right {when}");
    };
    answers("before");
    for (way, when) in [
        (Way::Bare, "once"),
        (Way::Pipe, "twice"),
        (Way::Directory, "three times"),
    ] {
        program = Way::carry(way, &program, &host, "").0;
        answers(&format!("after they were moved {when}"));
    }
    program.runs_free();
}

#[test]
fn a_thousand_children_of_one_parent_survive() {
    a_thousand("wide");
}

#[test]
fn a_thousand_processes_each_below_the_last_survive() {
    a_thousand("deep");
}

#[test]
fn a_thousand_threads_survive() {
    a_thousand("threads");
}
