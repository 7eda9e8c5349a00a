//! Namespaces: which of a container's are its own, and what is particular to them (namespaces(7)).

use crate::{Blocker, Result};
use image::namespaces::{Namespace, Namespaces};
use kernel::Pid;
use kernel::namespaces::{Kind, identity, own};

pub mod cgroup;
pub mod ipc;
pub mod mount;
pub mod nested;
pub mod network;
pub mod pid;
pub mod time;
pub mod user;
pub mod uts;

/// Whether a process is in another namespace of this kind than we are.
pub fn is_own(root: Pid, kind: Kind) -> Result<bool> {
    Ok(identity(root, kind)? != own(kind)?)
}

fn namespace<T>(root: Pid, kind: Kind, dump: impl FnOnce() -> Result<T>) -> Result<Namespace<T>> {
    Ok(if is_own(root, kind)? {
        Namespace::Own(dump()?)
    } else {
        Namespace::Host
    })
}

/// Takes the namespaces of the container whose root process this is.
pub fn dump(root: Pid, mounts: image::namespaces::mount::Mounts) -> Result<Namespaces> {
    Ok(Namespaces {
        mount: namespace(root, Kind::Mount, || Ok(mounts))?,
        network: namespace(root, Kind::Network, || {
            network::dump(root, &network::inside(root)?)
        })?,
        pid: namespace(root, Kind::Pid, || pid::dump(root))?,
        user: namespace(root, Kind::User, || user::own_of(root))?,
        ipc: namespace(root, Kind::Ipc, || ipc::dump(root))?,
        uts: namespace(root, Kind::Uts, || uts::dump(root))?,
        time: namespace(root, Kind::Time, || time::dump(root))?,
        cgroup: namespace(root, Kind::Cgroup, || Ok(cgroup::dump()))?,
    })
}

/// What stands in the way: in the namespaces inside the container, and what the single kinds find in its own.
pub fn blockers(root: Pid, processes: &[Pid]) -> Result<Vec<Blocker>> {
    let mut found = nested::blockers(root, processes)?;
    if is_own(root, Kind::User)? {
        found.extend(user::blockers(root, processes)?);
    }
    if is_own(root, Kind::Ipc)? {
        found.extend(crate::ipc::blockers(root, processes)?);
        found.extend(crate::memory::segments::blockers(root, processes)?);
    } else {
        found.extend(crate::ipc::blockers_of(root, processes)?);
    }
    found.extend(crate::ipc::sysv::blockers(processes)?);
    if is_own(root, Kind::Network)? {
        found.extend(network::blockers(root, &network::inside(root)?)?);
    }
    Ok(found)
}
