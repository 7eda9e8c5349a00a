//! Regular files without a name: made once each, under the name they had, which is removed again.

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::surroundings::Surroundings;
use super::{contents, spare_name};
use crate::{Error, Result};
use image::files::deleted::{Deleted, Open};
use kernel::descriptor::{self, O_RDWR, O_TMPFILE_BIT};
use kernel::error::EEXIST;
use kernel::open::Root;
use std::os::fd::{AsFd, OwnedFd};
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
            nameless: file.flags() & O_TMPFILE_BIT != 0,
            contents: contents::dump(file.fd.as_fd(), file.stat.size, collector)?,
        };
        collector.record.deleted.push(record);
    }
    Ok(Open { inode: id })
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
