//! Unix sockets whose other end is outside the container: refused by name, or taken without it (`--ext-unix`).
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Restored, Traces, programs, until};

/// A service outside with a datagram socket and a stream in its directory, and a program that is connected to both.
fn start(host: &Host) -> (i32, Program<'_>) {
    let line = |role: &str| {
        format!(
            "/usr/bin/python3 {} {role} {}",
            programs().join("outside.py").display(),
            host.path("").display()
        )
    };
    let service = host.start(&line("service"), &host.path("service.out"));
    until("the service", LONG, || {
        host.path("stream").exists().then_some(())
    });
    let program = Program::alone(host, "client", &line("client"));
    program.says("ready");
    (service, program)
}

fn service_says(host: &Host, words: &str) {
    until(words, LONG, || {
        let said = std::fs::read_to_string(host.path("service.out")).unwrap_or_default();
        said.contains(words).then_some(())
    });
}

#[test]
fn a_peer_outside_is_refused_with_the_option_that_helps() {
    let host = Host::new("alder");
    let (service, program) = start(&host);
    let traces = Traces::of(&host);
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    assert!(outcome.stderr.contains("--ext-unix"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("/stream"), "{}", outcome.stderr);
    program.runs_free();
    traces.assert_none_left(&host);
    host.kill(service);
}

#[test]
fn datagrams_find_the_name_again_and_streams_end_after_what_waited() {
    let host = Host::new("alder");
    let (service, program) = start(&host);
    service_says(&host, "heard letter before");
    let mut program = program;
    for _ in 0..2 {
        let line = format!("checkpoint --ext-unix pid:{} | restore --json", program.pid);
        let report = host.sh(&line).ok();
        program = program.moved(&host, Restored::read(&report).pid);
    }
    std::fs::write(host.path("go"), b"").expect("tell the program");
    program.says("stream: waiting, then the end");
    program.says("writing there: BrokenPipeError");
    program.says("a letter is sent");
    service_says(&host, "heard letter after");
    host.kill(service);
}

#[test]
fn where_nobody_has_the_name_the_program_finds_no_peer() {
    let host = Host::new("alder");
    let (service, program) = start(&host);
    let file = host.path("archive").display().to_string();
    host.sh(&format!(
        "checkpoint --ext-unix pid:{} | pack > {file}",
        program.pid
    ))
    .ok();
    host.kill(service);
    until("the service to end", LONG, || {
        (!host.lives(service)).then_some(())
    });
    let report = host.sh(&format!("restore --json < {file}")).ok();
    let program = program.moved(&host, Restored::read(&report).pid);
    std::fs::write(host.path("go"), b"").expect("tell the program");
    program.says("a letter is lost");
}
