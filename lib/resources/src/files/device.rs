//! Device nodes without state.

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::kind::is_stateless;
use super::spare_name;
use super::surroundings::Surroundings;
use crate::{Error, Result};
use image::files::device::Device;
use kernel::descriptor;
use kernel::open::Root;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Device> {
    let around = &collector.around;
    let path = around.inside(&Surroundings::without_deleted(&file.link));
    let (major, minor) = file.stat.node;
    let outside = around.is_outside(file);
    Ok(Device {
        path: path.unwrap_or_else(|| file.link.clone()),
        major,
        minor,
        outside,
        deleted: (!outside && file.stat.links == 0).then(|| file.stat.permissions()),
    })
}

/// Opens the container's own, or, where it never had one, ours.
pub(crate) fn restore(record: &Device, flags: u32, root: &Root) -> Result<OwnedFd> {
    let node = (record.major, record.minor);
    if let Some(mode) = record.deleted.filter(|_| is_stateless(node)) {
        let (path, fd) = spare_name(record.path.as_path(), |path| {
            root.mknod(path, node, mode)?;
            root.open(path, super::reopening(flags))
        })?;
        root.remove(&path, false)?;
        return Ok(fd);
    }
    let is = |root: &Root, path: &Path| {
        let found = root.stat(path);
        found.is_ok_and(|s| s.format() == descriptor::S_IFCHR && s.node == node)
    };
    if is(root, record.path.as_path()) {
        return Ok(root.open(record.path.as_path(), super::reopening(flags))?);
    }
    let host = Root::at(Path::new("/"))?;
    let usual = match node {
        (1, 3) => "/dev/null",
        (1, 5) => "/dev/zero",
        (1, 7) => "/dev/full",
        (1, 8) => "/dev/random",
        (1, 9) => "/dev/urandom",
        (1, 11) => "/dev/kmsg",
        _ => "",
    };
    if !record.outside || !is(&host, Path::new(usual)) {
        return Err(Error::Refused(format!(
            "{}: is not the device {}:{} the container had open; make it with mknod",
            record.path, record.major, record.minor
        )));
    }
    let fd = host.open(Path::new(usual), super::reopening(flags))?;
    descriptor::stat(fd.as_fd())?;
    Ok(fd)
}
