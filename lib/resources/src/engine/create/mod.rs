//! The `create` command that makes a container again, from what its engine said of it: podman's own recorded command
//! where there is one ([`replay`]), else what `inspect` shows ([`inspected`]). What cannot be carried over is said by name.

use crate::{Blocker, Error, Result};
use image::container::Engine;
use image::engine::{Configuration, Image, Volume};
use std::net::IpAddr;

pub mod flags;
mod inspected;
mod network;
mod replay;
#[cfg(test)]
mod samples;
mod write;

/// What the user asks of a container that an engine is to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The name it gets.
    pub name: String,
    /// Whether that is another than it had: then only addresses that were set by hand are asked for again.
    pub renamed: bool,
    /// Ports to publish (`-p`) instead of those it published; none: the same.
    pub publish: Vec<String>,
    /// The pod it joins (podman).
    pub pod: Option<String>,
    /// The address it gets on its first network.
    pub ip: Option<IpAddr>,
    /// The engine chooses its addresses.
    pub ignore_static_ip: bool,
    /// The engine chooses its hardware addresses.
    pub ignore_static_mac: bool,
    /// Networks (`--network`) instead of those it was on; none: the same.
    pub networks: Vec<String>,
}

/// How an engine is asked to make a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Creation {
    /// Arguments of the engine's program: `create …`.
    pub arguments: Vec<String>,
    /// What it reads on its standard input: a seccomp profile that exists as no file here.
    pub input: Option<String>,
    /// Further commands once the container is there, before it is started: `network connect …`.
    pub afterwards: Vec<Vec<String>>,
    /// What could not be carried over.
    pub warnings: Vec<String>,
}

/// The command for podman. `image` is what [`image`] found.
pub fn podman(
    configuration: &Configuration,
    image: Option<&str>,
    wishes: &Wishes,
) -> Result<Creation> {
    if configuration.engine == Engine::Podman && !configuration.command.is_empty() {
        return replay::podman(configuration, image, wishes);
    }
    let plain = inspected::read(configuration)?;
    write::podman(&plain, configuration, image, wishes)
}

/// The command for docker.
pub fn docker(
    configuration: &Configuration,
    image: Option<&str>,
    wishes: &Wishes,
) -> Result<Creation> {
    if wishes.pod.is_some() {
        return Err(Error::Refused(
            "docker has no pods: leave out --pod, or restore into podman (--engine podman)".into(),
        ));
    }
    if image.is_none() {
        return Err(Error::Refused(
            "the container's root file system is a directory of the user's, which docker cannot use: restore it into podman \
             (--engine podman) or as a native container (--engine native)"
                .into(),
        ));
    }
    let plain = inspected::read(configuration)?;
    write::docker(&plain, configuration, image, wishes)
}

/// What to call a container's image here: its name where that name is the same image, else its id. `id_of` looks an image
/// up, by name or id, and gives its id without an algorithm's name.
pub fn image(
    image: &Image,
    engine: Engine,
    id_of: impl Fn(&str) -> Result<Option<String>>,
) -> Result<String> {
    let named = id_of(&image.name)?;
    if named.as_deref() == Some(&image.id) {
        return Ok(image.name.clone());
    }
    if id_of(&image.id)?.is_some() {
        return Ok(image.id.clone());
    }
    let short = image.id.get(..12).unwrap_or(&image.id);
    let other = match named {
        Some(id) => format!(
            ", where {} is another one ({})",
            image.name,
            id.get(..12).unwrap_or(&id)
        ),
        None => String::new(),
    };
    Err(Error::Blocked(vec![Blocker {
        pid: 0,
        place: engine.to_string(),
        what: format!(
            "the container's image {} (id {short}) is not in its storage here{other}",
            image.name
        ),
        remedy: format!(
            "bring it over: podman save {} | ssh HOST {engine} load; or checkpoint --with-image and restore --engine native",
            image.name
        ),
    }]))
}

/// The command that makes a volume as it was: `volume create …`.
pub fn volume(volume: &Volume) -> Vec<String> {
    let mut arguments = vec!["volume".into(), "create".into()];
    if volume.driver != "local" && !volume.driver.is_empty() {
        arguments.push(format!("--driver={}", volume.driver));
    }
    let pairs = |flag: &'static str, map: &std::collections::BTreeMap<String, String>| {
        map.iter()
            .map(move |(name, value)| format!("--{flag}={name}={value}"))
            .collect::<Vec<_>>()
    };
    arguments.extend(pairs("opt", &volume.options));
    arguments.extend(pairs("label", &volume.labels));
    arguments.push(volume.name.clone());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn web() -> Image {
        Image {
            name: "localhost/web:latest".into(),
            id: "0123456789abcdef".into(),
            digest: None,
        }
    }

    #[test]
    fn an_image_is_called_by_its_name_only_where_the_name_means_it() {
        let here = |names: &'static [(&'static str, &'static str)]| {
            move |wanted: &str| {
                let found = names.iter().find(|(name, _)| *name == wanted);
                Ok(found.map(|(_, id)| id.to_string()))
            }
        };
        let id = "0123456789abcdef";
        let name = "localhost/web:latest";
        let both = here(&[("localhost/web:latest", "0123456789abcdef")]);
        assert_eq!(image(&web(), Engine::Podman, both).unwrap(), name);
        let by_id = here(&[("0123456789abcdef", "0123456789abcdef")]);
        assert_eq!(image(&web(), Engine::Docker, by_id).unwrap(), id);
        let other = here(&[
            ("localhost/web:latest", "ffff"),
            ("0123456789abcdef", "0123456789abcdef"),
        ]);
        assert_eq!(image(&web(), Engine::Docker, other).unwrap(), id);
    }

    #[test]
    fn an_image_that_is_missing_is_an_error_with_what_was_looked_for() {
        let nothing = image(&web(), Engine::Docker, |_| Ok(None)).unwrap_err();
        assert_eq!(nothing.exit_code(), 4);
        let text = nothing.to_string();
        for part in ["localhost/web:latest", "0123456789ab", "docker"] {
            assert!(text.contains(part), "{text}");
        }
        let another = |name: &str| Ok(name.contains("web").then(|| "ffff".to_string()));
        let text = image(&web(), Engine::Podman, another)
            .unwrap_err()
            .to_string();
        assert!(text.contains("another one (ffff)"), "{text}");
    }

    #[test]
    fn a_volume_keeps_its_driver_options_and_labels() {
        let made = volume(&Volume {
            name: "data".into(),
            anonymous: false,
            destination: "/data".into(),
            driver: "local".into(),
            options: BTreeMap::from([("type".into(), "tmpfs".into())]),
            labels: BTreeMap::from([("a".into(), "b".into())]),
        });
        assert_eq!(
            made.join(" "),
            "volume create --opt=type=tmpfs --label=a=b data"
        );
    }
}
