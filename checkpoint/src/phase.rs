//! The order of a checkpoint, as `-v` prints it with times.

use std::fmt;

/// One phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The name becomes a process.
    Resolve,
    /// What cannot be taken is found while everything still runs.
    Blockers,
    /// The layers of a container image are taken, where they travel: nothing changes in them.
    Layers,
    /// Where TCP connections travel: no new one comes in, and those that wait are accepted.
    Still,
    /// Every task is stopped. From here to `Afterwards`, the container stands still.
    Freeze,
    /// The rooms read what the kernel holds: tasks, memory areas, descriptors.
    Collect,
    /// File trees, records, contents of files.
    Records,
    /// The pages of memory.
    Memory,
    /// Stopped, thawed, or left frozen.
    Afterwards,
}

impl Phase {
    /// Its name in `--stats`.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Resolve => "resolve",
            Phase::Blockers => "blockers",
            Phase::Layers => "layers",
            Phase::Still => "still",
            Phase::Freeze => "freeze",
            Phase::Collect => "collect",
            Phase::Records => "records",
            Phase::Memory => "memory",
            Phase::Afterwards => "afterwards",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
