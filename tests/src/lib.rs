//! The frame of the end-to-end tests: disposable hosts, programs in them, their state as `/proc` shows it, and the ways
//! an image can take.
//!
//! A test reads as a session at the terminal would: `host.sh("checkpoint pid:100 | restore -n hello")`. The tools are
//! those built beside the test (`cargo build` first; `scripts/test` does).
#![forbid(unsafe_code)]

pub mod asked;
pub mod crossing;
pub mod docker;
pub mod host;
pub mod podman;
pub mod program;
pub mod screen;
pub mod state;
pub mod traces;
pub mod world;

pub use asked::Asked;
pub use crossing::{Restored, Way};
pub use docker::{Docker, busybox};
pub use host::{Host, Outcome};
pub use podman::{Container, Podman};
pub use program::Program;
pub use screen::Screen;
pub use state::State;
pub use traces::Traces;
pub use world::World;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The directory of the built tools, subjects and the keeper: two above the running test.
pub fn built() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.parent().expect("the test's folder");
    match folder.ends_with("deps") {
        true => folder.parent().expect("the folder of the build").to_owned(),
        false => folder.to_owned(),
    }
}

/// The folder of the programs that tests and demo run (`tests/programs`).
pub fn programs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// Asks again every 10 ms until `ask` gives something; panics with `what` after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < limit,
            "waited {limit:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How long a test waits for something that takes milliseconds on an idle machine.
pub const LONG: Duration = Duration::from_secs(30);
