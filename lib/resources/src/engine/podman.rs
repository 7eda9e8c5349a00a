//! Podman: what `podman container inspect` says (podman-container-inspect(1)), and the runtime's configuration beside it.

use super::{Owned, ask, call, complaint, json, json_file, text};
use crate::{Error, Result};
use image::container::Engine;
use image::engine::{Attachment, Configuration, Image, Volume};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// What this engine is called by.
pub const PROGRAM: &str = "podman";

/// A running container by name or id.
pub fn find(name: &str) -> Result<Option<Owned>> {
    // Both at once: each takes its time to start.
    let version = Command::new(PROGRAM)
        .arg("--version")
        .stdout(Stdio::piped())
        .spawn();
    let version = version.map_err(|e| kernel::Error::io("call podman", &e))?;
    let found = inspect(name);
    let version = version.wait_with_output();
    let version = version.map_err(|e| kernel::Error::io("call podman", &e))?;
    let Some(inspect) = found? else {
        return Ok(None);
    };
    let called = text(&inspect, "/Name").to_string();
    match text(&inspect, "/State/Status") {
        "running" => {}
        "paused" => {
            return Err(Error::Refused(format!(
                "container {called} of podman is paused; let it run first: podman unpause {called}"
            )));
        }
        status => {
            return Err(Error::Refused(format!(
                "container {called} of podman does not run (it is {status}); start it first: podman start {called}"
            )));
        }
    }
    let pod = text(&inspect, "/Pod");
    if !pod.is_empty() {
        return Err(Error::Refused(format!(
            "container {called} of podman is in pod {}, whose other containers share its namespaces; run it outside a \
             pod",
            pod.get(..12).unwrap_or(pod)
        )));
    }
    let pid = inspect.pointer("/State/Pid").and_then(Value::as_i64);
    let pid = pid.and_then(|pid| kernel::Pid::try_from(pid).ok());
    let pid = pid.filter(|pid| *pid > 0).ok_or_else(|| {
        Error::Refused(format!(
            "podman does not say which process container {called} is"
        ))
    })?;
    Ok(Some(Owned {
        engine: Engine::Podman,
        id: text(&inspect, "/Id").to_string(),
        name: called,
        pid,
        configuration: configuration(inspect, &version.stdout)?,
    }))
}

/// The id of the container that was made last.
pub fn latest() -> Result<String> {
    let printed = ask(PROGRAM, &["ps", "--latest", "--quiet", "--no-trunc"])?;
    let id = String::from_utf8_lossy(&printed).trim().to_string();
    if id.is_empty() {
        return Err(Error::Name("podman has no container here".into()));
    }
    Ok(id)
}

/// How podman ends a container at once.
pub fn stop(id: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["stop", "-t", "0", id]);
    command
}

/// What podman says of a container; `None` where it has none of this name.
pub fn inspect(name: &str) -> Result<Option<Value>> {
    let output = call(PROGRAM, &["container", "inspect", name])?;
    if !output.status.success() {
        let why = complaint(&output.stderr);
        return if why.contains("no such container") {
            Ok(None)
        } else {
            Err(Error::Refused(format!("podman container inspect: {why}")))
        };
    }
    let all = json("what podman container inspect prints", &output.stdout)?;
    Ok(all.get(0).cloned())
}

/// `version` is what `podman --version` prints: `podman version 4.3.1`.
fn configuration(inspect: Value, version: &[u8]) -> Result<Configuration> {
    let version = String::from_utf8_lossy(version);
    let name = text(&inspect, "/ImageName");
    let digest = text(&inspect, "/ImageDigest");
    Ok(Configuration {
        engine: Engine::Podman,
        version: version.split_whitespace().last().unwrap_or("").to_string(),
        id: text(&inspect, "/Id").to_string(),
        command: words(inspect.pointer("/Config/CreateCommand")),
        spec: json_file(Path::new(text(&inspect, "/OCIConfigPath")))?,
        image: (!name.is_empty()).then(|| Image {
            name: name.to_string(),
            id: text(&inspect, "/Image").to_string(),
            digest: (!digest.is_empty()).then(|| digest.to_string()),
        }),
        networks: networks(&inspect),
        volumes: volumes(&inspect)?,
        terminal: inspect.pointer("/Config/Tty") == Some(&Value::Bool(true)),
        inspect,
    })
}

fn words(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(String::from).collect()
}

/// The addresses a container has on its networks.
pub fn networks(inspect: &Value) -> Vec<Attachment> {
    let networks = inspect.pointer("/NetworkSettings/Networks");
    let networks = networks.and_then(Value::as_object).into_iter().flatten();
    networks
        .map(|(name, network)| {
            let addresses = ["/IPAddress", "/GlobalIPv6Address"];
            let mac = text(network, "/MacAddress");
            Attachment {
                network: name.clone(),
                addresses: addresses
                    .iter()
                    .filter_map(|at| text(network, at).parse().ok())
                    .collect(),
                mac: (!mac.is_empty()).then(|| mac.to_string()),
                aliases: words(network.get("Aliases")),
            }
        })
        .collect()
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
            "what podman volume inspect prints",
            &ask(PROGRAM, &["volume", "inspect", name])?,
        )?;
        found.push(Volume {
            name: name.to_string(),
            anonymous: more.pointer("/0/Anonymous") == Some(&Value::Bool(true)),
            destination: text(mount, "/Destination").to_string(),
            driver: text(mount, "/Driver").to_string(),
            options: map(more.pointer("/0/Options")),
            labels: map(more.pointer("/0/Labels")),
        });
    }
    Ok(found)
}

pub(super) fn map(value: Option<&Value>) -> BTreeMap<String, String> {
    let all = value.and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_string())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_from_inspect() {
        let inspect = serde_json::json!({"NetworkSettings": {"Networks": {"podman": {
            "IPAddress": "10.88.0.2", "GlobalIPv6Address": "", "MacAddress": "62:a1:bd:e0:8b:25",
            "Aliases": ["572324d2645f"]
        }}}});
        let found = networks(&inspect);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].network, "podman");
        assert_eq!(
            found[0].addresses,
            ["10.88.0.2".parse::<std::net::IpAddr>().unwrap()]
        );
        assert_eq!(found[0].aliases, ["572324d2645f"]);
        assert!(networks(&serde_json::json!({})).is_empty());
    }
}
