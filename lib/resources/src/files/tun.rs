//! `/dev/net/tun`: drivers/net/tun.c. The link is made by the room of networks, so that it stays until the descriptor is
//! attached to it again; then it stays as long as it did.

use super::borrowed::{Borrowed, Seen};
use super::collect::Collector;
use super::kind::{Obstacle, obstacle};
use super::surroundings::Surroundings;
use crate::namespaces::is_own;
use crate::{Error, Result};
use image::files::tun::{Attached, Tun};
use kernel::namespaces::Kind;
use kernel::open::Root;
use kernel::{Namespace, Pid, descriptor, tun, within};
use std::os::fd::{AsFd, OwnedFd};

/// Its device number.
pub(crate) const NODE: (u32, u32) = (10, 200);

/// Refuses one whose link is the host's.
pub(crate) fn judge(file: &Seen, shown: &str) -> std::result::Result<(), Obstacle> {
    match is_own(file.holder.pid, Kind::Network) {
        Ok(false) => Err(obstacle(
            format!("{shown}, in the host's network"),
            "close it first, or give the container a network of its own",
        )),
        _ => Ok(()),
    }
}

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Tun> {
    let path = collector
        .around
        .inside(&Surroundings::without_deleted(&file.link));
    let link = tun::attached(file.fd.as_fd())?.map(|attached| Attached {
        name: attached.name,
        flags: attached.flags,
        header: attached.header,
        room: attached.room,
    });
    Ok(Tun {
        path: path.unwrap_or_else(|| file.link.clone()),
        link,
    })
}

/// Opens it in the network of process `pid`, and attaches it to its link.
pub(crate) fn restore(record: &Tun, flags: u32, root: &Root, pid: Pid) -> Result<OwnedFd> {
    let path = record.path.as_path();
    let found = root.stat(path)?;
    if found.format() != descriptor::S_IFCHR || found.node != NODE {
        return Err(Error::Refused(format!(
            "{}: is not the device {}:{} the container had open; make it with mknod",
            record.path, NODE.0, NODE.1
        )));
    }
    within(pid, &[Namespace::Net], || {
        let opened = root.open(path, super::reopening(flags))?;
        let fd = opened.as_fd();
        if let Some(link) = &record.link {
            tun::attach(fd, &link.name, link.flags, 0)?;
            tun::settle(
                fd,
                &tun::Attached {
                    name: link.name.clone(),
                    flags: link.flags,
                    header: link.header,
                    room: link.room,
                },
            )?;
            tun::persist(fd, link.flags & tun::PERSIST != 0)?;
        }
        Ok(opened)
    })?
}
