//! The order of a restore, as `-v` prints it with times.

use std::fmt;

/// One phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Namespaces, mounts, network, and a first process in them, stopped.
    Vessel,
    /// Contents of file systems that travel.
    Trees,
    /// The process tree, as empty as its first process.
    Grow,
    /// Open file descriptions, on our side.
    Files,
    /// Each process: memory areas, descriptors, threads.
    Processes,
    /// The pages, while they arrive; at its end the image is known to be whole.
    Memory,
    /// What must come last: protections, locks, credentials, limits, timers.
    Finish,
    /// All tasks get their registers, and run.
    Release,
}

impl Phase {
    /// Its name in `--stats`.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Vessel => "vessel",
            Phase::Trees => "trees",
            Phase::Grow => "grow",
            Phase::Files => "files",
            Phase::Processes => "processes",
            Phase::Memory => "memory",
            Phase::Finish => "finish",
            Phase::Release => "release",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
