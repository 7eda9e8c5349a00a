//! File system watches of the wider kind (fanotify): told of what they watch, and of nothing else.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Traces, Way, programs, until};
use std::path::PathBuf;

fn started<'h>(host: &'h Host, words: &str) -> (PathBuf, Program<'h>) {
    let directory = host.path("watches");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "/usr/bin/python3 {} {} {words}",
        programs().join("watches.py").display(),
        directory.display()
    );
    let program = Program::alone(host, "watches", &line);
    until("the program", LONG, || {
        directory.join("ready").exists().then_some(())
    });
    (directory, program)
}

#[test]
fn files_mounts_and_file_systems_are_watched_on() {
    let host = Host::new("alder");
    let (directory, mut program) = started(&host, "");
    for way in [Way::Pipe, Way::File, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
    }
    std::fs::write(directory.join("ask"), b"").expect("ask");
    let said = until("the answer", LONG, || {
        std::fs::read_to_string(directory.join("said")).ok()
    });
    assert_eq!(said, "y");
}

#[test]
fn one_that_decides_for_others_is_named_and_runs_on() {
    let host = Host::new("alder");
    let (_, program) = started(&host, "decides");
    let traces = Traces::of(&host);
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    let words = "fanotify, which decides what others may open";
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    program.runs_free();
    traces.assert_none_left(&host);
}
