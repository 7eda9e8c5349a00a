//! What surrounds the processes, as a whole: taken before they are, and first in the image, for the vessel is made of it.

use crate::namespaces::{self, is_own, mount, network, pid};
use crate::rootfs::overlay;
use crate::{Blocker, Result, cgroups};
use image::container::{Container, Engine};
use image::engine::Configuration;
use image::namespaces::mount::Mounts;
use image::rootfs::Rootfs;
use image::sockets::tcp::Connections;
use kernel::Pid;
use kernel::namespaces::Kind;
use std::path::PathBuf;

/// A container that is to be taken.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its root process (our pid).
    pub root: Pid,
    /// Its name.
    pub name: &'a str,
    /// What owns it.
    pub engine: Engine,
    /// What that engine says of it.
    pub configuration: Option<&'a Configuration>,
    /// What of its files goes into the image.
    pub files: Files,
    /// Places whose mounts stay behind.
    pub outside: &'a [PathBuf],
    /// What becomes of its TCP connections with the outside.
    pub connections: Connections,
}

/// What of a container's files goes into the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    /// The root file system, unless it is the host's; of an overlay the layers too.
    pub with_image: bool,
    /// Nothing of what was changed on top of an image's layers.
    pub ignore_rootfs: bool,
    /// Nothing of what is in the engine's volumes.
    pub ignore_volumes: bool,
}

/// Takes the surroundings of a container.
pub fn dump(subject: &Subject) -> Result<Container> {
    let root = subject.root;
    let (mounts, rootfs) = if is_own(root, Kind::Mount)? {
        let found = mount::dump(root, subject.configuration, subject.files, subject.outside)?;
        (found.mounts, found.rootfs)
    } else {
        (Mounts { mounts: Vec::new() }, Rootfs::Host)
    };
    Ok(Container {
        engine: subject.engine,
        configuration: subject.configuration.cloned(),
        name: subject.name.to_string(),
        root: pid::inside(root)?,
        namespaces: namespaces::dump(root, mounts)?,
        rootfs,
        cgroups: cgroups::dump(root, subject.configuration)?,
        addresses: network::addresses(root)?,
        connections: subject.connections,
    })
}

/// What stands in the way of taking a container, whose processes in all are these (our pids).
pub fn blockers(subject: &Subject, processes: &[Pid]) -> Result<Vec<Blocker>> {
    let root = subject.root;
    let mut found = namespaces::blockers(root, processes)?;
    if is_own(root, Kind::Mount)? {
        let mounts = mount::dump(root, subject.configuration, subject.files, subject.outside)?;
        found.extend(mounts.blockers);
        if let Rootfs::Layers { changes, layers } = mounts.rootfs
            && (changes || layers)
        {
            found.extend(overlay::blockers(root, layers)?);
        }
    }
    Ok(found)
}
