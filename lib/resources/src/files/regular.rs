//! Regular files that have a name.

use super::borrowed::Borrowed;
use super::collect::Collector;
use crate::{Error, Result};
use image::files::regular::Regular;
use kernel::descriptor::{O_APPEND, O_ASYNC, S_IFREG};
use kernel::open::Root;
use std::os::fd::OwnedFd;

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Regular> {
    let path = match collector.around.name_of(file) {
        Ok(Some(path)) => path,
        _ => return Err(Error::Refused(format!("{}: no name", file.holder))),
    };
    Ok(Regular {
        path,
        size: file.stat.size,
        mtime: file.stat.mtime,
    })
}

/// Opens it. One that was changed meanwhile is the program's affair, as it would be had the program run on; one that
/// ends before the offset is not the same file any more.
pub(crate) fn restore(record: &Regular, flags: u32, position: u64, root: &Root) -> Result<OwnedFd> {
    let path = record.path.as_path();
    super::expect(root, path, S_IFREG, "a regular file")?;
    let size = root.stat(path)?.size;
    let cut = size < position && size < record.size;
    if cut && flags as i32 & O_APPEND == 0 {
        return Err(Error::Refused(format!(
            "{}: is {size} bytes long and the container stands at {position}; bring the file as it was when the container was taken ({} bytes)",
            record.path, record.size
        )));
    }
    // What no driver asks for is not set by F_SETFL: it stays as it was opened.
    Ok(root.open(path, super::reopening(flags) | flags as i32 & O_ASYNC)?)
}
