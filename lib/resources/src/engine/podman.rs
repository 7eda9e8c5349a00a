//! Podman: what `podman container inspect` says (podman-container-inspect(1)), and the runtime's configuration beside it.

use super::{Owned, ask, call, complaint, json, json_file, text};
use crate::{Blocker, Error, Result};
use image::container::Engine;
use image::engine::{Attachment, Configuration, Image, Volume};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What this engine is called by.
pub const PROGRAM: &str = "podman";

/// A running container by name or id.
pub fn find(name: &str) -> Result<Option<Owned>> {
    let version = Version::ask()?;
    let (found, version) = (inspect(name), version.answer());
    let Some(inspect) = found? else {
        return Ok(None);
    };
    let version = version?;
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
        configuration: configuration(inspect, version)?,
    }))
}

/// The oldest one known to do what is asked of it: major and minor number.
const OLDEST: (u32, u32) = (4, 3);

/// Podman's version, on its way while podman is asked something else: each call takes its time to start.
pub(crate) struct Version(Child);

impl Version {
    pub(crate) fn ask() -> Result<Self> {
        let mut command = Command::new(PROGRAM);
        command.arg("--version").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn();
        Ok(Version(child.map_err(failed)?))
    }

    /// The version; one that is too old is a lack of this host.
    pub(crate) fn answer(self) -> Result<String> {
        let said = self.0.wait_with_output().map_err(failed)?;
        let said = String::from_utf8_lossy(&said.stdout);
        let version = said.split_whitespace().last().unwrap_or("");
        if is_new_enough(version) {
            return Ok(version.to_string());
        }
        Err(Error::Blocked(vec![Blocker {
            pid: 0,
            place: "this host".into(),
            what: format!("its podman is of version {version:?}, which is too old"),
            remedy: format!(
                "install podman {}.{} or newer, or do without it: pid:N for a checkpoint, --engine native for a restore",
                OLDEST.0, OLDEST.1
            ),
        }]))
    }
}

fn failed(e: std::io::Error) -> kernel::Error {
    kernel::Error::io("call podman", &e)
}

/// Reads `4.3.1`, `5.0.0-dev`.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= OLDEST,
        _ => false,
    }
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

fn configuration(inspect: Value, version: String) -> Result<Configuration> {
    let name = text(&inspect, "/ImageName");
    let digest = text(&inspect, "/ImageDigest");
    Ok(Configuration {
        engine: Engine::Podman,
        version,
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
    fn versions_are_compared_by_number() {
        for new in ["4.3.1", "4.10.0", "5.0.0-dev"] {
            assert!(is_new_enough(new), "{new}");
        }
        for old in ["4.2.9", "3.10.0", "", "podman", "4"] {
            assert!(!is_new_enough(old), "{old}");
        }
    }

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
