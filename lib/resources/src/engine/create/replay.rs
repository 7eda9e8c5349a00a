//! Podman's recorded command, said again: without what belonged to that one call, and with what it took from its caller's
//! surroundings (environment, files, working directory) as it came to be in the container.

use super::flags::{Command, Flag, parse};
use super::inspected::{at, binds, environment, named_pairs};
use super::{Creation, Wishes, network};
use crate::{Error, Result};
use image::container::Engine;
use image::engine::Configuration;
use serde_json::Value;

/// Flags that belong to the call and not to the container, or that are said anew.
const OF_THE_CALL: [&str; 30] = [
    "arch",
    "attach",
    "authfile",
    "cidfile",
    "conmon-pidfile",
    "detach",
    "detach-keys",
    "disable-content-trust",
    "env-file",
    "env-host",
    "help",
    "ip",
    "ip6",
    "label-file",
    "mac-address",
    "name",
    "network",
    "network-alias",
    "os",
    "platform",
    "pod",
    "pod-id-file",
    "pull",
    "quiet",
    "replace",
    "sig-proxy",
    "tls-verify",
    "variant",
    "volumes-from",
    "pidfile",
];

/// Flags that a pod decides for its containers.
const OF_THE_POD: [&str; 8] = [
    "add-host",
    "dns",
    "dns-option",
    "dns-search",
    "hostname",
    "no-hosts",
    "publish",
    "publish-all",
];

/// The command for podman, from the one that was recorded.
pub fn podman(
    configuration: &Configuration,
    image: Option<&str>,
    wishes: &Wishes,
) -> Result<Creation> {
    let command = parse(&configuration.command)?;
    let inspect = &configuration.inspect;
    refuse(&command, inspect, wishes)?;
    let has = |name: &str| command.flags.iter().any(|flag| flag.name == name);
    let said = network::said(&command.flags);
    let networking = network::decide(configuration, Engine::Podman, &said, wishes)?;

    let mut creation = Creation::default();
    // Of what stands before that, this alone is the container's own.
    let runtime = command.runtime.iter();
    let mut arguments: Vec<String> = runtime.map(|name| format!("--runtime={name}")).collect();
    arguments.extend([
        "create".to_string(),
        "--pull=never".into(),
        format!("--name={}", wishes.name),
    ]);
    arguments.extend(wishes.pod.iter().map(|pod| format!("--pod={pod}")));
    arguments.extend(network::podman(&networking));
    arguments.extend(
        wishes
            .publish
            .iter()
            .map(|port| format!("--publish={port}")),
    );
    for flag in &command.flags {
        let name = flag.name.as_str();
        let published = name == "publish" || name == "publish-all";
        if OF_THE_CALL.contains(&name)
            || (published && !wishes.publish.is_empty())
            || (wishes.pod.is_some() && OF_THE_POD.contains(&name))
            || (name == "volume" && has("volumes-from"))
        {
            if name == "pidfile" {
                creation.warnings.push(format!(
                    "the pid is not written to {} (--pidfile): that belongs to the container it was said for",
                    flag.value()
                ));
            }
            continue;
        }
        arguments.extend(resolved(flag, inspect).iter().map(Flag::argument));
    }
    if has("env-file") || has("env-host") {
        let pairs = environment(inspect, Engine::Podman);
        arguments.extend(pairs.iter().map(|pair| format!("--env={pair}")));
    }
    if has("label-file") {
        let labels = named_pairs(inspect.pointer("/Config/Labels"));
        arguments.extend(labels.iter().map(|pair| format!("--label={pair}")));
    }
    if has("volumes-from") {
        let binds = binds(configuration);
        arguments.extend(binds.iter().map(|bind| format!("--volume={bind}")));
    }
    arguments.push(match (image, has("rootfs")) {
        (Some(image), false) => image.to_string(),
        _ => match inspect.pointer("/Rootfs").and_then(Value::as_str) {
            Some(rootfs) if !rootfs.is_empty() => rootfs.to_string(),
            _ => command.image.clone(),
        },
    });
    arguments.extend(command.arguments.iter().cloned());
    creation.arguments = arguments;
    Ok(creation)
}

/// What cannot be said again.
fn refuse(command: &Command, inspect: &Value, wishes: &Wishes) -> Result<()> {
    let refused = |what: String| Err(Error::Refused(what));
    for flag in &command.flags {
        let name = flag.name.as_str();
        match name {
            "preserve-fds" | "preserve-fd" => {
                return refused(format!(
                    "the container was given descriptors of its caller (--{name}), which are not here"
                ));
            }
            "pid" | "ipc" | "uts" | "userns" | "cgroupns"
                if flag.value().starts_with("container:") || flag.value().starts_with("ns:") =>
            {
                return refused(format!(
                    "the container shares a namespace with {} (--{name}), which is not in the image",
                    flag.value()
                ));
            }
            _ => {}
        }
    }
    let pod = inspect.pointer("/Pod").and_then(Value::as_str);
    match pod {
        Some(pod) if !pod.is_empty() && wishes.pod.is_none() => refused(format!(
            "the container was in the pod {}: name one that it is to join here (--pod)",
            pod.get(..12).unwrap_or(pod)
        )),
        _ => Ok(()),
    }
}

/// A flag with what it took from the caller's surroundings put in.
fn resolved(flag: &Flag, inspect: &Value) -> Vec<Flag> {
    let value = flag.value();
    match flag.name.as_str() {
        // `--env NAME` is the caller's value, `--env NAME*` all of the caller's that begin so (podman-create(1)).
        "env" if !value.contains('=') => environment(inspect, Engine::Podman)
            .into_iter()
            .filter(|pair| match value.strip_suffix('*') {
                Some(prefix) => pair.starts_with(prefix),
                None => pair.split('=').next() == Some(value),
            })
            .map(|pair| Flag::new("env", pair))
            .collect(),
        "volume" => vec![Flag::new("volume", bind(value, inspect))],
        "mount" => vec![Flag::new("mount", mount(value, inspect))],
        _ => vec![flag.clone()],
    }
}

/// A `--volume` whose source is relative to the caller's directory, with the place that this was.
fn bind(value: &str, inspect: &Value) -> String {
    let Some((source, rest)) = value.split_once(':') else {
        return value.into();
    };
    let destination = rest.split(':').next().unwrap_or(rest);
    match source.starts_with('.') {
        true => match source_of(destination, inspect) {
            Some(source) => format!("{source}:{rest}"),
            None => value.into(),
        },
        false => value.into(),
    }
}

/// The same for `--mount type=bind,…`.
fn mount(value: &str, inspect: &Value) -> String {
    let field = |names: &[&str]| {
        value.split(',').find_map(|part| {
            let (name, value) = part.split_once('=')?;
            names.contains(&name).then_some(value)
        })
    };
    let source = field(&["src", "source"]).unwrap_or_default();
    let destination = field(&["dst", "destination", "target"]).unwrap_or_default();
    let is_bind = field(&["type"]) == Some("bind");
    match source_of(destination, inspect) {
        Some(absolute) if is_bind && !source.starts_with('/') => value
            .split(',')
            .map(|part| match part.split_once('=') {
                Some((name @ ("src" | "source"), _)) => format!("{name}={absolute}"),
                _ => part.to_string(),
            })
            .collect::<Vec<_>>()
            .join(","),
        _ => value.into(),
    }
}

fn source_of<'a>(destination: &str, inspect: &'a Value) -> Option<&'a str> {
    let wanted = destination.trim_end_matches('/');
    let is_it = |mount: &&Value| {
        let there = mount.pointer("/Destination").and_then(Value::as_str);
        there.map(|path| path.trim_end_matches('/')) == Some(wanted)
    };
    let mount = at(inspect, "/Mounts").iter().find(is_it)?;
    mount.pointer("/Source").and_then(Value::as_str)
}
