//! How a user names a container, and which processes that is.

use anyhow::{Result, anyhow};
use kernel::namespaces::{Kind, identity, own};
use kernel::proc::{family, stat, status};
use resources::vessel::registry;
use std::path::PathBuf;
use tool::{Exit, Failure};

/// A container found.
#[derive(Debug)]
pub struct Found {
    /// Its name; `pid-N` for a process tree without one.
    pub name: String,
    /// Its id, twelve hexadecimal digits.
    pub id: String,
    /// The root of its process tree, in our pid namespace.
    pub root: kernel::Pid,
    /// Its own pid namespace, all of whose processes belong to it.
    pub namespace: Option<PathBuf>,
    /// An init of ours in there, which does not.
    pub init: Option<kernel::Pid>,
    /// How many pid namespaces its processes are seen in, ours first.
    pub depth: usize,
}

/// Finds what `target` names.
pub fn find(target: &str) -> Result<Found> {
    let none = |what: String| anyhow!(Failure::new(Exit::Name, what));
    match target.split_once(':') {
        Some(("pid", number)) => {
            let pid = number.parse::<kernel::Pid>().ok().filter(|pid| *pid > 0);
            let pid = pid.ok_or_else(|| {
                anyhow!(Failure::new(
                    Exit::Usage,
                    format!("{target}: pid: wants the number of a process")
                ))
            })?;
            let status = status::read(pid).map_err(|_| none(format!("no process {pid} here")))?;
            if status.number("Tgid")? != i64::from(pid) {
                return Err(none(format!(
                    "{pid} is a thread of process {}: name that one",
                    status.number("Tgid")?
                )));
            }
            if stat::read(pid)?.state == 'Z' {
                return Err(none(format!("process {pid} has ended and is a zombie")));
            }
            tree(pid)
        }
        Some(("native", name)) => native(name),
        Some((engine @ ("podman" | "docker" | "runc" | "crun"), _)) => Err(anyhow!(Failure::new(
            Exit::Impossible,
            format!(
                "containers of {engine} are not supported yet: name the process tree, as pid:N"
            )
        ))),
        Some((engine, _)) => Err(anyhow!(Failure::new(
            Exit::Usage,
            format!("{engine}: no such kind of container; there are pid:N, native:NAME and NAME")
        ))),
        None => native(target),
    }
}

fn native(name: &str) -> Result<Found> {
    let entry = registry::find(name).map_err(crate::order::failure)?;
    let root = entry.root.ok_or_else(|| {
        anyhow!(Failure::new(
            Exit::Name,
            format!("container {name} is still being made")
        ))
    })?;
    let init = entry.first.filter(|_| entry.init).map(|first| first.pid);
    Ok(Found {
        name: entry.name,
        id: entry.id,
        init,
        ..of_root(root.pid, init.is_some())?
    })
}

/// The tree below a process: all of its pid namespace where it is process 1 there, else its descendants.
fn tree(root: kernel::Pid) -> Result<Found> {
    of_root(root, false)
}

fn of_root(root: kernel::Pid, whole_namespace: bool) -> Result<Found> {
    let numbers = status::read(root)?.numbers("NSpid")?;
    let own_namespace = identity(root, Kind::Pid)? != own(Kind::Pid)?;
    let whole = own_namespace && (whole_namespace || numbers.last() == Some(&1));
    let start = stat::read(root)?.starttime();
    Ok(Found {
        name: format!("pid-{root}"),
        id: format!("{:012x}", (start << 22 | root as u64) & 0xffff_ffff_ffff),
        root,
        namespace: if whole {
            family::pid_namespace(root)
        } else {
            None
        },
        init: None,
        depth: numbers.len(),
    })
}
