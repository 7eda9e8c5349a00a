//! Threads that wait in every system call that can wait, of which none may see that it was stopped or moved: a program of Python's
//! (`programs/calls.py`) that knows what an undisturbed kernel does.
#![forbid(unsafe_code)]

use ferry_tests::{Host, Program, Way, programs};
use std::time::Duration;

/// The program, in its calls.
fn waiting<'h>(
    host: &'h Host,
    start: fn(&'h Host, &str, &str) -> Program<'h>,
    seconds: &str,
) -> Program<'h> {
    let directory = host.path("calls");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "/usr/bin/python3 {} {} {seconds}",
        programs().join("calls.py").display(),
        directory.display()
    );
    let program = start(host, "calls", &line);
    program.says("waiting");
    program
}

/// Has them wake, and wants each to give what it should.
fn is_as_it_would_be(program: &Program<'_>) {
    std::fs::write(program.host.path("calls/go"), b"").expect("tell the program");
    program.ends();
    let said = std::fs::read_to_string(&program.output).expect("its output");
    // What follows is said by unshare(1), of the first generation.
    assert_eq!(said.lines().nth(1), Some("ok"), "{said}");
}

#[test]
fn no_call_ends_where_nobody_looks() {
    let host = Host::new("alder");
    is_as_it_would_be(&waiting(&host, Program::alone, ""));
}

#[test]
fn no_call_ends_in_a_program_that_is_only_looked_at() {
    let host = Host::new("alder");
    let program = waiting(&host, Program::alone, "");
    look_at(&program);
    is_as_it_would_be(&program);
}

/// The second and third find calls that the kernel has restarted; the last one fails half-way.
fn look_at(program: &Program<'_>) {
    let pid = program.pid;
    let look = format!("checkpoint --leave-running pid:{pid} > /dev/null");
    let cut = format!("! checkpoint pid:{pid} | head -c 100 > /dev/null");
    for line in [&look, &look, &look, &cut] {
        program.host.sh(line).ok();
    }
}

/// How long calls wait, and how much of that is over when somebody comes: what began anew would take longer than it may.
const WHOLE: &str = "13";
const OVER: Duration = Duration::from_secs(8);

#[test]
fn no_call_waits_longer_in_a_program_that_is_only_looked_at() {
    let host = Host::new("alder");
    let program = waiting(&host, Program::alone, WHOLE);
    std::thread::sleep(OVER);
    look_at(&program);
    is_as_it_would_be(&program);
}

#[test]
fn calls_wait_for_what_remains_of_their_time_through_three_generations() {
    let host = Host::new("alder");
    let mut program = waiting(&host, Program::alone, WHOLE);
    std::thread::sleep(OVER);
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
    }
    is_as_it_would_be(&program);
}

#[test]
fn calls_go_on_through_three_generations() {
    let host = Host::new("alder");
    let mut program = waiting(&host, Program::alone, "");
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
    }
    is_as_it_would_be(&program);
}

#[test]
fn calls_go_on_in_the_hosts_namespaces() {
    let host = Host::new("alder");
    let program = waiting(&host, Program::shared, "");
    let (program, _) = Way::File.carry(&program, &host, "");
    is_as_it_would_be(&program);
}
