//! Memory files: made once each, and opened as often as the container had them open.

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::contents;
use super::surroundings::Surroundings;
use crate::{Error, Result, Target};
use image::files::memfd::{Memfd, Open};
use image::path::Name;
use kernel::descriptor::{self, O_RDONLY};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

/// Takes an open file description of one, and the file itself when it is first met.
pub(crate) fn dump(file: &Borrowed, collector: &mut Collector) -> Result<Open> {
    let (id, new) = collector.object(file);
    if new {
        let link = Surroundings::without_deleted(&file.link);
        let name = link.0.strip_prefix(b"/memfd:").unwrap_or(&link.0);
        let record = Memfd {
            id,
            name: Name(name.to_vec()),
            mode: file.stat.permissions(),
            uid: file.stat.uid,
            gid: file.stat.gid,
            seals: descriptor::seals(descriptor::reopen(file.fd.as_fd(), O_RDONLY)?.as_fd())?
                as u32,
            page: descriptor::huge_page(file.fd.as_fd())?,
            contents: contents::dump(file.fd.as_fd(), file.stat.size, collector)?,
        };
        collector.record.memfds.push(record);
    }
    Ok(Open { inode: id })
}

/// Makes the file; its bulk contents come later, its seals last.
pub(crate) fn restore(record: &Memfd) -> Result<OwnedFd> {
    let wrong = || Error::Refused(format!("{} is no name for a memfd", record.name));
    let name = CString::new(record.name.0.clone()).map_err(|_| wrong())?;
    let fd = descriptor::memfd_of(&name, record.page)?;
    descriptor::chown(fd.as_fd(), record.uid, record.gid)?;
    descriptor::chmod(fd.as_fd(), record.mode)?;
    let what = format!("memfd {}", record.name);
    contents::restore(&record.contents, fd.as_fd(), &what)?;
    Ok(fd)
}

/// Seals it.
pub(crate) fn resume(record: &Memfd, target: &Target) -> Result<()> {
    let fd = target
        .objects
        .get(&record.id)
        .ok_or_else(|| Error::Refused(format!("memfd {} is not there", record.name)))?;
    // Those the kernel gave it when it was made (F_SEAL_EXEC, by sysctl) stay.
    Ok(descriptor::add_seals(fd.as_fd(), record.seals as i32)?)
}
