//! Which networks a container is to be on, and with what addresses.

use super::Wishes;
use super::flags::Flag;
use crate::{Error, Result};
use image::container::Engine;
use image::engine::Configuration;
use std::net::IpAddr;

/// How a container is to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Networking {
    /// By its pod.
    Pod,
    /// As the user says (`--network`, once each).
    Asked(Vec<String>, Option<IpAddr>),
    /// A mode: `host`, `none`, `slirp4netns`.
    Mode(String),
    /// Networks of the engine's; none: its default one.
    Networks(Vec<Network>),
}

/// One network, and what is asked of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Its name; empty for the engine's default one.
    pub name: String,
    /// Addresses asked for.
    pub addresses: Vec<IpAddr>,
    /// A hardware address asked for.
    pub mac: Option<String>,
    /// Names the container is also known by on it.
    pub aliases: Vec<String>,
    /// Further options of podman's: `interface_name=eth1`.
    pub options: Vec<String>,
}

/// What was said by hand when the container was created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// `host`, `none`, `bridge`, …
    pub mode: String,
    /// Networks of the mode `bridge`.
    pub networks: Vec<Network>,
}

/// Modes of podman and docker that are not networks.
const MODES: [&str; 7] = [
    "host",
    "none",
    "private",
    "slirp4netns",
    "pasta",
    "container",
    "ns",
];

/// The name of an engine's default network.
pub fn default_network(engine: Engine) -> &'static str {
    match engine {
        Engine::Docker => "bridge",
        _ => "podman",
    }
}

/// Decides.
pub fn decide(
    configuration: &Configuration,
    target: Engine,
    said: &Said,
    wishes: &Wishes,
) -> Result<Networking> {
    if wishes.pod.is_some() {
        if !wishes.publish.is_empty() || wishes.ip.is_some() || !wishes.networks.is_empty() {
            return Err(Error::Refused(
                "ports, address and networks of a container in a pod are the pod's: leave out -p, --ip and --network, or \
                 --pod"
                    .into(),
            ));
        }
        return Ok(Networking::Pod);
    }
    if !wishes.networks.is_empty() {
        return Ok(Networking::Asked(wishes.networks.clone(), wishes.ip));
    }
    let kind = said.mode.split(':').next().unwrap_or_default();
    match kind {
        "container" | "ns" => Err(Error::Refused(format!(
            "the container's network is that of {}, which is not in the image: give it another (--network)",
            said.mode
        ))),
        "" | "bridge" | "default" => networks(configuration, target, said, wishes),
        "slirp4netns" | "pasta" | "private" if target == Engine::Docker => Err(Error::Refused(
            format!("docker has no network mode {kind}: give it another (--network)"),
        )),
        _ if wishes.ip.is_some() => Err(Error::Refused(format!(
            "a container with the network mode {kind} has no address of its own: leave out --ip, or give it another \
             network (--network)"
        ))),
        _ => Ok(Networking::Mode(said.mode.clone())),
    }
}

fn networks(
    configuration: &Configuration,
    target: Engine,
    said: &Said,
    wishes: &Wishes,
) -> Result<Networking> {
    let source = configuration.engine;
    let short = configuration.id.get(..12).unwrap_or(&configuration.id);
    // Docker has these two as aliases by itself, podman the first.
    let hostname = configuration.inspect.pointer("/Config/Hostname");
    let hostname = hostname.and_then(|name| name.as_str()).unwrap_or_default();
    let by_default = default_network(source);
    let mut networks = Vec::new();
    for attachment in &configuration.networks {
        let is_default = attachment.network == by_default;
        let by_hand = said
            .networks
            .iter()
            .find(|said| said.name == attachment.network || (said.name.is_empty() && is_default));
        let mut network = by_hand.cloned().unwrap_or_default();
        network.name = match is_default {
            true => default_network(target).to_string(),
            false => attachment.network.clone(),
        };
        // Under its old name it is looked for where it was, but docker gives out its default network's by itself; between engines only what was said by hand has a meaning.
        let by_itself = target == Engine::Docker && is_default;
        if !wishes.renamed && source == target && !by_itself {
            network.addresses = attachment.addresses.clone();
            network.mac = attachment.mac.clone();
        }
        network.aliases = attachment.aliases.clone();
        network
            .aliases
            .retain(|alias| alias != short && alias != hostname);
        networks.push(network);
    }
    if configuration.networks.is_empty() {
        networks = said.networks.clone();
    }
    for network in &mut networks {
        if wishes.ignore_static_ip {
            network.addresses.clear();
        }
        if wishes.ignore_static_mac {
            network.mac = None;
        }
        // On its default network docker takes neither addresses nor names.
        if target == Engine::Docker && network.name == default_network(target) {
            network.addresses.clear();
            network.aliases.clear();
        }
    }
    if let Some(ip) = wishes.ip {
        if networks.is_empty() {
            networks.push(Network::default());
        }
        if let Some(first) = networks.first_mut() {
            first.addresses.retain(|a| a.is_ipv4() != ip.is_ipv4());
            first.addresses.push(ip);
        }
    }
    Ok(Networking::Networks(networks))
}

/// What the flags of podman's recorded command say.
pub fn said(flags: &[Flag]) -> Said {
    let mut said = Said {
        mode: "bridge".into(),
        networks: Vec::new(),
    };
    for flag in flags.iter().filter(|flag| flag.name == "network") {
        let (name, options) = flag.value().split_once(':').unwrap_or((flag.value(), ""));
        if MODES.contains(&name) {
            said.mode = flag.value().into();
            continue;
        }
        said.mode = "bridge".into();
        for name in name.split(',') {
            let mut network = Network {
                name: match name {
                    "bridge" | "default" => String::new(),
                    name => name.into(),
                },
                ..Network::default()
            };
            for option in options.split(',').filter(|option| !option.is_empty()) {
                read_option(&mut network, option);
            }
            said.networks.push(network);
        }
    }
    let of = |name: &'static str| flags.iter().filter(move |flag| flag.name == name);
    let addresses: Vec<IpAddr> = of("ip")
        .chain(of("ip6"))
        .filter_map(|flag| flag.value().parse().ok())
        .collect();
    let mac = of("mac-address")
        .next_back()
        .map(|flag| flag.value().into());
    if !addresses.is_empty() || mac.is_some() {
        if said.networks.is_empty() {
            said.networks.push(Network::default());
        }
        if let Some(first) = said.networks.first_mut() {
            first.addresses.extend(addresses);
            first.mac = mac.or(first.mac.take());
        }
    }
    for network in &mut said.networks {
        let aliases = of("network-alias").map(|flag| flag.value().to_string());
        network.aliases.extend(aliases);
    }
    said
}

fn read_option(network: &mut Network, option: &str) {
    match option.split_once('=') {
        Some(("ip" | "ip6", address)) if address.parse::<IpAddr>().is_ok() => {
            network.addresses.extend(address.parse::<IpAddr>());
        }
        Some(("mac", mac)) => network.mac = Some(mac.into()),
        Some(("alias", alias)) => network.aliases.push(alias.into()),
        _ => network.options.push(option.into()),
    }
}

/// The flags of `podman create`.
pub fn podman(networking: &Networking) -> Vec<String> {
    match networking {
        Networking::Pod => Vec::new(),
        Networking::Asked(networks, ip) => {
            let mut flags: Vec<String> =
                networks.iter().map(|n| format!("--network={n}")).collect();
            flags.extend(ip.map(|ip| address_flag(&ip)));
            flags
        }
        Networking::Mode(mode) => vec![format!("--network={mode}")],
        Networking::Networks(networks) => {
            let bare = Network {
                name: default_network(Engine::Podman).into(),
                ..Network::default()
            };
            match networks.as_slice() {
                [only] if *only == bare || *only == Network::default() => Vec::new(),
                networks => networks.iter().map(podman_network).collect(),
            }
        }
    }
}

fn podman_network(network: &Network) -> String {
    let mut options: Vec<String> = Vec::new();
    options.extend(network.addresses.iter().map(|a| format!("ip={a}")));
    options.extend(network.mac.iter().map(|mac| format!("mac={mac}")));
    options.extend(network.aliases.iter().map(|a| format!("alias={a}")));
    options.extend(network.options.iter().cloned());
    let name = match network.name.as_str() {
        "" => default_network(Engine::Podman),
        name => name,
    };
    match options.is_empty() {
        true => format!("--network={name}"),
        false => format!("--network={name}:{}", options.join(",")),
    }
}

/// The flags of `docker create`, and the commands that connect the container to all networks but the first.
pub fn docker(networking: &Networking, name: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let networks = match networking {
        Networking::Pod => return Default::default(),
        Networking::Mode(mode) => return (vec![format!("--network={mode}")], Vec::new()),
        Networking::Asked(names, ip) => {
            let mut networks: Vec<Network> = names
                .iter()
                .map(|name| Network {
                    name: name.clone(),
                    ..Network::default()
                })
                .collect();
            if let (Some(first), Some(ip)) = (networks.first_mut(), ip) {
                first.addresses.push(*ip);
            }
            networks
        }
        Networking::Networks(networks) => networks.clone(),
    };
    let mut flags = Vec::new();
    if let Some(first) = networks.first() {
        if !first.name.is_empty() && first.name != default_network(Engine::Docker) {
            flags.push(format!("--network={}", first.name));
        }
        flags.extend(first.addresses.iter().map(address_flag));
        flags.extend(first.mac.iter().map(|mac| format!("--mac-address={mac}")));
        flags.extend(first.aliases.iter().map(|a| format!("--network-alias={a}")));
    }
    let connect = |network: &Network| {
        let mut words = vec!["network".to_string(), "connect".into()];
        words.extend(network.addresses.iter().map(address_flag));
        words.extend(network.aliases.iter().map(|a| format!("--alias={a}")));
        words.extend([network.name.clone(), name.to_string()]);
        words
    };
    (flags, networks.iter().skip(1).map(connect).collect())
}

fn address_flag(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(_) => format!("--ip={address}"),
        IpAddr::V6(_) => format!("--ip6={address}"),
    }
}
