//! Files that the kernel makes up.

use super::borrowed::Borrowed;
use super::collect::Collector;
use crate::{Error, Result};
use image::files::procfile::Procfile;
use kernel::open::Root;
use std::os::fd::OwnedFd;

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Procfile> {
    let found = collector.around.inside(&file.link);
    let path = found.filter(|path| collector.around.view.root.stat(path.as_path()).is_ok());
    let path = path.ok_or_else(|| {
        Error::Refused(format!(
            "{}: {} is gone with its process; close it first",
            file.holder, file.link
        ))
    })?;
    Ok(Procfile { path })
}

/// Opens it.
pub(crate) fn restore(record: &Procfile, flags: u32, root: &Root) -> Result<OwnedFd> {
    Ok(root.open(record.path.as_path(), super::reopening(flags))?)
}
