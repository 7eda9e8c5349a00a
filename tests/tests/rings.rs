//! Queues of asynchronous I/O: under load, with events not read, and with requests that do not end.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Podman, Program, Traces, Way, programs, until};
use std::path::{Path, PathBuf};

fn started<'h>(host: &'h Host, words: &str) -> (PathBuf, Program<'h>) {
    let directory = host.path("rings");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "/usr/bin/python3 {} {} {words}",
        programs().join("rings.py").display(),
        directory.display()
    );
    let program = Program::alone(host, "rings", &line);
    until("the program", LONG, || {
        directory.join("ready").exists().then_some(())
    });
    (directory, program)
}

/// Asks whether all is as it was.
fn is_whole(directory: &Path) {
    std::fs::write(directory.join("ask"), b"").expect("ask");
    let said = until("the answer", LONG, || {
        std::fs::read_to_string(directory.join("said")).ok()
    });
    assert_eq!(said, "y");
}

#[test]
fn queues_of_asynchronous_io_go_on_where_they_were() {
    let host = Host::new("alder");
    let (directory, mut program) = started(&host, "");
    for way in [Way::Pipe, Way::File, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
    }
    is_whole(&directory);
}

#[test]
fn queues_of_asynchronous_io_go_on_in_a_container_of_podmans() {
    let host = Podman::new("alder");
    let directory = host.path("rings");
    std::fs::create_dir(&directory).expect("make a directory");
    // The image's Python has no ctypes; this host's has.
    let line = format!(
        "-v /usr:/usr:ro -v {0}:{0} -v {1}:{1}:ro base python3 {1}/rings.py {0}",
        directory.display(),
        programs().display()
    );
    let container = host.run("rings", &line);
    until("the program", LONG, || {
        directory.join("ready").exists().then_some(())
    });
    let archive = container.taken("");
    host.restored("-n again", &archive);
    is_whole(&directory);
}

#[test]
fn a_program_that_is_only_looked_at_has_the_events_it_had() {
    let host = Host::new("alder");
    let (directory, program) = started(&host, "");
    for _ in 0..20 {
        host.sh(&format!(
            "checkpoint --leave-running pid:{} > /dev/null",
            program.pid
        ))
        .ok();
    }
    is_whole(&directory);
}

#[test]
fn requests_that_do_not_end_are_counted_and_the_program_runs_on() {
    let host = Host::new("alder");
    let (directory, program) = started(&host, "poll");
    let traces = Traces::of(&host);
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    let words = "(io_setup) with 2 requests on their way";
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    program.runs_free();
    traces.assert_none_left(&host);
    is_whole(&directory);
}
