//! Docker: what `docker container inspect` says (docker-container-inspect(1)), and the runtime's configuration, which lies
//! where the container's shim lives.

use super::podman::{map, networks};
use super::{Owned, ask, call, complaint, json, json_file, text};
use crate::{Error, Result};
use image::container::Engine;
use image::engine::{Configuration, Image, Volume};
use kernel::Pid;
use kernel::proc::stat;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What this engine is called by.
pub const PROGRAM: &str = "docker";

/// A running container by name or id.
pub fn find(name: &str) -> Result<Option<Owned>> {
    let Some(inspect) = inspect(name)? else {
        return Ok(None);
    };
    // Where podman stands in for docker, it is podman's.
    if inspect.get("OCIRuntime").is_some() {
        return Ok(None);
    }
    let called = text(&inspect, "/Name").trim_start_matches('/').to_string();
    let on = |pointer: &str| inspect.pointer(pointer) == Some(&Value::Bool(true));
    if on("/State/Paused") {
        return Err(Error::Refused(format!(
            "container {called} of docker is paused; let it run first: docker unpause {called}"
        )));
    }
    if !on("/State/Running") || on("/State/Restarting") {
        return Err(Error::Refused(format!(
            "container {called} of docker does not run (it is {}); start it first: docker start {called}",
            text(&inspect, "/State/Status")
        )));
    }
    let pid = inspect.pointer("/State/Pid").and_then(Value::as_i64);
    let pid = pid.and_then(|pid| Pid::try_from(pid).ok());
    let pid = pid.filter(|pid| *pid > 0 && Path::new(&format!("/proc/{pid}")).exists());
    let pid = pid.ok_or_else(|| {
        Error::Refused(format!(
            "the process that docker names for container {called} is not here: docker runs on another host (DOCKER_HOST), \
             or in another pid namespace; call this where it runs"
        ))
    })?;
    Ok(Some(Owned {
        engine: Engine::Docker,
        id: text(&inspect, "/Id").to_string(),
        name: called,
        pid,
        configuration: configuration(inspect, pid)?,
    }))
}

/// Whether its daemon answers; if not, why.
pub fn answers() -> Result<()> {
    ask(PROGRAM, &["version", "--format", "{{.Server.Version}}"]).map(drop)
}

/// How docker ends a container at once.
pub fn stop(id: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["stop", "-t", "0", id]);
    command
}

/// What docker says of a container; `None` where it has none of this name, or there is no daemon to ask.
pub fn inspect(name: &str) -> Result<Option<Value>> {
    let output = call(PROGRAM, &["container", "inspect", name])?;
    if output.status.success() {
        let all = json("what docker container inspect prints", &output.stdout)?;
        return Ok(all.get(0).cloned());
    }
    let why = complaint(&output.stderr);
    let none = ["no such container", "cannot connect to the docker daemon"];
    match none.iter().any(|none| why.to_lowercase().contains(none)) {
        true => Ok(None),
        false => Err(Error::Refused(format!("docker container inspect: {why}"))),
    }
}

/// The program that docker runs containers of this runtime with.
pub fn runtime(name: &str) -> Result<PathBuf> {
    let known = ask(PROGRAM, &["info", "--format", "{{json .Runtimes}}"])?;
    let known = json("what docker info prints", &known)?;
    let path = known.get(name).map_or(name, |one| text(one, "/path"));
    let found = match path.starts_with('/') {
        true => Some(PathBuf::from(path)),
        false => super::program(path),
    };
    found.ok_or_else(|| {
        Error::Refused(format!(
            "docker's runtime {name:?} ({path}) is not in PATH here: name its directory there"
        ))
    })
}

fn configuration(inspect: Value, pid: Pid) -> Result<Configuration> {
    let version = ask(PROGRAM, &["version", "--format", "{{.Server.Version}}"])?;
    // The shim, its parent, lives in the bundle.
    let shim = stat::read(pid)?.ppid();
    let spec = json_file(Path::new(&format!("/proc/{shim}/cwd/config.json")))?;
    let id = text(&inspect, "/Image");
    Ok(Configuration {
        engine: Engine::Docker,
        version: String::from_utf8_lossy(&version).trim().to_string(),
        id: text(&inspect, "/Id").to_string(),
        command: Vec::new(),
        spec,
        image: Some(Image {
            name: text(&inspect, "/Config/Image").to_string(),
            id: id.strip_prefix("sha256:").unwrap_or(id).to_string(),
            digest: None,
        }),
        networks: networks(&inspect),
        volumes: volumes(&inspect)?,
        terminal: inspect.pointer("/Config/Tty") == Some(&Value::Bool(true)),
        inspect,
    })
}

fn volumes(inspect: &Value) -> Result<Vec<Volume>> {
    let mounts = inspect.get("Mounts").and_then(Value::as_array);
    let mut found = Vec::new();
    for mount in mounts.into_iter().flatten() {
        if text(mount, "/Type") != "volume" {
            continue;
        }
        let name = text(mount, "/Name");
        let more = json(
            "what docker volume inspect prints",
            &ask(PROGRAM, &["volume", "inspect", name])?,
        )?;
        // Docker marks them since 23.0; before, only their names tell.
        let labels = map(more.pointer("/0/Labels"));
        let anonymous = labels.contains_key("com.docker.volume.anonymous")
            || (name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()));
        found.push(Volume {
            name: name.to_string(),
            anonymous,
            destination: text(mount, "/Destination").to_string(),
            driver: text(mount, "/Driver").to_string(),
            options: map(more.pointer("/0/Options")),
            labels,
        });
    }
    Ok(found)
}
