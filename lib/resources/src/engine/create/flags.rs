//! Podman's own command line, taken apart: what made a container is recorded there as it was typed (podman-create(1)).

use crate::{Error, Result};

/// One flag of `podman run` or `podman create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Its long name, without dashes: `volume`.
    pub name: String,
    /// Its value; none for a switch without one.
    pub value: Option<String>,
}

/// A recorded command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What runs the container (`podman --runtime`), where that was said.
    pub runtime: Option<String>,
    /// The flags after `run` or `create`, in their order.
    pub flags: Vec<Flag>,
    /// The image, or with `--rootfs` a directory.
    pub image: String,
    /// What is run in it; empty for what the image says.
    pub arguments: Vec<String>,
}

/// Flags that take no value, or only one behind `=`. All others do.
const SWITCHES: [&str; 25] = [
    "detach",
    "disable-content-trust",
    "env-host",
    "help",
    "http-proxy",
    "init",
    "interactive",
    "no-healthcheck",
    "no-hostname",
    "no-hosts",
    "oom-kill-disable",
    "passwd",
    "privileged",
    "publish-all",
    "quiet",
    "read-only",
    "read-only-tmpfs",
    "replace",
    "rm",
    "rmi",
    "rootfs",
    "sig-proxy",
    "tls-verify",
    "tty",
    "unsetenv-all",
];

/// Short names, and names that mean the same.
const SHORT: [(char, &str); 15] = [
    ('a', "attach"),
    ('c', "cpu-shares"),
    ('d', "detach"),
    ('e', "env"),
    ('h', "hostname"),
    ('i', "interactive"),
    ('l', "label"),
    ('m', "memory"),
    ('p', "publish"),
    ('P', "publish-all"),
    ('q', "quiet"),
    ('t', "tty"),
    ('u', "user"),
    ('v', "volume"),
    ('w', "workdir"),
];

/// Switches of podman itself, before the word `run` or `create`; all its other flags take a value.
const GLOBAL_SWITCHES: [&str; 8] = [
    "--help",
    "--noout",
    "--remote",
    "-r",
    "--syslog",
    "--trace",
    "--version",
    "-v",
];

impl Flag {
    /// A flag with a value.
    pub fn new(name: &str, value: impl Into<String>) -> Self {
        Flag {
            name: name.into(),
            value: Some(value.into()),
        }
    }

    /// Whether a switch is on.
    pub fn is_on(&self) -> bool {
        !matches!(self.value.as_deref(), Some("false" | "0" | "f" | "F"))
    }

    /// Its value, or nothing.
    pub fn value(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }

    /// As one argument; the form with `=` is good for both kinds.
    pub fn argument(&self) -> String {
        match &self.value {
            Some(value) => format!("--{}={value}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

/// Takes a recorded command apart.
pub fn parse(words: &[String]) -> Result<Command> {
    let mut words = words.iter().skip(1);
    let mut runtime = None;
    loop {
        match words.next().map(String::as_str) {
            Some("container") => {}
            Some("--runtime") => runtime = words.next().cloned(),
            Some(word) if word.starts_with("--runtime=") => {
                runtime = word.split_once('=').map(|(_, name)| name.to_string());
            }
            Some("run" | "create") => break,
            Some(word) if GLOBAL_SWITCHES.contains(&word) || word.contains('=') => {}
            Some(word) if word.starts_with('-') => drop(words.next()),
            Some(word) => return Err(unknown(format!("the word {word:?}"))),
            None => return Err(unknown("neither `run` nor `create`".into())),
        }
    }
    let mut flags = Vec::new();
    while let Some(word) = words.next() {
        if word == "--" {
            let image = words.next().ok_or_else(|| unknown("no image".into()))?;
            return Ok(command(runtime, flags, image, words));
        }
        let mut value = |name: &str| {
            let next = words.next().cloned();
            next.ok_or_else(|| unknown(format!("no value for --{name}")))
        };
        if let Some(long) = word.strip_prefix("--") {
            let (name, given) = match long.split_once('=') {
                Some((name, value)) => (canonical(name), Some(value.to_string())),
                None => (canonical(long), None),
            };
            let given = match given {
                None if !switch(name) => Some(value(name)?),
                given => given,
            };
            flags.push(Flag {
                name: name.into(),
                value: given,
            });
        } else if let Some(cluster) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            short(cluster, &mut flags, value)?;
        } else {
            return Ok(command(runtime, flags, word, words));
        }
    }
    Err(unknown("no image".into()))
}

/// `-dit`, `-p80:80`, `-p=80:80`, `-e X=Y`.
fn short(
    cluster: &str,
    flags: &mut Vec<Flag>,
    mut value: impl FnMut(&str) -> Result<String>,
) -> Result<()> {
    let mut letters = cluster.chars();
    while let Some(letter) = letters.next() {
        let name = SHORT.iter().find(|(short, _)| *short == letter);
        let (_, name) = name.ok_or_else(|| unknown(format!("the flag -{letter}")))?;
        let rest = letters.as_str();
        if !switch(name) {
            let given = match rest {
                "" => value(name)?,
                _ => rest.strip_prefix('=').unwrap_or(rest).to_string(),
            };
            flags.push(Flag::new(name, given));
            return Ok(());
        }
        if let Some(given) = rest.strip_prefix('=') {
            flags.push(Flag::new(name, given));
            return Ok(());
        }
        flags.push(Flag {
            name: (*name).into(),
            value: None,
        });
    }
    Ok(())
}

fn command<'a>(
    runtime: Option<String>,
    flags: Vec<Flag>,
    image: &str,
    arguments: impl Iterator<Item = &'a String>,
) -> Command {
    Command {
        runtime,
        flags,
        image: image.into(),
        arguments: arguments.cloned().collect(),
    }
}

fn switch(name: &str) -> bool {
    SWITCHES.contains(&name)
}

fn canonical(name: &str) -> &str {
    match name {
        "net" => "network",
        "dns-opt" => "dns-option",
        "net-alias" => "network-alias",
        "healthcheck-command" => "health-cmd",
        "healthcheck-interval" => "health-interval",
        "healthcheck-retries" => "health-retries",
        "healthcheck-start-period" => "health-start-period",
        "healthcheck-timeout" => "health-timeout",
        name => name,
    }
}

fn unknown(what: String) -> Error {
    Error::Refused(format!(
        "the command that created the container cannot be read: there is {what}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Command {
        let words: Vec<String> = line.split(' ').map(str::to_string).collect();
        parse(&words).unwrap()
    }

    fn written(command: &Command) -> String {
        let flags: Vec<String> = command.flags.iter().map(Flag::argument).collect();
        flags.join(" ")
    }

    #[test]
    fn the_image_ends_the_flags() {
        let command = parsed("podman run -d --name p1 bb sh -c x --rm");
        assert_eq!(written(&command), "--detach --name=p1");
        assert_eq!(command.image, "bb");
        assert_eq!(command.arguments, ["sh", "-c", "x", "--rm"]);
    }

    #[test]
    fn short_flags_come_in_clusters_and_with_their_values() {
        for (line, flags) in [
            (
                "podman run -dit -p80:80 bb",
                "--detach --interactive --tty --publish=80:80",
            ),
            (
                "podman run -itp 80:80 bb",
                "--interactive --tty --publish=80:80",
            ),
            ("podman run -e=X=Y -d=false bb", "--env=X=Y --detach=false"),
            ("podman run -e X=Y -v/a:/b bb", "--env=X=Y --volume=/a:/b"),
        ] {
            assert_eq!(written(&parsed(line)), flags, "{line}");
        }
    }

    #[test]
    fn what_stands_before_run_is_podmans_own() {
        for line in [
            "/usr/bin/podman --root /x --log-level=debug container run --net host bb",
            "podman --syslog -r create --network=host bb",
            "podman container create --net=host -- bb",
            "podman --runtime crun run --net host bb",
            "podman --runtime=/usr/bin/crun run --net host bb",
        ] {
            let command = parsed(line);
            assert_eq!(written(&command), "--network=host", "{line}");
            assert_eq!(command.image, "bb", "{line}");
            let runtime = command.runtime.as_deref();
            assert_eq!(
                runtime.is_some_and(|name| name.ends_with("crun")),
                line.contains("crun")
            );
        }
    }

    #[test]
    fn switches_take_a_value_only_behind_an_equals_sign() {
        let command = parsed("podman run --rm --read-only=false --tty=true --init bb");
        assert_eq!(
            written(&command),
            "--rm --read-only=false --tty=true --init"
        );
        let on: Vec<bool> = command.flags.iter().map(Flag::is_on).collect();
        assert_eq!(on, [true, false, true, true]);
    }

    #[test]
    fn what_is_no_command_of_podmans_is_refused() {
        for line in [
            "podman",
            "podman ps",
            "podman run",
            "podman run -d",
            "podman run --name",
            "podman run -Z bb",
            "podman run -p",
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_string).collect();
            assert!(parse(&words).is_err(), "{line}");
        }
    }
}
