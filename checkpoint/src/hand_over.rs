//! `--leave-frozen`, and what ends it: the container waits, frozen, until it is known to run elsewhere (`--kill`), or
//! that it does not (`--thaw`).

use crate::target::Found;
use resources::tree::Frozen;
use resources::{Result, cgroups, engine};

/// Lets go of a frozen container so that it stays frozen without us.
pub fn leave_frozen(found: &Found, frozen: Frozen) -> Result<()> {
    let pids: Vec<kernel::Pid> = frozen.source.processes.iter().map(|p| p.pid).collect();
    // Where that fails it runs on, as after every failure.
    let kept = cgroups::freeze(&found.name, &pids);
    frozen.thaw()?;
    kept
}

/// Lets it run on.
pub fn thaw(found: &Found) -> Result<()> {
    cgroups::thaw(&found.name)
}

/// Ends it.
pub fn kill(found: &Found) -> Result<()> {
    match &found.owned {
        Some(owned) => engine::stop_left_frozen(owned, &found.name),
        None => cgroups::kill(&found.name),
    }
}
