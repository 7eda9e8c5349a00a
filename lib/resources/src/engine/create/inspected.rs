//! A container as `inspect` shows it, podman's or docker's, in one shape.

use super::network::{Network, Said};
use crate::{Error, Result};
use image::container::Engine;
use image::engine::Configuration;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What `inspect` tells, as far as `create` has words for it. Empty and zero mean that nothing was said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plain {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub environment: Vec<String>,
    pub user: String,
    pub directory: String,
    /// None: the engine makes one of the id.
    pub hostname: Option<String>,
    pub domain: String,
    pub labels: Vec<String>,
    pub annotations: Vec<String>,
    pub terminal: bool,
    pub interactive: bool,
    /// Its input ends with the first who was attached to it (docker).
    pub input_once: bool,
    pub init: bool,
    pub privileged: bool,
    pub read_only: bool,
    pub remove: bool,
    pub stop_signal: String,
    pub stop_timeout: Option<u64>,
    pub restart: String,
    pub health: Option<Health>,
    pub publish: Vec<String>,
    pub publish_all: bool,
    pub expose: Vec<String>,
    /// Specifications for `--volume`.
    pub binds: Vec<String>,
    /// Specifications for `--mount` (docker).
    pub mounts: Vec<String>,
    pub tmpfs: BTreeMap<String, String>,
    /// Flags with one value each, the same for both engines: `memory`, `cpu-shares`, `shm-size`, …
    pub limits: Vec<(&'static str, String)>,
    /// Flags that may come several times, the same for both engines: `cap-add`, `dns`, `add-host`, `device`, …
    pub lists: Vec<(&'static str, String)>,
    pub security: Vec<String>,
    pub modes: Vec<(&'static str, String)>,
    pub networking: Said,
    pub log: Option<(String, Vec<String>)>,
    pub umask: String,
    pub timezone: String,
}

/// A health check; times in nanoseconds, 0 where nothing was said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    pub test: Vec<String>,
    pub interval: u64,
    pub timeout: u64,
    pub start_period: u64,
    pub retries: u64,
}

/// Reads it.
pub fn read(configuration: &Configuration) -> Result<Plain> {
    let (inspect, source) = (&configuration.inspect, configuration.engine);
    if !matches!(source, Engine::Podman | Engine::Docker) {
        return Err(Error::Refused(format!(
            "a container of {source} was made from no image, and no other engine can make it: restore it with --engine \
             {source} --bundle DIR, or as a native one (--engine native, with --with-image at the checkpoint or --rootfs \
             DIR now)"
        )));
    }
    let one = |path: &str| text(inspect, path).to_string();
    let on = |path: &str| inspect.pointer(path).and_then(Value::as_bool) == Some(true);
    let (entrypoint, command) = words(inspect);
    Ok(Plain {
        entrypoint,
        command,
        environment: environment(inspect, source),
        user: one("/Config/User"),
        directory: one("/Config/WorkingDir"),
        hostname: Some(one("/Config/Hostname"))
            .filter(|name| !name.is_empty() && !configuration.id.starts_with(name.as_str())),
        domain: one("/Config/Domainname"),
        labels: named_pairs(inspect.pointer("/Config/Labels")),
        annotations: annotations(inspect),
        terminal: on("/Config/Tty"),
        interactive: on("/Config/OpenStdin"),
        input_once: on("/Config/StdinOnce"),
        init: on("/HostConfig/Init") || is_annotated(inspect, "io.podman.annotations.init"),
        privileged: on("/HostConfig/Privileged"),
        read_only: on("/HostConfig/ReadonlyRootfs"),
        remove: on("/HostConfig/AutoRemove"),
        stop_signal: match inspect.pointer("/Config/StopSignal") {
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::String(name)) => name.clone(),
            _ => String::new(),
        },
        stop_timeout: inspect
            .pointer("/Config/StopTimeout")
            .and_then(Value::as_u64),
        restart: restart(inspect),
        health: health(inspect),
        publish: publish(inspect, source),
        publish_all: on("/HostConfig/PublishAllPorts"),
        expose: keys(inspect, "/Config/ExposedPorts"),
        binds: binds(configuration),
        mounts: mounts(configuration),
        tmpfs: tmpfs(inspect),
        limits: limits(inspect),
        lists: lists(inspect, &configuration.spec, source),
        security: texts(inspect, "/HostConfig/SecurityOpt"),
        modes: modes(inspect, source)?,
        networking: networking(inspect),
        log: log(inspect),
        umask: one("/Config/Umask"),
        timezone: one("/Config/Timezone"),
    })
}

/// The elements of a list, or none.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    let list = value.pointer(path).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub fn texts(value: &Value, path: &str) -> Vec<String> {
    let texts = at(value, path).iter().filter_map(Value::as_str);
    texts.map(str::to_string).collect()
}

/// `name=value` of every member of an object.
pub fn named_pairs(object: Option<&Value>) -> Vec<String> {
    let members = object.and_then(Value::as_object).into_iter().flatten();
    members
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)))
        .collect()
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}

fn number(value: &Value, path: &str) -> i64 {
    value.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}

fn keys(value: &Value, path: &str) -> Vec<String> {
    let object = value.pointer(path).and_then(Value::as_object);
    object.map_or(Vec::new(), |object| object.keys().cloned().collect())
}

/// Entry point and command. Podman before 5.0 joins the entry point with blanks: then what is run, less the command, is it.
fn words(inspect: &Value) -> (Vec<String>, Vec<String>) {
    let command = texts(inspect, "/Config/Cmd");
    // `--entrypoint ""` is kept by docker as one empty word.
    if texts(inspect, "/Config/Entrypoint") == [""] {
        return (Vec::new(), command);
    }
    match inspect.pointer("/Config/Entrypoint") {
        Some(Value::Array(_)) => (texts(inspect, "/Config/Entrypoint"), command),
        Some(Value::String(joined)) if !joined.is_empty() => {
            let mut run = vec![text(inspect, "/Path").to_string()];
            run.extend(texts(inspect, "/Args"));
            match run.len().checked_sub(command.len()) {
                Some(length) if run.get(length..) == Some(command.as_slice()) => {
                    run.truncate(length);
                    (run, command)
                }
                _ => (vec![joined.clone()], command),
            }
        }
        _ => (Vec::new(), command),
    }
}

/// Without what podman makes up for each container.
pub fn environment(inspect: &Value, source: Engine) -> Vec<String> {
    let mut pairs = texts(inspect, "/Config/Env");
    let hostname = text(inspect, "/Config/Hostname");
    if source == Engine::Podman {
        pairs.retain(|pair| match pair.split_once('=') {
            Some(("HOSTNAME", value)) => value != hostname,
            Some(("container", _)) | None => false,
            Some(_) => true,
        });
    }
    pairs
}

fn annotations(inspect: &Value) -> Vec<String> {
    let mut pairs = named_pairs(inspect.pointer("/Config/Annotations"));
    let made_up = [
        "io.container.",
        "io.kubernetes.cri-o.",
        "io.podman.annotations.",
        "org.opencontainers.image.",
    ];
    pairs.retain(|pair| !made_up.iter().any(|prefix| pair.starts_with(prefix)));
    pairs
}

fn is_annotated(inspect: &Value, name: &str) -> bool {
    let annotations = inspect.pointer("/Config/Annotations");
    annotations
        .and_then(|all| all.get(name))
        .and_then(Value::as_str)
        == Some("TRUE")
}

fn restart(inspect: &Value) -> String {
    let name = text(inspect, "/HostConfig/RestartPolicy/Name");
    let most = number(inspect, "/HostConfig/RestartPolicy/MaximumRetryCount");
    match (name, most) {
        ("no", _) => String::new(),
        ("on-failure", most) if most > 0 => format!("on-failure:{most}"),
        (name, _) => name.into(),
    }
}

fn health(inspect: &Value) -> Option<Health> {
    let check = inspect.pointer("/Config/Healthcheck")?;
    let nanoseconds = |path: &str| number(check, path).max(0) as u64;
    Some(Health {
        test: texts(check, "/Test"),
        interval: nanoseconds("/Interval"),
        timeout: nanoseconds("/Timeout"),
        start_period: nanoseconds("/StartPeriod"),
        retries: nanoseconds("/Retries"),
    })
    .filter(|health| !health.test.is_empty())
}

/// Ports as they were asked for; docker keeps apart which ones it chose itself.
fn publish(inspect: &Value, source: Engine) -> Vec<String> {
    let asked = inspect.pointer("/HostConfig/PortBindings");
    let mut ports = Vec::new();
    for (port, bindings) in asked.and_then(Value::as_object).into_iter().flatten() {
        for binding in bindings.as_array().into_iter().flatten() {
            let (ip, host) = (text(binding, "/HostIp"), text(binding, "/HostPort"));
            let ip = match ip {
                "" | "0.0.0.0" if source == Engine::Podman => String::new(),
                "" => String::new(),
                ip if ip.contains(':') => format!("[{ip}]:"),
                ip => format!("{ip}:"),
            };
            let host = match host {
                "0" => "",
                host => host,
            };
            ports.push(match (ip.as_str(), host) {
                ("", "") => port.clone(),
                _ => format!("{ip}{host}:{port}"),
            });
        }
    }
    ports
}

/// What `--volume` takes for the mounts that `inspect` lists. A volume without a name is made anew.
pub fn binds(configuration: &Configuration) -> Vec<String> {
    let inspect = &configuration.inspect;
    let by_mount: Vec<&str> = at(inspect, "/HostConfig/Mounts")
        .iter()
        .map(|mount| text(mount, "/Target"))
        .collect();
    let mounts = at(inspect, "/Mounts").iter();
    mounts
        .filter(|mount| !by_mount.contains(&text(mount, "/Destination")))
        .filter_map(|mount| {
            let destination = text(mount, "/Destination");
            let anonymous = configuration
                .volumes
                .iter()
                .any(|volume| volume.anonymous && volume.destination == destination);
            let source = match text(mount, "/Type") {
                "volume" if anonymous => return Some(destination.to_string()),
                "volume" => text(mount, "/Name"),
                "bind" => text(mount, "/Source"),
                _ => return None,
            };
            let mut options = Vec::new();
            if mount.pointer("/RW").and_then(Value::as_bool) == Some(false) {
                options.push("ro".to_string());
            }
            let propagation = text(mount, "/Propagation");
            if text(mount, "/Type") == "bind"
                && !propagation.is_empty()
                && propagation != "rprivate"
            {
                options.push(propagation.into());
            }
            Some(match options.is_empty() {
                true => format!("{source}:{destination}"),
                false => format!("{source}:{destination}:{}", options.join(",")),
            })
        })
        .collect()
}

/// What `--mount` takes for those that docker keeps as such.
fn mounts(configuration: &Configuration) -> Vec<String> {
    let one = |mount: &Value| {
        let mut words = vec![format!("type={}", text(mount, "/Type"))];
        for (name, path) in [("src", "/Source"), ("dst", "/Target")] {
            if !text(mount, path).is_empty() {
                words.push(format!("{name}={}", text(mount, path)));
            }
        }
        if mount.pointer("/ReadOnly").and_then(Value::as_bool) == Some(true) {
            words.push("readonly".into());
        }
        for (name, path) in [
            ("bind-propagation", "/BindOptions/Propagation"),
            ("consistency", "/Consistency"),
        ] {
            if !text(mount, path).is_empty() {
                words.push(format!("{name}={}", text(mount, path)));
            }
        }
        for (name, path) in [
            ("tmpfs-size", "/TmpfsOptions/SizeBytes"),
            ("tmpfs-mode", "/TmpfsOptions/Mode"),
        ] {
            match number(mount, path) {
                0 => {}
                mode if name == "tmpfs-mode" => words.push(format!("{name}={mode:o}")),
                size => words.push(format!("{name}={size}")),
            }
        }
        words.join(",")
    };
    let mounts = at(&configuration.inspect, "/HostConfig/Mounts");
    mounts.iter().map(one).collect()
}

/// Without the options that podman adds itself.
fn tmpfs(inspect: &Value) -> BTreeMap<String, String> {
    let asked = inspect.pointer("/HostConfig/Tmpfs");
    let asked = asked.and_then(Value::as_object).into_iter().flatten();
    let added = ["rprivate", "tmpcopyup", "rw", "nosuid", "nodev"];
    asked
        .map(|(path, options)| {
            let options = options.as_str().unwrap_or("").split(',');
            let kept: Vec<&str> = options.filter(|o| !added.contains(o)).collect();
            (path.clone(), kept.join(","))
        })
        .collect()
}

fn limits(inspect: &Value) -> Vec<(&'static str, String)> {
    let cpus = number(inspect, "/HostConfig/NanoCpus");
    let mut limits: Vec<(&str, String)> = [
        ("memory", "Memory"),
        ("memory-swap", "MemorySwap"),
        ("memory-reservation", "MemoryReservation"),
        ("cpu-shares", "CpuShares"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
        ("blkio-weight", "BlkioWeight"),
        ("pids-limit", "PidsLimit"),
        ("oom-score-adj", "OomScoreAdj"),
        ("shm-size", "ShmSize"),
    ]
    .into_iter()
    // Podman shows the processors asked for also as the quota and period that they come to.
    .filter(|(_, field)| cpus == 0 || !matches!(*field, "CpuPeriod" | "CpuQuota"))
    .map(|(flag, field)| (flag, number(inspect, &format!("/HostConfig/{field}"))))
    .filter(|(_, value)| *value != 0)
    .map(|(flag, value)| (flag, value.to_string()))
    .collect();
    if cpus > 0 {
        limits.push((
            "cpus",
            format!("{}.{:09}", cpus / 1_000_000_000, cpus % 1_000_000_000),
        ));
    }
    let swappiness = inspect
        .pointer("/HostConfig/MemorySwappiness")
        .and_then(Value::as_i64);
    // Podman shows 0 where nothing was said, docker nothing.
    limits.extend(
        swappiness
            .filter(|s| *s > 0)
            .map(|s| ("memory-swappiness", s.to_string())),
    );
    for (flag, path) in [
        ("cpuset-cpus", "/HostConfig/CpusetCpus"),
        ("cpuset-mems", "/HostConfig/CpusetMems"),
        ("cgroup-parent", "/HostConfig/CgroupParent"),
    ] {
        if !text(inspect, path).is_empty() {
            limits.push((flag, text(inspect, path).into()));
        }
    }
    if inspect
        .pointer("/HostConfig/OomKillDisable")
        .and_then(Value::as_bool)
        == Some(true)
    {
        limits.push(("oom-kill-disable", "true".into()));
    }
    limits
}

fn lists(inspect: &Value, spec: &Value, source: Engine) -> Vec<(&'static str, String)> {
    let mut lists = Vec::new();
    for (flag, field) in [
        ("cap-add", "CapAdd"),
        ("cap-drop", "CapDrop"),
        ("dns", "Dns"),
        ("dns-option", "DnsOptions"),
        ("dns-search", "DnsSearch"),
        ("add-host", "ExtraHosts"),
        ("group-add", "GroupAdd"),
        ("device-cgroup-rule", "DeviceCgroupRules"),
    ] {
        let values = texts(inspect, &format!("/HostConfig/{field}"));
        lists.extend(values.into_iter().map(|value| (flag, value)));
    }
    for device in at(inspect, "/HostConfig/Devices") {
        let (host, inside) = (
            text(device, "/PathOnHost"),
            text(device, "/PathInContainer"),
        );
        let permissions = match text(device, "/CgroupPermissions") {
            "" => String::new(),
            some => format!(":{some}"),
        };
        lists.push(("device", format!("{host}:{inside}{permissions}")));
    }
    for limit in at(inspect, "/HostConfig/Ulimits") {
        let name = text(limit, "/Name")
            .trim_start_matches("RLIMIT_")
            .to_lowercase();
        let (soft, hard) = (number(limit, "/Soft"), number(limit, "/Hard"));
        lists.push(("ulimit", format!("{name}={soft}:{hard}")));
    }
    // Podman's inspect does not show them, the runtime's configuration does.
    let sysctls = match source {
        Engine::Podman => spec.pointer("/linux/sysctl"),
        _ => inspect.pointer("/HostConfig/Sysctls"),
    };
    let sysctls = named_pairs(sysctls);
    lists.extend(sysctls.into_iter().map(|pair| ("sysctl", pair)));
    for (flag, field, amount) in [
        ("blkio-weight-device", "BlkioWeightDevice", "/Weight"),
        ("device-read-bps", "BlkioDeviceReadBps", "/Rate"),
        ("device-write-bps", "BlkioDeviceWriteBps", "/Rate"),
        ("device-read-iops", "BlkioDeviceReadIOps", "/Rate"),
        ("device-write-iops", "BlkioDeviceWriteIOps", "/Rate"),
    ] {
        for device in at(inspect, &format!("/HostConfig/{field}")) {
            let path = text(device, "/Path");
            lists.push((flag, format!("{path}:{}", number(device, amount))));
        }
    }
    lists
}

/// Namespaces that are not the container's own, or not shared in the engine's usual way.
fn modes(inspect: &Value, source: Engine) -> Result<Vec<(&'static str, String)>> {
    let cgroup = match source {
        Engine::Podman => "CgroupMode",
        _ => "CgroupnsMode",
    };
    let mut modes = Vec::new();
    for (flag, field) in [
        ("pid", "PidMode"),
        ("ipc", "IpcMode"),
        ("uts", "UTSMode"),
        ("userns", "UsernsMode"),
        ("cgroupns", cgroup),
    ] {
        let mode = text(inspect, &format!("/HostConfig/{field}"));
        if mode.starts_with("container:") || mode.starts_with("ns:") {
            return Err(Error::Refused(format!(
                "the container shares its {flag} namespace with {mode}, which is not in the image"
            )));
        }
        // Podman shows a cgroup namespace also where nothing was said.
        let unsaid = flag == "cgroupns" && source == Engine::Podman;
        // Podman's usual one, and docker's only where it was said.
        let usual = mode == "shareable" && source == Engine::Podman;
        if !unsaid && !usual && !matches!(mode, "" | "private") {
            modes.push((flag, mode.to_string()));
        }
    }
    Ok(modes)
}

/// Addresses that were said by hand, as far as `inspect` tells.
fn networking(inspect: &Value) -> Said {
    let mode = text(inspect, "/HostConfig/NetworkMode");
    let attached = inspect.pointer("/NetworkSettings/Networks");
    let mac = text(inspect, "/Config/MacAddress");
    let networks: Vec<Network> = attached
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, network)| Network {
            name: name.clone(),
            addresses: ["/IPAMConfig/IPv4Address", "/IPAMConfig/IPv6Address"]
                .iter()
                .filter_map(|path| text(network, path).parse::<IpAddr>().ok())
                .collect(),
            mac: Some(mac.to_string()).filter(|mac| !mac.is_empty()),
            ..Network::default()
        })
        .collect();
    let is_network = networks.iter().any(|network| network.name == mode);
    Said {
        mode: match mode {
            "" | "default" => "bridge".into(),
            _ if is_network => "bridge".into(),
            mode => mode.into(),
        },
        networks,
    }
}

fn log(inspect: &Value) -> Option<(String, Vec<String>)> {
    let driver = text(inspect, "/HostConfig/LogConfig/Type");
    let mut options = named_pairs(inspect.pointer("/HostConfig/LogConfig/Config"));
    match text(inspect, "/HostConfig/LogConfig/Size") {
        "" | "0B" => {}
        size => options.push(format!("max-size={size}")),
    }
    (!driver.is_empty()).then(|| (driver.to_string(), options))
}
