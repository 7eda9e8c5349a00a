//! Names of unix sockets: relative ones, those whose file was removed, and those whose file is another socket's by now.
#![forbid(unsafe_code)]

use ferry_tests::{Host, Program, Way, programs};

#[test]
fn relative_removed_and_replaced_names_survive_three_generations() {
    let host = Host::new("alder");
    let line = format!(
        "/usr/bin/python3 {} {}",
        programs().join("names.py").display(),
        host.path("").display()
    );
    let mut program = Program::alone(&host, "names", &line);
    program.says("ready");
    // By a file: in a live pipe the original still answers at its names.
    for way in [Way::File, Way::File, Way::File] {
        program = Way::carry(way, &program, &host, "").0;
    }
    std::fs::write(host.path("go"), b"").expect("tell the program");
    let said = program.says("done");
    for words in [
        "who waits: still here",
        "names: True",
        "relative: yes",
        "absolute: yes",
        "newer: yes",
        "removed: False",
        "in another root: /inner",
        "before that: True",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}
