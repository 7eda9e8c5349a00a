//! The header of an image: this host, now.

use crate::target::Found;
use image::Header;
use image::header::{Clocks, Cpu, Host, XstateComponent};
use kernel::host;

/// Describes this host for the image of a container.
pub fn header(found: &Found) -> kernel::Result<Header> {
    let program = concat!("checkpoint ", env!("CARGO_PKG_VERSION"));
    let mut header = Header::new(program, &found.name, &found.id);
    let names = host::names()?;
    header.host = Host {
        architecture: names.architecture,
        kernel: names.kernel,
        hostname: names.hostname,
        page_size: host::page_size(),
    };
    let processor = host::processor()?;
    header.cpu = Cpu {
        model: processor.model,
        features: processor.features,
        xcr0: processor.xcr0,
        hwcap: processor.hwcap,
        hwcap2: processor.hwcap2,
        xstate_size: processor.xstate_size,
        xstate_components: processor
            .xstate_components
            .into_iter()
            .map(|(bit, offset, size)| XstateComponent { bit, offset, size })
            .collect(),
    };
    header.clocks = clocks()?;
    Ok(header)
}

/// The clocks, now.
pub fn clocks() -> kernel::Result<Clocks> {
    let clocks = host::clocks()?;
    Ok(Clocks {
        monotonic_ns: clocks.monotonic,
        boottime_ns: clocks.boottime,
        realtime_ns: clocks.realtime,
    })
}
