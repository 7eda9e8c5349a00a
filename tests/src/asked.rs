//! Programs with a state that say, once they are asked, whether all is as it was (`programs/asked.py`).

use crate::{Container, Host, LONG, Podman, Program, Traces, Way, programs, until};
use std::path::PathBuf;

/// The directory over which such a program is talked to.
#[derive(Debug)]
pub struct Asked(PathBuf);

impl Asked {
    /// Starts one of `programs/` in namespaces of its own, with a word more.
    pub fn alone<'h>(host: &'h Host, name: &str, word: &str) -> (Self, Program<'h>) {
        let asked = Asked::new(host, name);
        let script = programs().join(format!("{name}.py"));
        let (script, directory) = (script.display(), asked.0.display());
        let line =
            format!("env PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 {script} {directory} {word}");
        let program = Program::alone(host, name, &line);
        asked.is_ready();
        (asked, program)
    }

    /// Starts one in a container of podman's.
    pub fn in_podman<'h>(host: &'h Podman, name: &str) -> (Self, Container<'h>) {
        let asked = Asked::new(host, name);
        // The image's Python has no ctypes; this host's has.
        let line = format!(
            "-v /usr:/usr:ro -v {0}:{0} -v {1}:{1}:ro base python3 {1}/{name}.py {0}",
            asked.0.display(),
            programs().display()
        );
        let container = host.run(name, &line);
        asked.is_ready();
        (asked, container)
    }

    fn new(host: &Host, name: &str) -> Self {
        let directory = host.path(name);
        std::fs::create_dir(&directory).expect("make a directory");
        Asked(directory)
    }

    fn is_ready(&self) {
        until("the program", LONG, || {
            self.0.join("ready").exists().then_some(())
        });
    }

    /// Asks whether all is as it was.
    #[track_caller]
    pub fn is_whole(&self) {
        std::fs::write(self.0.join("ask"), b"").expect("ask");
        let said = until("the answer", LONG, || {
            std::fs::read_to_string(self.0.join("said")).ok()
        });
        assert_eq!(said, "y");
    }
}

/// Carries a program of `programs/` through three generations, and asks it.
#[track_caller]
pub fn survives_three_generations(name: &str) {
    survives_with(name, "");
}

/// The same of one that is started with a word more.
#[track_caller]
pub fn survives_with(name: &str, word: &str) {
    let host = Host::new("alder");
    let (asked, mut program) = Asked::alone(&host, name, word);
    for way in [Way::Pipe, Way::File, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
    }
    asked.is_whole();
}

/// Carries one from one container of podman's to another, and asks it.
#[track_caller]
pub fn survives_in_podman(name: &str) {
    let host = Podman::new("alder");
    let (asked, container) = Asked::in_podman(&host, name);
    let archive = container.taken("");
    host.restored("-n again", &archive);
    asked.is_whole();
}

/// Looks at one some times while it runs on, and asks it.
#[track_caller]
pub fn is_undisturbed_by_looks(name: &str, times: u32) {
    let host = Host::new("alder");
    let (asked, program) = Asked::alone(&host, name, "");
    for _ in 0..times {
        let line = format!("checkpoint --leave-running pid:{} > /dev/null", program.pid);
        host.sh(&line).ok();
    }
    asked.is_whole();
}

/// A program that cannot be taken: it is refused in these words, and runs on.
#[track_caller]
pub fn is_refused(host: &Host, program: &Program<'_>, words: &str) {
    let traces = Traces::of(host);
    let line = format!("checkpoint pid:{} > /dev/null", program.pid);
    let outcome = host.sh(&line).fails_with(4);
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    program.runs_free();
    traces.assert_none_left(host);
}
