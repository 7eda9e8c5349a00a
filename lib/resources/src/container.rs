//! What surrounds the processes, as a whole: taken before they are, and first in the image, for the vessel is made of it.

use crate::namespaces::{self, is_own, mount, network, pid};
use crate::{Blocker, Result, cgroups};
use image::container::{Container, Engine};
use image::namespaces::mount::Mounts;
use image::rootfs::Rootfs;
use kernel::Pid;
use kernel::namespaces::Kind;

/// Takes the surroundings of the container with this root process (our pid). `travels`: its root file system goes into
/// the image, unless it is the host's.
pub fn dump(root: Pid, name: &str, travels: bool) -> Result<Container> {
    let (mounts, rootfs) = if is_own(root, Kind::Mount)? {
        let found = mount::dump(root, travels)?;
        (found.mounts, found.rootfs)
    } else {
        (Mounts { mounts: Vec::new() }, Rootfs::Host)
    };
    Ok(Container {
        engine: Engine::Native,
        configuration: None,
        name: name.to_string(),
        root: pid::inside(root)?,
        namespaces: namespaces::dump(root, mounts)?,
        rootfs,
        cgroups: cgroups::dump(root)?,
        addresses: network::addresses(root)?,
    })
}

/// What stands in the way of taking the container with this root process, and these processes in all (our pids).
pub fn blockers(root: Pid, processes: &[Pid], travels: bool) -> Result<Vec<Blocker>> {
    let mut found = namespaces::blockers(root, processes)?;
    if is_own(root, Kind::Mount)? {
        found.extend(mount::dump(root, travels)?.blockers);
    }
    Ok(found)
}
