//! What the kernel keeps for each thread, in a program of Python's (`programs/settings.py`) whose threads and children differ in it:
//! scheduling of every kind, credentials, filters of system calls.
#![forbid(unsafe_code)]

use ferry_tests::{Host, Program, Restored, Way, programs};

fn with_settings<'h>(
    host: &'h Host,
    start: fn(&'h Host, &str, &str) -> Program<'h>,
) -> Program<'h> {
    let directory = host.path("settings");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "/usr/bin/python3 {} {}",
        programs().join("settings.py").display(),
        directory.display()
    );
    let program = start(host, "settings", &line);
    for line in program.says("set\n").lines() {
        if line.starts_with("has not") {
            println!("not seen here: {line}");
        }
    }
    program
}

/// Has all look at what they have.
fn all_have_what_they_had(program: &Program<'_>) {
    std::fs::write(program.host.path("settings/go"), b"").expect("tell the program");
    program.ends();
    let said = std::fs::read_to_string(&program.output).expect("its output");
    let verdict = said.lines().skip_while(|line| *line != "set").nth(1);
    assert_eq!(verdict, Some("ok"), "{said}");
}

#[test]
fn threads_keep_what_they_have_where_nobody_looks() {
    let host = Host::new("alder");
    all_have_what_they_had(&with_settings(&host, Program::alone));
}

#[test]
fn threads_keep_what_they_have_through_three_generations() {
    let host = Host::new("alder");
    let mut program = with_settings(&host, Program::alone);
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
    }
    all_have_what_they_had(&program);
}

#[test]
fn threads_keep_what_they_have_in_the_hosts_namespaces() {
    let host = Host::new("alder");
    let program = with_settings(&host, Program::shared);
    let (program, _) = Way::File.carry(&program, &host, "");
    all_have_what_they_had(&program);
}

#[test]
fn threads_keep_what_they_have_and_nothing_of_who_restores_them() {
    let host = Host::new("alder");
    let program = with_settings(&host, Program::alone);
    let before = program.state_at_rest();
    let file = host.path("archive").display().to_string();
    host.sh(&format!("checkpoint pid:{} > {file}", program.pid))
        .ok();
    let burdened = programs().join("burdened.py").display().to_string();
    let line = format!("restore --json < {file}");
    let restored = host.sh(&format!("/usr/bin/python3 {burdened} '{line}'"));
    println!("{}", restored.stderr);
    let program = program.moved(&host, Restored::read(&restored.ok()).pid);
    before.assert_kept_by(&program, |state| state);
    all_have_what_they_had(&program);
}
