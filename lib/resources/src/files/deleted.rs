//! Regular files without a name: made once each, under the name they had, which is removed again.

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::surroundings::Surroundings;
use super::{contents, spare_name};
use crate::rootfs::LABEL;
use crate::{Error, Result};
use image::bytes::Bytes;
use image::files::deleted::{Deleted, Open};
use image::path::Name;
use kernel::descriptor::{self, O_RDWR, O_TMPFILE_BIT};
use kernel::error::{EEXIST, EOPNOTSUPP};
use kernel::open::Root;
use kernel::xattr;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Takes an open file description of one, and the file itself when it is first met.
pub(crate) fn dump(file: &Borrowed, collector: &mut Collector) -> Result<Open> {
    let (id, new) = collector.object(file);
    if new {
        let was = Surroundings::without_deleted(&file.link);
        let path = collector.around.inside(&was).ok_or_else(|| {
            Error::Refused(format!("{}: {was} is outside the container", file.holder))
        })?;
        let record = Deleted {
            id,
            path,
            covered: collector.around.view.covered(),
            detached: (file.stat.links > 0).then_some(file.stat.device),
            mode: file.stat.permissions(),
            uid: file.stat.uid,
            gid: file.stat.gid,
            mtime: (file.stat.mtime, file.stat.mtime_ns),
            xattrs: xattrs(file.fd.as_fd())?,
            nameless: file.flags() & O_TMPFILE_BIT != 0,
            contents: contents::dump(file.fd.as_fd(), file.stat.size, collector)?,
        };
        collector.record.deleted.push(record);
    }
    Ok(Open { inode: id })
}

fn xattrs(fd: BorrowedFd) -> Result<BTreeMap<Name, Bytes>> {
    let all = xattr::all(fd)?
        .into_iter()
        .filter(|(name, _)| name != LABEL);
    Ok(all
        .map(|(name, value)| (Name::from(Path::new(&name)), Bytes(value)))
        .collect())
}

/// Once nobody writes to it any more, which would take its capabilities away and change its times.
pub(crate) fn resume(record: &Deleted, file: BorrowedFd) -> Result<()> {
    for (name, value) in &record.xattrs {
        match xattr::set(file, name.as_path().as_os_str(), &value.0) {
            // A system attribute that this host's file system knows nothing of.
            Err(e) if e.raw() == Some(EOPNOTSUPP) => (),
            set => set?,
        }
    }
    let (seconds, nanoseconds) = record.mtime;
    Ok(descriptor::set_mtime(file, seconds, nanoseconds)?)
}

/// Makes the file, readable and writable; its bulk contents come later. `root` is that of a file system of its own where it
/// keeps its name.
pub(crate) fn restore(record: &Deleted, root: &Root) -> Result<OwnedFd> {
    let path = record.path.as_path();
    let fd = match record.nameless {
        _ if record.detached.is_some() => {
            let above: Vec<&Path> = path.ancestors().skip(1).collect();
            for directory in above.into_iter().rev().filter(|at| at.parent().is_some()) {
                match root.mkdir(directory, 0o755) {
                    Err(e) if e.raw() != Some(EEXIST) => return Err(e.into()),
                    _ => (),
                }
            }
            root.create(path, O_RDWR, record.mode)?
        }
        true => root.nameless(path.parent().unwrap_or(Path::new("/")), record.mode)?,
        false => {
            let (path, fd) = spare_name(path, |path| root.create(path, O_RDWR, record.mode))?;
            root.remove(&path, false)?;
            fd
        }
    };
    descriptor::chown(fd.as_fd(), record.uid, record.gid)?;
    descriptor::chmod(fd.as_fd(), record.mode)?;
    let what = format!("{} (deleted)", record.path);
    contents::restore(&record.contents, fd.as_fd(), &what)?;
    Ok(fd)
}
