//! Podman's own container: `create`, `init`, and `start`, at whose exec it is taken over.

use super::{Engined, Making, Options, addresses, changed, hinted, named};
use crate::engine::{create, podman};
use crate::vessel::agent::Call;
use crate::{Error, Result};
use image::container::{Container, Engine};
use image::engine::Configuration;
use kernel::pidfd::PidFd;
use serde_json::Value;

const PROGRAM: &str = podman::PROGRAM;

/// Makes it.
pub(super) fn make(
    container: &Container,
    configuration: &Configuration,
    options: &Options,
) -> Result<Engined> {
    let version = podman::Version::ask()?;
    let wishes = options.wishes(container);
    let mut making = Making::begin(Engine::Podman, options)?;
    let image = making.image(configuration)?;
    version.answer()?;
    let creation = create::podman(configuration, image.as_deref(), &wishes)?;
    let policy = making.volumes(configuration, options.volumes)?;
    let undo = Call::new(PROGRAM, ["rm", "-f", "-t", "0", "-v", "{}"]);
    let id = making
        .create(&creation, undo)
        .map_err(|e| named(e, Engine::Podman, &wishes.name))?;
    making.call(["init", &*id]).map_err(hinted)?;
    let inspect = podman::inspect(&id)?.ok_or_else(|| {
        Error::Refused(format!(
            "podman has lost container {} while it was made",
            wishes.name
        ))
    })?;
    let pid = inspect.pointer("/State/Pid").and_then(Value::as_i64);
    let pid = pid.unwrap_or(0) as kernel::Pid;
    let networks = podman::networks(&inspect);
    let start = Call::new(PROGRAM, ["start", &*id]);
    let mut made = Engined {
        engine: Engine::Podman,
        name: wishes.name,
        id,
        pid,
        pidfd: PidFd::open(pid)?,
        first: None,
        addresses: addresses(&networks),
        changed: changed(&configuration.networks, &networks),
        warnings: creation.warnings,
        agent: Some(making.agent),
        starting: true,
        finally: Vec::new(),
        policy,
        released: false,
    };
    made.take_over(start)?;
    Ok(made)
}
