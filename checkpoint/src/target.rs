//! How a user names a container, and which processes that is.

use crate::order::failure;
use anyhow::{Result, anyhow};
use image::container::Engine;
use image::engine::Configuration;
use image::sockets::tcp::Connections;
use kernel::namespaces::{Kind, identity, own};
use kernel::proc::{family, stat, status};
use resources::container::{Files, Subject};
use resources::engine::{self, Owned};
use resources::sockets::Outside;
use resources::vessel::{kept, registry};
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
    /// The engine's container it is; none of ours, and of no process tree.
    pub owned: Option<Owned>,
    /// Of a native container that was an engine's once: what that needs to make it again.
    pub configuration: Option<Configuration>,
    /// What becomes of its TCP connections with the outside.
    pub connections: Connections,
    /// Unix sockets whose other end is outside are taken without it.
    pub ext_unix: bool,
    /// Places whose mounts stay behind.
    pub outside: Vec<PathBuf>,
}

impl Found {
    /// What becomes of its sockets whose other end is outside.
    pub fn outside(&self) -> Outside {
        Outside {
            connections: self.connections,
            unix: self.ext_unix,
        }
    }

    /// It as the rooms take it.
    pub fn subject(&self, files: Files) -> Subject<'_> {
        let owned = self.owned.as_ref();
        Subject {
            root: self.root,
            name: &self.name,
            engine: owned.map_or(Engine::Native, |owned| owned.engine),
            configuration: owned
                .map(|owned| &owned.configuration)
                .or(self.configuration.as_ref()),
            files,
            outside: &self.outside,
            connections: self.connections,
        }
    }
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
        Some((name, container)) => {
            let engine = Engine::ALL.into_iter().find(|engine| engine.name() == name);
            let engine = engine.ok_or_else(|| {
                anyhow!(Failure::new(
                    Exit::Usage,
                    format!("{name}: no such kind of container; there are pid:N, native:NAME, podman:NAME, docker:NAME, runc:ID and NAME")
                ))
            })?;
            if !engine::here(engine) {
                return Err(anyhow!(Failure::new(
                    Exit::Impossible,
                    format!("{engine} is not on this host: no such program in PATH")
                )));
            }
            match engine::find(engine, container).map_err(failure)? {
                Some(owned) => of_engine(owned),
                None => {
                    engine::answers(engine).map_err(failure)?;
                    Err(none(format!("{engine} has no container {container} here")))
                }
            }
        }
        None => anywhere(target),
    }
}

/// The container that podman has made last.
pub fn latest() -> Result<Found> {
    let id = engine::podman::latest().map_err(failure)?;
    find(&format!("{}:{id}", Engine::Podman))
}

/// A bare name is looked up in every engine.
fn anywhere(name: &str) -> Result<Found> {
    let mut found = Vec::new();
    for engine in Engine::ALL {
        found.extend(engine::find(engine, name).map_err(failure)?);
    }
    let ours = registry::find(name);
    if found.is_empty() {
        return ours.map_err(failure).and_then(|_| native(name));
    }
    let mut names: Vec<String> = found
        .iter()
        .map(|o| format!("{}:{}", o.engine, o.name))
        .collect();
    names.extend(ours.is_ok().then(|| format!("native:{name}")));
    match (found.pop(), &names[..]) {
        (Some(owned), [_]) => of_engine(owned),
        _ => Err(anyhow!(Failure::new(
            Exit::Name,
            format!(
                "{name} is the name of {} containers, say which: {}",
                names.len(),
                names.join(", ")
            )
        ))),
    }
}

fn of_engine(owned: Owned) -> Result<Found> {
    Ok(Found {
        name: owned.name.clone(),
        id: owned.id.get(..12).unwrap_or(&owned.id).to_string(),
        owned: Some(owned.clone()),
        ..of_root(owned.pid, true)?
    })
}

fn native(name: &str) -> Result<Found> {
    let entry = registry::find(name).map_err(failure)?;
    let root = entry.root.ok_or_else(|| {
        anyhow!(Failure::new(
            Exit::Name,
            format!("container {name} is still being made")
        ))
    })?;
    let init = entry.first.filter(|_| entry.init).map(|first| first.pid);
    let kept = entry.directory.as_deref().map(kept::configuration);
    Ok(Found {
        configuration: kept.transpose().map_err(failure)?.flatten(),
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
        owned: None,
        configuration: None,
        connections: Connections::None,
        ext_unix: false,
        outside: Vec::new(),
        depth: numbers.len(),
    })
}
