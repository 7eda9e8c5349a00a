//! Which engine makes the vessel, and what the user asks of it.

use crate::options::{Options, Volumes};
use image::container::{Container, Engine};
use image::rootfs::Rootfs;
use resources::namespaces::time::Clocks;
use resources::vessel::{Vessel, engine, native};
use resources::{Error, Result};

/// Makes the vessel.
pub fn make(
    container: &Container,
    options: &Options,
    clocks: Option<Clocks>,
) -> Result<Box<dyn Vessel>> {
    match chosen(container, options)? {
        Engine::Native => {
            let made = native::make(container, &native_options(container, options, clocks)?)?;
            Ok(Box::new(made))
        }
        engine => {
            let made = engine::make(engine, container, &engine_options(options, clocks)?)?;
            Ok(Box::new(made))
        }
    }
}

/// The engine that was asked for; else the one that made it, unless everything that is needed without it is there.
fn chosen(container: &Container, options: &Options) -> Result<Engine> {
    let here = |engine| engine == Engine::Native || resources::engine::here(engine);
    if let Some(engine) = options.engine {
        return match here(engine) {
            true => Ok(engine),
            false => Err(missing(engine)),
        };
    }
    let engine = container.engine;
    let whole = matches!(
        container.rootfs,
        Rootfs::Travels | Rootfs::Layers { layers: true, .. }
    );
    if options.rootfs.is_some() || (!here(engine) && whole) {
        return Ok(Engine::Native);
    }
    if here(engine) {
        return Ok(engine);
    }
    Err(missing(engine))
}

fn missing(engine: Engine) -> Error {
    Error::Blocked(vec![resources::Blocker {
        pid: 0,
        place: "this host".into(),
        what: format!("{engine} is not on it: no such program in PATH"),
        remedy: format!(
            "install {engine}, or restore natively: --engine native with --rootfs DIR, or from an archive taken with \
             checkpoint --with-image"
        ),
    }])
}

fn native_options(
    container: &Container,
    options: &Options,
    clocks: Option<Clocks>,
) -> Result<native::Options> {
    let engines_only = [
        ("--publish", !options.publish.is_empty()),
        ("--pod", options.pod.is_some()),
        ("--ip", options.ip.is_some()),
        ("--volumes", options.volumes.is_some()),
        ("--bundle", options.bundle.is_some()),
        ("--console-socket", options.console_socket.is_some()),
    ];
    if let Some((option, _)) = engines_only.iter().find(|(_, given)| *given) {
        return Err(Error::Refused(format!(
            "{option} is for containers of engines, and this one is restored natively"
        )));
    }
    let network = match &options.network[..] {
        [] => None,
        [one] => Some(match one.as_str() {
            "host" => native::Network::Host,
            "bridge" => native::Network::Bridge,
            "none" => native::Network::None,
            other => {
                return Err(Error::Refused(format!(
                    "--network {other}: natively there are host, bridge and none"
                )));
            }
        }),
        _ => {
            return Err(Error::Refused(
                "--network: natively a container has one network".into(),
            ));
        }
    };
    Ok(native::Options {
        name: options.name.clone(),
        network,
        pids: options.pidns,
        rootfs: options.rootfs.clone(),
        places: options.mount.clone(),
        connections: options.connections(container.connections),
        clocks,
        archive: match &options.image {
            Some(path) => path.display().to_string(),
            None => "-".into(),
        },
    })
}

fn engine_options(options: &Options, clocks: Option<Clocks>) -> Result<engine::Options> {
    let native_only = [
        ("--rootfs", options.rootfs.is_some()),
        ("--pidns", options.pidns),
        ("--wait", options.wait),
        ("--mount", !options.mount.is_empty()),
        ("--tty", options.tty),
    ];
    if let Some((option, _)) = native_only.iter().find(|(_, given)| *given) {
        return Err(Error::Refused(format!(
            "{option} is for native containers: restore it with --engine native, or leave it out"
        )));
    }
    Ok(engine::Options {
        name: options.name.clone(),
        publish: options.publish.clone(),
        pod: options.pod.clone(),
        ip: options.ip,
        ignore_static_ip: options.ignore_static_ip,
        ignore_static_mac: options.ignore_static_mac,
        networks: options.network.clone(),
        volumes: options.volumes.map(|volumes| match volumes {
            Volumes::Keep => engine::Volumes::Keep,
            Volumes::Replace => engine::Volumes::Replace,
        }),
        bundle: options.bundle.clone(),
        console_socket: options.console_socket.clone(),
        clocks,
    })
}
