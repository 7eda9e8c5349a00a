//! `--leave-frozen`, and what ends it: the container waits, frozen, until it is known to run elsewhere (`--kill`), or
//! that it does not (`--thaw`).

use crate::target::Found;
use resources::Result;
use resources::cgroups::freezer;
use resources::tree::Frozen;

/// Lets go of a frozen container so that it stays frozen without us.
pub fn leave_frozen(found: &Found, frozen: Frozen) -> Result<()> {
    let pids: Vec<kernel::Pid> = frozen.source.processes.iter().map(|p| p.pid).collect();
    freezer::freeze(found.root, &pids)?;
    frozen.thaw()?;
    freezer::settled(found.root)
}

/// Lets it run on.
pub fn thaw(found: &Found) -> Result<()> {
    freezer::thaw(found.root)
}

/// Ends it.
pub fn kill(found: &Found) -> Result<()> {
    freezer::kill(found.root)
}
