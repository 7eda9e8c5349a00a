//! The frame of a subject: a program that builds a state, waits while it is checkpointed and restored, and then checks
//! that nothing differs.
//!
//! To add one for the room `lib/resources/src/files/pipe.rs`:
//! 1. write `tests/subjects/src/bin/files/pipe.rs`, name it in `tests/subjects/Cargo.toml` (`files-pipe`; a subject
//!    directly in `src/bin` needs no entry);
//! 2. build the state, call [`Stage::wait`], compare with [`Stage::same`] or [`Stage::holds`], end with
//!    [`Stage::leave`];
//! 3. nothing else: `tests/tests/subjects.rs` finds it and runs it in the host's namespaces and in its own, through three
//!    generations and as three replicas.
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     let mut stage = subject::Stage::enter();
//!     let here = std::env::current_dir().unwrap();
//!     stage.wait();
//!     stage.same("the working directory", here, std::env::current_dir().unwrap());
//!     stage.leave()
//! }
//! ```
//!
//! A subject is called with one argument, a directory of its own, which is there after the restore as well: it may keep
//! files in it. Its standard input is `/dev/null`, its standard output and error are a file in that directory. By hand:
//!
//! ```sh
//! mkdir /tmp/d; files-pipe /tmp/d & sleep 1; touch /tmp/d/go; wait; cat /tmp/d/verdict
//! ```
//!
//! `wait` polls for the file `go` with a short sleep, so that nothing but the state under test has to survive. A subject
//! that must be stopped elsewhere (in a blocked read, in a handler) does its own waiting between [`Stage::ready`] and
//! [`Stage::told`]. Replicas share the directory: check files there by content, do not change them after the wait, and
//! look out for what a replica started later would see.
#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The directory a subject plays in, and what it found to differ.
pub struct Stage {
    directory: PathBuf,
    differs: Vec<String>,
}

impl Stage {
    /// Takes the directory from the command line.
    pub fn enter() -> Self {
        let directory = std::env::args_os()
            .nth(1)
            .map(PathBuf::from)
            .filter(|d| d.is_dir())
            .expect("usage: SUBJECT DIRECTORY");
        Stage {
            directory,
            differs: Vec::new(),
        }
    }

    /// Makes the subject's own directory the working directory, to find it there from now on: also after chroot(2).
    pub fn stay(&mut self) {
        std::env::set_current_dir(&self.directory).expect("go to the subject's directory");
        self.directory = PathBuf::from(".");
    }

    /// A path in the subject's own directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.join(name)
    }

    /// The state is built: from now on a checkpoint may come at any moment.
    pub fn ready(&self) {
        std::fs::write(self.path("ready"), b"ready\n").expect("write the ready file");
    }

    /// Whether the restore is over and the state is to be checked.
    pub fn told(&self) -> bool {
        self.path("go").exists()
    }

    /// [`ready`](Self::ready), and then sleeps until [`told`](Self::told).
    pub fn wait(&self) {
        self.ready();
        while !self.told() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Notes that `what` differs, unless `after` equals `before`.
    pub fn same<T: PartialEq + Debug>(&mut self, what: &str, before: T, after: T) {
        if before != after {
            self.note(format!("{what}: was {before:?}, is {after:?}"));
        }
    }

    /// Notes that `what` does not hold any more.
    pub fn holds(&mut self, what: &str, holds: bool) {
        if !holds {
            self.note(format!("{what}: holds no more"));
        }
    }

    /// Notes a difference found in another way.
    pub fn note(&mut self, difference: String) {
        self.differs.push(difference);
    }

    /// The differences noted so far: what a child process hands to its parent, or exits with.
    pub fn differences(&self) -> &[String] {
        &self.differs
    }

    /// Prints the verdict, `ok` or `differs: …`, adds it as one line to the file `verdict`, and gives the exit code.
    pub fn leave(self) -> ExitCode {
        let verdict = match self.differs.is_empty() {
            true => "ok\n".to_owned(),
            false => format!("differs: {}\n", self.differs.join("; ").replace('\n', " ")),
        };
        print!("{verdict}");
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path("verdict"))
            .expect("open the verdict file");
        // One write: three replicas append their lines to the same file.
        file.write_all(verdict.as_bytes())
            .expect("write the verdict");
        match self.differs.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}
