//! A program that a checkpoint only looks at, or fails to take, sees nothing of it: no call ends early, no wait gets longer.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, built, until};

/// Starts a subject, does something to it once it is ready, and wants a good verdict.
fn undisturbed_by(subject: &str, lines: &[&str]) {
    let host = Host::new("alder");
    let directory = host.path(subject);
    std::fs::create_dir(&directory).expect("make the subject's directory");
    let line = format!(
        "{} {}",
        built().join(subject).display(),
        directory.display()
    );
    let program = Program::shared(&host, "subject", &line);
    until("the subject to be ready", LONG, || {
        directory.join("ready").exists().then_some(())
    });
    for line in lines {
        host.sh(&line.replace("PID", &program.pid.to_string())).ok();
    }
    std::fs::write(directory.join("go"), b"").expect("tell the subject");
    let verdict = until("the verdict", LONG, || {
        let text = std::fs::read_to_string(directory.join("verdict")).ok()?;
        text.ends_with('\n').then_some(text)
    });
    assert_eq!(verdict, "ok\n");
}

/// The second and third find calls that the kernel has restarted; the last one fails half-way.
const LOOKS: [&str; 4] = [
    "checkpoint --leave-running pid:PID > /dev/null",
    "checkpoint --leave-running pid:PID > /dev/null",
    "checkpoint --leave-running pid:PID > /dev/null",
    "! checkpoint pid:PID | head -c 100 > /dev/null",
];

#[test]
fn a_program_that_is_only_looked_at_waits_no_longer() {
    undisturbed_by("threads-waits", &LOOKS);
}

#[test]
fn a_program_that_is_only_looked_at_sees_no_call_end() {
    undisturbed_by("threads-calls", &LOOKS);
}
