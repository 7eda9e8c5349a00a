//! Sockets whose state the kernel does not give away: each is named before anything is touched, all at once.
#![forbid(unsafe_code)]

use ferry_tests::{Host, Program, Traces, programs};

#[test]
fn sockets_that_cannot_travel_are_refused_by_name() {
    let host = Host::new("alder");
    let line = format!(
        "/usr/bin/python3 {}",
        programs().join("many_sockets.py").display()
    );
    let program = Program::alone(&host, "sockets", &line);
    let output = program.says("ready");
    let (mut had, mut lacked) = (vec![], vec![]);
    for line in output.lines() {
        if let Some(name) = line.strip_prefix("has ") {
            had.push(name.to_owned());
        } else if let Some(name) = line.strip_prefix("lacks ") {
            lacked.push(name.to_owned());
        }
    }
    // What this kernel has no such sockets of, no container can hold.
    println!("{} kinds are not here: {lacked:?}", lacked.len());
    assert!(
        had.iter().any(|name| name == "a connection of MPTCP"),
        "{output}"
    );
    let traces = Traces::of(&host);
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    for name in &had {
        let line = outcome.stderr.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not named: {}", outcome.stderr));
        assert!(line.contains("descriptor"), "which one: {line}");
    }
    program.runs_free();
    traces.assert_none_left(&host);
}
