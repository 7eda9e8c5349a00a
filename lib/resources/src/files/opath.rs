//! Places in the file system (`O_PATH`).

use super::borrowed::Borrowed;
use super::collect::Collector;
use crate::{Error, Result};
use image::files::opath::Opath;
use kernel::open::Root;
use std::os::fd::OwnedFd;

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Opath> {
    let gone = || {
        Error::Refused(format!(
            "{}: {} was deleted and is open as a place only (O_PATH); close it first",
            file.holder, file.link
        ))
    };
    let path = collector.around.inside(&file.link).ok_or_else(gone)?;
    let found = collector.around.view.root.stat(path.as_path());
    if found.map(|found| found.format()) != Ok(file.stat.format()) {
        return Err(gone());
    }
    Ok(Opath {
        path,
        format: file.stat.format(),
    })
}

/// Opens it.
pub(crate) fn restore(record: &Opath, flags: u32, root: &Root) -> Result<OwnedFd> {
    let path = record.path.as_path();
    super::expect(root, path, record.format, "what it was")?;
    Ok(root.open(path, super::reopening(flags))?)
}
