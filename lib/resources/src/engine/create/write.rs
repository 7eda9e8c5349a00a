//! What [`super::inspected`] read, as the flags of `podman create` and `docker create`.

use super::inspected::{Health, Plain};
use super::{Creation, Wishes, network};
use crate::Result;
use image::container::Engine;
use image::engine::Configuration;

/// For podman.
pub fn podman(
    plain: &Plain,
    configuration: &Configuration,
    image: Option<&str>,
    wishes: &Wishes,
) -> Result<Creation> {
    let source = configuration.engine;
    let networking = network::decide(configuration, Engine::Podman, &plain.networking, wishes)?;
    let mut flags = Flags::start(wishes);
    flags.all("pod", &wishes.pod);
    flags.0.extend(network::podman(&networking));
    flags.common(plain, wishes);
    flags.all("annotation", &plain.annotations);
    let mut creation = Creation::default();
    for option in &plain.security {
        creation.security(&mut flags, option);
    }
    if source == Engine::Docker && !plain.privileged {
        let masked = configuration.inspect.pointer("/HostConfig/MaskedPaths");
        if masked.and_then(|m| m.as_array()).is_some_and(Vec::is_empty) {
            flags.one("security-opt", "unmask=ALL");
        }
    }
    flags.some("umask", &plain.umask);
    flags.some("tz", &plain.timezone);
    if !plain.domain.is_empty() {
        creation.lost(format!("the domain name {}", plain.domain), "podman");
    }
    for (path, options) in &plain.tmpfs {
        // Podman puts these there itself when the root is read-only.
        let usual = ["/run", "/tmp", "/var/tmp"].contains(&path.as_str());
        if source == Engine::Podman && plain.read_only && usual && options.is_empty() {
            continue;
        }
        // Docker's are noexec unless told otherwise, podman's are not.
        let noexec = source == Engine::Docker && !options.split(',').any(|o| o == "exec");
        flags.tmpfs(path, options, noexec.then_some("noexec"));
    }
    if let Some((driver, options)) = &plain.log {
        match (driver.as_str(), source) {
            (driver, Engine::Podman) => flags.one("log-driver", driver),
            ("json-file" | "local", _) => {}
            ("none" | "journald", _) => flags.one("log-driver", driver),
            (other, _) => creation.lost(format!("the log driver {other}"), "podman"),
        }
        let known =
            |option: &&String| option.starts_with("max-size=") || option.starts_with("tag=");
        options
            .iter()
            .filter(known)
            .for_each(|o| flags.one("log-opt", o));
    }
    if let Some(health) = &plain.health {
        let command = match health.test.split_first() {
            Some((kind, [shell])) if kind == "CMD-SHELL" => shell.clone(),
            Some((kind, words)) if kind == "CMD" => json(words),
            _ => String::new(),
        };
        flags.health(health, &command);
    }
    flags.0.push(match plain.entrypoint.as_slice() {
        [] => "--entrypoint=".into(),
        [one] if !one.starts_with('[') => format!("--entrypoint={one}"),
        several => format!("--entrypoint={}", json(several)),
    });
    creation.finish(flags, configuration, image, &plain.command);
    Ok(creation)
}

/// For docker.
pub fn docker(
    plain: &Plain,
    configuration: &Configuration,
    image: Option<&str>,
    wishes: &Wishes,
) -> Result<Creation> {
    let source = configuration.engine;
    let networking = network::decide(configuration, Engine::Docker, &plain.networking, wishes)?;
    let mut flags = Flags::start(wishes);
    // Else its input would end with the first who attached to it, as that of `docker run` without -d does.
    if plain.interactive && !plain.input_once {
        flags.one("attach", "stdout");
        flags.one("attach", "stderr");
    }
    let (network, connect) = network::docker(&networking, &wishes.name);
    flags.0.extend(network);
    flags.common(plain, wishes);
    let mut creation = Creation {
        afterwards: connect,
        ..Creation::default()
    };
    for option in &plain.security {
        match option.split_once('=') {
            Some(("unmask", "ALL" | "all")) => flags.one("security-opt", "systempaths=unconfined"),
            Some(("mask" | "unmask" | "proc-opts", _)) => {
                creation.lost(format!("the security option {option}"), "docker");
            }
            _ => creation.security(&mut flags, option),
        }
    }
    if source == Engine::Docker && !plain.privileged {
        let masked = configuration.inspect.pointer("/HostConfig/MaskedPaths");
        if masked.and_then(|m| m.as_array()).is_some_and(Vec::is_empty) {
            flags.one("security-opt", "systempaths=unconfined");
        }
    }
    flags.some("domainname", &plain.domain);
    for annotation in &plain.annotations {
        creation.lost(format!("the annotation {annotation}"), "docker");
    }
    if !matches!(plain.umask.as_str(), "" | "0022") {
        creation.lost(format!("the umask {} of `exec`", plain.umask), "docker");
    }
    if !plain.timezone.is_empty() {
        creation.lost(format!("the time zone {}", plain.timezone), "docker");
    }
    for (path, options) in &plain.tmpfs {
        let exec = source == Engine::Podman && !options.split(',').any(|o| o == "noexec");
        flags.tmpfs(path, options, exec.then_some("exec"));
    }
    if let Some((driver, options)) = &plain.log {
        match (driver.as_str(), source) {
            (driver, Engine::Docker) => flags.one("log-driver", driver),
            ("none" | "journald", _) => flags.one("log-driver", driver),
            ("k8s-file" | "json-file", _) => {}
            (other, _) => creation.lost(format!("the log driver {other}"), "docker"),
        }
        flags.all("log-opt", options);
    }
    if let Some(health) = &plain.health {
        let command = match health.test.split_first() {
            Some((kind, [shell])) if kind == "CMD-SHELL" => shell.clone(),
            // The command line has words for a shell's command only.
            Some((kind, words)) if kind == "CMD" => {
                let quoted = words
                    .iter()
                    .map(|w| format!("'{}'", w.replace('\'', r"'\''")));
                quoted.collect::<Vec<_>>().join(" ")
            }
            _ => String::new(),
        };
        flags.health(health, &command);
    }
    let mut command = plain.command.clone();
    let entrypoint = match plain.entrypoint.split_first() {
        None => "",
        Some((first, rest)) => {
            command.splice(0..0, rest.iter().cloned());
            first
        }
    };
    flags.0.push(format!("--entrypoint={entrypoint}"));
    creation.finish(flags, configuration, image, &command);
    Ok(creation)
}

struct Flags(Vec<String>);

impl Flags {
    fn start(wishes: &Wishes) -> Self {
        Flags(vec![
            "create".into(),
            "--pull=never".into(),
            format!("--name={}", wishes.name),
        ])
    }

    fn one(&mut self, flag: &str, value: &str) {
        self.0.push(format!("--{flag}={value}"));
    }

    fn some(&mut self, flag: &str, value: &str) {
        if !value.is_empty() {
            self.one(flag, value);
        }
    }

    fn all<'a>(&mut self, flag: &str, values: impl IntoIterator<Item = &'a String>) {
        values.into_iter().for_each(|value| self.one(flag, value));
    }

    fn tmpfs(&mut self, path: &str, options: &str, further: Option<&str>) {
        let options = options.split(',').filter(|option| !option.is_empty());
        let options: Vec<&str> = options.chain(further).collect();
        match options.is_empty() {
            true => self.one("tmpfs", path),
            false => self.one("tmpfs", &format!("{path}:{}", options.join(","))),
        }
    }

    fn health(&mut self, health: &Health, command: &str) {
        if health.test.first().is_some_and(|kind| kind == "NONE") {
            return self.0.push("--no-healthcheck".into());
        }
        self.some("health-cmd", command);
        for (flag, nanoseconds) in [
            ("health-interval", health.interval),
            ("health-timeout", health.timeout),
            ("health-start-period", health.start_period),
        ] {
            if nanoseconds > 0 {
                self.one(flag, &format!("{nanoseconds}ns"));
            }
        }
        if health.retries > 0 {
            self.one("health-retries", &health.retries.to_string());
        }
    }

    /// What both engines call the same.
    fn common(&mut self, plain: &Plain, wishes: &Wishes) {
        for (flag, on) in [
            ("tty", plain.terminal),
            ("interactive", plain.interactive),
            ("init", plain.init),
            ("privileged", plain.privileged),
            ("read-only", plain.read_only),
            ("rm", plain.remove),
        ] {
            if on {
                self.0.push(format!("--{flag}"));
            }
        }
        if wishes.pod.is_none() {
            self.all("hostname", &plain.hostname);
            match wishes.publish.is_empty() {
                true => self.all("publish", &plain.publish),
                false => self.all("publish", &wishes.publish),
            }
            if plain.publish_all && wishes.publish.is_empty() {
                self.0.push("--publish-all".into());
            }
        }
        self.all("expose", &plain.expose);
        self.all("env", &plain.environment);
        self.some("user", &plain.user);
        self.some("workdir", &plain.directory);
        self.all("label", &plain.labels);
        self.some("stop-signal", &plain.stop_signal);
        if let Some(seconds) = plain.stop_timeout {
            self.one("stop-timeout", &seconds.to_string());
        }
        self.some("restart", &plain.restart);
        self.all("volume", &plain.binds);
        self.all("mount", &plain.mounts);
        let of_the_pod = ["dns", "dns-option", "dns-search", "add-host"];
        for (flag, value) in plain.limits.iter().chain(&plain.lists).chain(&plain.modes) {
            if wishes.pod.is_none() || !of_the_pod.contains(flag) {
                self.one(flag, value);
            }
        }
    }
}

impl Creation {
    fn lost(&mut self, what: String, engine: &str) {
        self.warnings
            .push(format!("{what} is left out: {engine} has no such thing"));
    }

    /// Docker keeps a seccomp profile itself, not the name of its file: that goes by standard input.
    fn security(&mut self, flags: &mut Flags, option: &str) {
        let profile = option
            .strip_prefix("seccomp=")
            .filter(|profile| profile.trim_start().starts_with('{'));
        match profile {
            Some(profile) => {
                self.input = Some(profile.into());
                flags.one("security-opt", "seccomp=/dev/stdin");
            }
            None => flags.one("security-opt", option),
        }
    }

    fn finish(
        &mut self,
        mut flags: Flags,
        configuration: &Configuration,
        image: Option<&str>,
        command: &[String],
    ) {
        let rootfs = configuration
            .inspect
            .pointer("/Rootfs")
            .and_then(|r| r.as_str());
        match (image, rootfs) {
            (Some(image), _) => flags.0.push(image.into()),
            (None, rootfs) => {
                flags.0.push("--rootfs".into());
                flags.0.push(rootfs.unwrap_or_default().into());
            }
        }
        flags.0.extend(command.iter().cloned());
        self.arguments = flags.0;
    }
}

fn json(words: &[String]) -> String {
    serde_json::Value::from(words).to_string()
}
