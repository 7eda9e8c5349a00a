//! Open and mapped files whose names others have by now, or whose directories are gone, and files about the dead: what of
//! them /proc shows is not what it was, but they are.
#![forbid(unsafe_code)]

use ferry_tests::{Host, Program, Way, asked, programs};

#[test]
fn files_whose_names_are_taken_or_whose_directories_are_gone_survive_three_generations() {
    let host = Host::new("alder");
    let line = format!(
        "/usr/bin/python3 {} {}",
        programs().join("gone.py").display(),
        host.path("files").display()
    );
    std::fs::create_dir(host.path("files")).expect("make a directory");
    let mut program = Program::alone(&host, "gone", &line);
    program.says("ready");
    for way in [Way::File, Way::Bare, Way::Pipe] {
        program = Way::carry(way, &program, &host, "").0;
    }
    std::fs::write(host.path("files/go"), b"").expect("tell the program");
    let said = program.says("done");
    for words in [
        "first: first 0",
        "second: second 1 True",
        "removed: removed 0 0 []",
        "linked: linked 1 True",
        "mapped: OLD version OLD version",
        "there: new version ['go', 'one', 'other', 'program', 'same']",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn what_is_open_about_the_dead_is_not_about_who_has_their_numbers() {
    asked::survives_three_generations("heirs");
}
