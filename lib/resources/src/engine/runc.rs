//! runc and crun by themselves: what `state` says of a container, and the bundle it was made from (OCI runtime
//! specification).

use super::{Owned, ask, call, complaint, json, json_file, text};
use crate::{Error, Result};
use image::container::Engine;
use image::engine::Configuration;
use kernel::Pid;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A running container by its id.
pub fn find(engine: Engine, id: &str) -> Result<Option<Owned>> {
    let Some(state) = state(engine, id)? else {
        return Ok(None);
    };
    // Podman's are in the same place, and are podman's.
    if text(&state, "/annotations/io.container.manager") == "libpod" {
        return Ok(None);
    }
    match text(&state, "/status") {
        "running" => {}
        "paused" => {
            return Err(Error::Refused(format!(
                "container {id} of {engine} is paused; let it run first: {engine} resume {id}"
            )));
        }
        status => {
            return Err(Error::Refused(format!(
                "container {id} of {engine} does not run (it is {status})"
            )));
        }
    }
    let pid = state.pointer("/pid").and_then(Value::as_i64);
    let pid = pid.and_then(|pid| Pid::try_from(pid).ok());
    let pid = pid.filter(|pid| *pid > 0).ok_or_else(|| {
        Error::Refused(format!(
            "{engine} does not say which process container {id} is"
        ))
    })?;
    let spec = json_file(&Path::new(text(&state, "/bundle")).join("config.json"))?;
    Ok(Some(Owned {
        engine,
        name: id.to_string(),
        id: id.to_string(),
        pid,
        configuration: Configuration {
            engine,
            version: version(engine)?,
            id: id.to_string(),
            command: Vec::new(),
            image: None,
            networks: Vec::new(),
            volumes: Vec::new(),
            terminal: is_terminal(&spec),
            spec,
            inspect: state,
        },
    }))
}

/// What the runtime says of a container; `None` where it has none with this id.
pub fn state(engine: Engine, id: &str) -> Result<Option<Value>> {
    if engine == Engine::Crun && !keeps_any() {
        return Ok(None);
    }
    let output = call(engine.name(), &["state", id])?;
    if output.status.success() {
        let what = format!("what {engine} state prints");
        return json(&what, &output.stdout).map(Some);
    }
    let why = complaint(&output.stderr);
    // runc and crun; then ids that neither has, as they cannot be.
    let none = [
        "does not exist",
        "No such file or directory",
        "invalid id format",
        "invalid container ID format",
    ];
    match none.iter().any(|none| why.contains(none)) {
        true => Ok(None),
        false => Err(Error::Refused(format!("{engine} state {id}: {why}"))),
    }
}

/// Whether crun has a place for its containers: where it has none, asking it for one would make that.
fn keeps_any() -> bool {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR");
    let places = runtime.unwrap_or_else(|| "/run".into());
    Path::new(&places).join("crun").exists()
}

/// Whether a runtime's configuration asks for a terminal.
pub fn is_terminal(spec: &Value) -> bool {
    spec.pointer("/process/terminal") == Some(&Value::Bool(true))
}

/// How a runtime ends a container at once.
pub fn kill(engine: Engine, id: &str) -> Command {
    let mut command = Command::new(engine.name());
    command.args(["kill", id, "KILL"]);
    command
}

/// Removes what a runtime keeps of a container that has ended.
pub fn delete(engine: Engine, id: &str) -> Result<()> {
    ask(engine.name(), &["delete", "--force", id]).map(drop)
}

fn version(engine: Engine) -> Result<String> {
    let said = ask(engine.name(), &["--version"])?;
    let said = String::from_utf8_lossy(&said);
    let first = said.lines().next().unwrap_or_default();
    Ok(first.split_whitespace().last().unwrap_or_default().into())
}
