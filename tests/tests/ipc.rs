//! System V IPC: what of it is in the way, and a database that cannot be without it.
#![forbid(unsafe_code)]

use ferry_tests::asked::{self, Asked};
use ferry_tests::{Host, LONG, Program, programs, until};

fn sysv(kind: &str) -> String {
    format!("/usr/bin/python3 {}/sysv.py {kind}", programs().display())
}

/// Refused with these words, and it has not noticed.
fn is_refused(host: &Host, program: &Program, words: &str) {
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    program.runs_free();
    assert!(host.lives(program.pid));
}

#[test]
fn a_segment_of_the_hosts_namespace_is_named() {
    let host = Host::new("alder");
    let program = Program::shared(&host, "program", &sysv("segment"));
    program.says("ready");
    is_refused(&host, &program, "of an ipc namespace that is the host's");
}

#[test]
fn what_is_taken_back_in_the_hosts_namespace_is_named() {
    let host = Host::new("alder");
    let program = Program::shared(&host, "program", &sysv("undo"));
    program.says("ready");
    // Of a program with one thread only there is nothing to be seen while it owes nothing; this one owes.
    is_refused(&host, &program, "taken back when it ends (SEM_UNDO)");
}

#[test]
fn a_segment_that_somebody_outside_uses_too_is_named() {
    let host = Host::new("alder");
    let program = Program::alone(&host, "program", &sysv("outside"));
    program.says("ready");
    let attach = "import ctypes, time; c = ctypes.CDLL(None); c.shmat.restype = ctypes.c_void_p; \
                  c.shmat(c.shmget(0x5eaf, 4096, 0), None, 0); print('attached', flush=True); time.sleep(1000)";
    let line = format!(
        "nsenter --ipc --target {} /usr/bin/python3 -c \"{attach}\"",
        program.pid
    );
    let outside = Program::shared(&host, "outside", &line);
    outside.says("attached");
    is_refused(
        &host,
        &program,
        "a process outside the container has it attached",
    );
}

#[test]
fn objects_in_a_namespace_of_a_single_thread_survive_three_generations() {
    asked::survives_three_generations("alone");
}

#[test]
fn a_segment_attached_in_a_namespace_of_a_single_thread_is_named() {
    let host = Host::new("alder");
    let (asked, program) = Asked::alone(&host, "alone", "attached");
    let words = "attached in an ipc namespace that no process is in, but a thread alone";
    is_refused(&host, &program, words);
    asked.is_whole();
}

/// PostgreSQL keeps all its shared memory in one segment here.
#[test]
fn a_database_with_its_memory_in_a_segment_goes_on_through_three_generations() {
    let host = Host::new("alder");
    let home = host.path("postgres").display().to_string();
    let bin = "/usr/lib/postgresql/15/bin";
    let user = "setpriv --reuid postgres --clear-groups";
    host.sh(&format!(
        "mkdir -m 755 {home} && chown postgres {home} && chmod 755 $(dirname {home}) && \
         {user} {bin}/initdb -D {home}/db -A trust -N"
    ))
    .ok();
    let line = format!(
        "{user} {bin}/postgres -D {home}/db -k {home} -c listen_addresses= -c shared_memory_type=sysv -c fsync=off"
    );
    let mut program = Program::alone(&host, "postgres", &line);
    let ask = |program: &Program, query: &str| {
        let outcome = program.network(&format!(
            "{user} {bin}/psql -h {home} -U postgres postgres -Atc '{query}'"
        ));
        (outcome.code == 0).then(|| outcome.stdout.trim().to_owned())
    };
    until("the database to answer", LONG, || ask(&program, "select 1"));
    ask(
        &program,
        "create table t (i int); insert into t select generate_series(1, 1000)",
    )
    .expect("a table");
    let image = host.path("image").display().to_string();
    for generation in 1..=3 {
        host.sh(&format!("checkpoint pid:{} > {image}", program.pid))
            .ok();
        let report = host.sh(&format!("restore --json < {image}")).ok();
        program = program.moved(&host, ferry_tests::Restored::read(&report).pid);
        let sum = 500500 + generation * (generation + 1) / 2;
        let answer = ask(
            &program,
            &format!("insert into t values ({generation}); select sum(i) from t"),
        );
        assert_eq!(answer, Some(format!("INSERT 0 1\n{sum}")));
    }
    assert_eq!(ask(&program, "checkpoint"), Some("CHECKPOINT".to_owned()));
}
