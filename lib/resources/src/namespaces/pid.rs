//! Process ids (pid_namespaces(7)).

use crate::Result;
use image::ids;
use image::namespaces::pid::{Init, Pids};
use kernel::Pid;
use kernel::proc::status;

/// Takes who process 1 is: the container's root, or an init of ours.
pub fn dump(root: Pid) -> Result<Pids> {
    let init = match inside(root)? {
        1 => Init::Root,
        _ => Init::Ours,
    };
    Ok(Pids { init })
}

/// The pid of a process in its own pid namespace, the innermost.
pub fn inside(pid: Pid) -> Result<ids::Pid> {
    let status = status::read(pid)?;
    let pids = status.numbers("NSpid")?;
    let innermost = pids.last().copied().unwrap_or(pid.into());
    Ok(ids::Pid::try_from(innermost).unwrap_or(pid))
}
