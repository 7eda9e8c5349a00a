//! Namespaces: which of a container's are its own, and what is particular to them (namespaces(7)).

use crate::{Blocker, Result};
use image::namespaces::{Namespace, Namespaces};
use kernel::Pid;
use kernel::namespaces::{Kind, identity, own};

pub mod cgroup;
pub mod ipc;
pub mod mount;
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
        network: namespace(root, Kind::Network, || network::dump(root))?,
        pid: namespace(root, Kind::Pid, || pid::dump(root))?,
        user: namespace(root, Kind::User, || user::dump(root))?,
        ipc: namespace(root, Kind::Ipc, || ipc::dump(root))?,
        uts: namespace(root, Kind::Uts, || uts::dump(root))?,
        time: namespace(root, Kind::Time, || time::dump(root))?,
        cgroup: namespace(root, Kind::Cgroup, || Ok(cgroup::dump()))?,
    })
}

/// What stands in the way: tasks that are not all in the same namespaces, and what the single kinds find.
pub fn blockers(root: Pid, processes: &[Pid]) -> Result<Vec<Blocker>> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let wanted = identity(root, kind)?;
        for &pid in processes {
            // A zombie has left its namespaces; a process that ended meanwhile is no obstacle either.
            if let Ok(other) = identity(pid, kind)
                && other != wanted
            {
                found.push(Blocker {
                    pid,
                    place: String::new(),
                    what: format!(
                        "a {} namespace other than that of the container's root process {root}",
                        kind.name()
                    ),
                    remedy: format!("take the tree that begins there: pid:{pid}"),
                });
            }
        }
    }
    if is_own(root, Kind::User)? {
        found.extend(user::blockers(root));
    }
    if is_own(root, Kind::Ipc)? {
        found.extend(ipc::blockers(root)?);
        found.extend(crate::ipc::blockers(root)?);
    }
    if is_own(root, Kind::Network)? {
        found.extend(network::blockers(root)?);
    }
    Ok(found)
}
