//! What the kernel gives nobody a way to make again: named, with its process, and the program runs on.
#![forbid(unsafe_code)]

use ferry_tests::{Host, Program, Traces, programs};

const WAITS: &str = "it waits to be told of the next message (mq_notify)";

/// Has these, by the names that `tests/programs/unmovable.py` has for them, and sees that the words for each are said.
fn refused(kinds: &[(&str, &[&str])]) {
    let host = Host::new("alder");
    let script = programs().join("unmovable.py");
    let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
    let line = format!("/usr/bin/python3 {} {}", script.display(), names.join(" "));
    let program = Program::alone(&host, "unmovable", &line);
    let output = program.says("ready");
    let (had, lacked): (Vec<_>, Vec<_>) = kinds
        .iter()
        .partition(|(name, _)| output.contains(&format!("has {name}\n")));
    // What this kernel does not have, no container can hold.
    println!("{} kinds are not here: {lacked:?}", lacked.len());
    assert!(!had.is_empty(), "{output}");
    let traces = Traces::of(&host);
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    for word in had.iter().flat_map(|(_, words)| *words) {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
    let open = output.lines().filter_map(|line| line.strip_prefix("open "));
    for (name, number) in open.filter_map(|line| line.split_once(' ')) {
        let (_, words) = kinds.iter().find(|(kind, _)| *kind == name).expect("asked");
        let holder = format!("process {}, descriptor {number}: ", program.pid);
        let named = |line: &str| line.contains(&holder) && words.iter().all(|w| line.contains(w));
        let said = outcome.stderr.lines().any(named);
        assert!(said, "{name}, {holder}: {}", outcome.stderr);
    }
    program.runs_free();
    traces.assert_none_left(&host);
}

#[test]
fn chosen_neighbours_and_mappings_without_a_descriptor_are_refused_by_name() {
    refused(&[
        (
            "core",
            &["runs beside chosen others only (core scheduling)"],
        ),
        ("ring", &[": io_uring (end what uses it"]),
        ("counter", &[": a performance counter (end what uses it"]),
        ("secret", &["secret memory (memfd_secret)"]),
    ]);
}

#[test]
fn what_only_a_descriptor_or_a_mount_shows_is_refused_by_name() {
    refused(&[
        ("open_ring", &["io_uring", "switched off"]),
        (
            "open_counter",
            &["a performance counter", "end the profiling first"],
        ),
        ("open_secret", &["secret memory (memfd_secret)"]),
        ("faults", &["userfaultfd"]),
        (
            "autofs",
            &[
                "an autofs file system that the host has not mounted",
                "checkpoint --mount",
            ],
        ),
    ]);
}

#[test]
fn who_waits_at_a_queue_of_the_hosts_is_named() {
    let host = Host::new("alder");
    let line = format!(
        "/usr/bin/python3 {} told",
        programs().join("unmovable.py").display()
    );
    let program = Program::shared(&host, "unmovable", &line);
    program.says("has told");
    let outcome = host.sh(&format!("checkpoint pid:{} > /dev/null", program.pid));
    for name in ["none", "signal"] {
        let queue = format!("/{name}-{}", program.pid);
        let unlink = format!("import ctypes; ctypes.CDLL(None).mq_unlink(b\"{queue}\")");
        host.sh(&format!("/usr/bin/python3 -c '{unlink}'")).ok();
        let words = format!("message queue {queue}: {WAITS}");
        assert!(outcome.stderr.contains(&words), "{outcome:?}");
    }
    outcome.fails_with(4);
    program.runs_free();
}

#[test]
fn a_queue_without_a_name_that_somebody_outside_has_too_is_named() {
    let host = Host::new("alder");
    let line = format!(
        "/usr/bin/python3 {} queue",
        programs().join("unmovable.py").display()
    );
    let program = Program::shared(&host, "unmovable", &line);
    let said = program.says("has queue");
    let child = said.lines().find_map(|line| line.strip_prefix("child "));
    let outcome = host.sh(&format!(
        "checkpoint pid:{} > /dev/null",
        child.expect("a child")
    ));
    let words = [
        "the message queue /shared-",
        &format!(
            "which process {} (python3), outside the container, has open, too",
            program.pid
        ),
    ];
    for word in words {
        assert!(outcome.stderr.contains(word), "{outcome:?}");
    }
    outcome.fails_with(4);
    program.runs_free();
}

#[test]
fn a_descriptor_of_a_thread_that_is_on_its_way_is_refused_by_name() {
    let words = ["(PIDFD_THREAD), sent and not yet received", "descriptor "];
    refused(&[("thread", &words)]);
}
