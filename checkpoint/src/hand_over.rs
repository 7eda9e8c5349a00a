//! `--leave-frozen`, and what ends it: the container waits, frozen, until it is known to run elsewhere (`--kill`), or
//! that it does not (`--thaw`).

use crate::take;
use crate::target::Found;
use resources::sockets::tcp;
use resources::tree::Frozen;
use resources::{Result, cgroups, engine};

/// Lets go of a frozen container so that it stays frozen without us.
pub fn leave_frozen(found: &Found, frozen: Frozen) -> Result<()> {
    let pids: Vec<kernel::Pid> = frozen.source.processes.iter().map(|p| p.pid).collect();
    // Where that fails it runs on, as after every failure.
    let kept = cgroups::freeze(&found.name, &pids);
    frozen.thaw()?;
    if kept.is_err() {
        tcp::forget(found.root, &found.id)?;
    }
    kept
}

/// Lets it run on.
pub fn thaw(found: &Found) -> Result<()> {
    cgroups::thaw(&found.name)?;
    tcp::forget(found.root, &found.id)
}

/// Ends it.
pub fn kill(found: &Found) -> Result<()> {
    tcp::end_silently(&take::holders(found)?, &found.id, || match &found.owned {
        Some(owned) => engine::stop_left_frozen(owned, &found.name),
        None => cgroups::kill(&found.name),
    })
}
