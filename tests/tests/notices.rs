//! Who waits to be told of the next message in a queue (mq_notify) is told by it, and by nothing before.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Podman, Program, Traces, Way, programs, until};
use std::path::{Path, PathBuf};

fn started<'h>(host: &'h Host, words: &str) -> (PathBuf, Program<'h>) {
    let directory = host.path("notices");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "/usr/bin/python3 {} {} {words}",
        programs().join("notices.py").display(),
        directory.display()
    );
    let program = Program::alone(host, "notices", &line);
    until("the program", LONG, || {
        directory.join("ready").exists().then_some(())
    });
    (directory, program)
}

/// Asks whether it is told what it should be, once.
fn is_told(directory: &Path) {
    std::fs::write(directory.join("ask"), b"").expect("ask");
    let said = until("the answer", LONG, || {
        std::fs::read_to_string(directory.join("said")).ok()
    });
    assert_eq!(said, "y");
}

#[test]
fn who_waits_for_a_message_is_told_of_it_by_signal_or_socket() {
    let host = Host::new("alder");
    let (directory, mut program) = started(&host, "");
    for way in [Way::Pipe, Way::File, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
    }
    is_told(&directory);
}

#[test]
fn who_waits_for_a_message_is_told_of_it_in_a_container_of_podmans() {
    let host = Podman::new("alder");
    let directory = host.path("notices");
    std::fs::create_dir(&directory).expect("make a directory");
    // The image's Python has no ctypes; this host's has.
    let line = format!(
        "-v /usr:/usr:ro -v {0}:{0} -v {1}:{1}:ro base python3 {1}/notices.py {0}",
        directory.display(),
        programs().display()
    );
    let container = host.run("notices", &line);
    until("the program", LONG, || {
        directory.join("ready").exists().then_some(())
    });
    let archive = container.taken("");
    host.restored("-n again", &archive);
    is_told(&directory);
}

#[test]
fn who_is_only_looked_at_is_told_as_before() {
    let host = Host::new("alder");
    let (directory, program) = started(&host, "");
    for _ in 0..5 {
        host.sh(&format!(
            "checkpoint --leave-running pid:{} > /dev/null",
            program.pid
        ))
        .ok();
    }
    is_told(&directory);
}

#[test]
fn one_whose_signal_waits_already_is_named_and_not_told() {
    let host = Host::new("alder");
    let (directory, program) = started(&host, "blocked");
    let traces = Traces::of(&host);
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    let words = "message queue /empty: it waits to be told of the next message (mq_notify) by a signal, and there is one already";
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    program.runs_free();
    traces.assert_none_left(&host);
    is_told(&directory);
}
