//! Host and domain name (uts_namespaces(7)).

use crate::Result;
use image::namespaces::uts::Uts;
use image::path::Name;
use kernel::{Error, Namespace, Pid, within};

const FILES: [&str; 2] = ["/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname"];

/// Takes both names.
pub fn dump(root: Pid) -> Result<Uts> {
    let [hostname, domainname] = within(root, &[Namespace::Uts], || FILES.map(read))?;
    Ok(Uts {
        hostname: hostname?,
        domainname: domainname?,
    })
}

fn read(path: &str) -> kernel::Result<Name> {
    let mut bytes = std::fs::read(path).map_err(|e| Error::io(format!("read {path}"), &e))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(Name(bytes))
}

/// Sets both, in the calling process's namespace: called inside the vessel.
pub fn restore(uts: &Uts) -> Result<()> {
    for (path, name) in FILES.iter().zip([&uts.hostname, &uts.domainname]) {
        std::fs::write(path, &name.0).map_err(|e| Error::io(format!("write {path}"), &e))?;
    }
    Ok(())
}
