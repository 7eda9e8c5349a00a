//! The gate before docker's runtime, with a copy of a program in the runtime's place. A program of its own, as the
//! gatekeeper is forked, which wants a process with one thread.

use resources::vessel::engine::gate::Gatekeeper;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, exit};
use std::time::{Duration, Instant};

type Case = (&'static str, fn(&Path));

const CASES: &[Case] = &[
    ("others_pass_at_once", others_pass_at_once),
    ("ones_own_waits_for_the_word", ones_own_waits_for_the_word),
    (
        "nobody_waits_longer_than_seconds_for_a_maker_that_is_silent",
        nobody_waits_longer_than_seconds_for_a_maker_that_is_silent,
    ),
    (
        "the_gate_is_open_once_its_maker_is_gone",
        the_gate_is_open_once_its_maker_is_gone,
    ),
    (
        "a_program_that_is_not_there_is_said",
        a_program_that_is_not_there_is_said,
    ),
];

/// The id of the container.
const ID: &str = "0123456789abcdef";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        let ignored = arguments.iter().any(|a| a == "--ignored");
        let listed = if ignored { &[][..] } else { CASES };
        listed.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    for (name, case) in CASES {
        if filters.is_empty() || filters.iter().any(|f| name.contains(*f)) {
            let directory = tempfile::tempdir().unwrap();
            case(directory.path());
            println!("test {name} ... ok");
        }
    }
    exit(0);
}

/// A copy of a program that nobody else executes.
fn program(directory: &Path) -> PathBuf {
    let program = directory.join("runtime");
    std::fs::copy("/bin/true", &program).unwrap();
    program
}

/// Executes it from a process whose command has the id, as docker's shim does.
fn from_a_shim(program: &Path) -> Child {
    let line = format!("{}; exit 7", program.display());
    let mut shim = Command::new("sh");
    shim.args(["-c", &line, ID]).spawn().unwrap()
}

/// The shim's exit status, once it has one.
fn status(shim: &mut Child, limit: Duration) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = shim.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

fn others_pass_at_once(directory: &Path) {
    let program = program(directory);
    let mut gate = Gatekeeper::start(&program, ID).unwrap();
    let start = Instant::now();
    for _ in 0..20 {
        assert!(Command::new(&program).status().unwrap().success());
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(gate.next(0).unwrap(), None);
}

fn ones_own_waits_for_the_word(directory: &Path) {
    let program = program(directory);
    let mut gate = Gatekeeper::start(&program, ID).unwrap();
    let mut shim = from_a_shim(&program);
    let held = gate.next(10_000).unwrap().unwrap();
    assert_eq!(held.init, None);
    assert_eq!(status(&mut shim, Duration::from_millis(300)), None);
    gate.allow().unwrap();
    assert_eq!(status(&mut shim, Duration::from_secs(10)), Some(7));
}

fn nobody_waits_longer_than_seconds_for_a_maker_that_is_silent(directory: &Path) {
    let program = program(directory);
    let _gate = Gatekeeper::start(&program, ID).unwrap();
    let mut shim = from_a_shim(&program);
    assert_eq!(status(&mut shim, Duration::from_secs(2)), None);
    assert_eq!(status(&mut shim, Duration::from_secs(8)), Some(7));
    assert!(Command::new(&program).status().unwrap().success());
}

fn the_gate_is_open_once_its_maker_is_gone(directory: &Path) {
    let program = program(directory);
    let mut gate = Gatekeeper::start(&program, ID).unwrap();
    let mut shim = from_a_shim(&program);
    assert!(gate.next(10_000).unwrap().is_some());
    drop(gate);
    assert_eq!(status(&mut shim, Duration::from_secs(2)), Some(7));
}

fn a_program_that_is_not_there_is_said(directory: &Path) {
    let error = Gatekeeper::start(&directory.join("none"), ID).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}
