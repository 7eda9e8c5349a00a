//! Directories, also as working directory and root.

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::spare_name;
use super::surroundings::Surroundings;
use crate::{Error, Result};
use image::files::directory::Directory;
use image::path::Name;
use kernel::descriptor::S_IFDIR;
use kernel::open::Root;
use std::os::fd::OwnedFd;

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Directory> {
    let stat = &file.stat;
    let key = (stat.device, stat.inode);
    at(&file.link, key, stat.permissions(), &collector.around)
        .map_err(|what| Error::Refused(format!("{}: {what}", file.holder)))
}

/// The record of a directory by what a link of the kernel's says of it.
pub(crate) fn at(
    link: &Name,
    (device, inode): (u64, u64),
    mode: u32,
    around: &Surroundings,
) -> std::result::Result<Directory, String> {
    let outside = || format!("the directory {link} is outside the container; leave it first");
    let path = around.inside(link).ok_or_else(outside)?;
    let place = |path, deleted| Directory {
        path,
        deleted,
        of_dead: false,
        mode,
    };
    if around.leads_to(&path, device, inode) {
        return Ok(place(path, false));
    }
    // Inodes of procfs are made anew for each who looks.
    let is_directory = |path: &Name| {
        let found = around.view.root.stat(path.as_path());
        found.is_ok_and(|s| s.format() == S_IFDIR && s.device == device)
    };
    if is_directory(&path) {
        return Ok(place(path, false));
    }
    let was = Surroundings::without_deleted(&path);
    if was != path {
        return Ok(place(was, true));
    }
    Err(outside())
}

/// Opens it.
pub(crate) fn restore(record: &Directory, flags: u32, root: &Root) -> Result<OwnedFd> {
    let path = record.path.as_path();
    if !record.deleted {
        super::expect(root, path, S_IFDIR, "a directory")?;
        return Ok(root.open(path, super::reopening(flags))?);
    }
    let (path, fd) = spare_name(path, |path| {
        root.mkdir(path, record.mode)?;
        root.open(path, super::reopening(flags))
    })?;
    root.remove(&path, true)?;
    Ok(fd)
}
