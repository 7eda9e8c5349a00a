//! Clock offsets (time_namespaces(7)), and what they have to be where CLOCK_MONOTONIC is to go on from.

use crate::Result;
use image::namespaces::time::Offsets;
use kernel::namespaces::{Kind, TimeNamespace, parse_offsets, set_offsets};
use kernel::nsfs::Handle;
use kernel::proc::Proc;
use kernel::{Error, Pid};
use nix::time::{ClockId, clock_gettime};

/// What the container's clocks showed when it was frozen, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_MONOTONIC.
    pub monotonic: i64,
    /// CLOCK_BOOTTIME.
    pub boottime: i64,
}

/// Takes the offsets of the process's namespace.
pub fn dump(root: Pid) -> Result<Offsets> {
    let text = Proc::process(root).text("timens_offsets")?;
    let (monotonic, boottime) = parse_offsets(&text)
        .ok_or_else(|| Error::unreadable(format!("/proc/{root}/timens_offsets"), text))?;
    Ok(Offsets {
        monotonic,
        boottime,
    })
}

/// The offsets of a namespace, whoever is in it: a process shows those of its children.
pub fn of(namespace: &Handle) -> Result<Offsets> {
    namespace.visited(|pid| Ok(dump(pid)))?
}

/// Those of a namespace inside the container of process `root`, against the container's own.
pub fn dump_inner(namespace: &Handle, root: Pid) -> Result<Offsets> {
    let (inner, own) = (of(namespace)?, of(&Handle::of(root, root, Kind::Time)?)?);
    Ok(Offsets {
        monotonic: inner.monotonic.saturating_sub(own.monotonic),
        boottime: inner.boottime.saturating_sub(own.boottime),
    })
}

/// Sets those of one that process `maker` has made for its children, against `own`, which are the container's.
pub fn restore_inner(maker: Pid, offsets: Offsets, own: Offsets) -> Result<()> {
    let monotonic = offsets.monotonic.saturating_add(own.monotonic);
    let boottime = offsets.boottime.saturating_add(own.boottime);
    Ok(set_offsets(maker, monotonic, boottime)?)
}

/// The offsets that make the clocks of this host show those, now. The kernel counts them from the clocks of the first
/// time namespace, which ours may differ from.
pub fn offsets(clocks: Clocks) -> Result<Offsets> {
    let own = dump(std::process::id() as Pid)?;
    let offset = |wanted: i64, clock: ClockId, own: i64| -> Result<i64> {
        Ok(wanted.saturating_sub(now(clock)?).saturating_add(own))
    };
    Ok(Offsets {
        monotonic: offset(clocks.monotonic, ClockId::CLOCK_MONOTONIC, own.monotonic)?,
        boottime: offset(clocks.boottime, ClockId::CLOCK_BOOTTIME, own.boottime)?,
    })
}

/// Makes a time namespace for the processes forked while the result lives.
pub fn restore(offsets: Offsets) -> Result<TimeNamespace> {
    Ok(TimeNamespace::new(offsets.monotonic, offsets.boottime)?)
}

fn now(clock: ClockId) -> Result<i64> {
    let time = clock_gettime(clock).map_err(|e| Error::errno("clock_gettime", e as i32))?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}
