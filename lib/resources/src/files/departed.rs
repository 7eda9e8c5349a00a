//! Directories of procfs whose process is gone: programs lock themselves up in one, for nothing will ever be found in it.

use super::directory;
use super::procfile;
use super::surroundings::Surroundings;
use crate::{Error, Result};
use image::files::directory::Directory;
use image::path::Name;
use kernel::descriptor::{O_DIRECTORY, O_PATH, Stat};
use kernel::last_pid::LastPid;
use kernel::open::Root;
use kernel::proc::status;
use nix::sys::statfs::PROC_SUPER_MAGIC;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// The record of one, which `place` leads to; none where it is another directory.
pub(super) fn dump(
    place: &Path,
    link: &Name,
    stat: &Stat,
    around: &Surroundings,
) -> Option<Directory> {
    let kind = nix::sys::statfs::statfs(place).ok()?.filesystem_type();
    let path = Surroundings::without_deleted(&around.inside(link)?);
    let is_gone = || !procfile::is_there(&path, (stat.device, stat.inode), around);
    let is_one = kind == PROC_SUPER_MAGIC && number(path.as_path()).is_some() && is_gone();
    is_one.then_some(Directory {
        path,
        deleted: true,
        of_dead: true,
        mode: stat.permissions(),
    })
}

/// The process that a path in procfs is about, and which of the components says so.
pub(super) fn number(path: &Path) -> Option<(usize, kernel::Pid)> {
    let number = |part: Component| part.as_os_str().to_str()?.parse().ok();
    let mut parts = path.components().enumerate();
    parts.find_map(|(at, part)| Some((at, number(part)?)))
}

/// Opens it, or another directory; with the process, to be ended, that it is of. `first` is the container's first process,
/// `process` who is to be in it.
pub(super) fn restore(
    record: &Directory,
    root: &Root,
    first: kernel::Pid,
    process: kernel::Pid,
) -> Result<(OwnedFd, Option<LastPid>)> {
    let flags = (O_PATH | O_DIRECTORY) as u32;
    if !record.of_dead {
        return Ok((directory::restore(record, flags, root)?, None));
    }
    let path = record.path.as_path();
    let (at, pid) = number(path).ok_or_else(|| {
        Error::Refused(format!(
            "the image has the directory {} for that of a process",
            record.path
        ))
    })?;
    // By the same name in all pid namespaces: whichever the proc file system shows.
    let depth = |pid| -> Result<usize> { Ok(status::read(pid)?.numbers("NSpid")?.len()) };
    let depth = 1 + depth(process)?.saturating_sub(depth(first)?);
    for pid in [pid].into_iter().chain(300..) {
        let mut short_lived = match LastPid::of(process, &vec![pid; depth]) {
            Err(e) if e.raw() == Some(libc::EEXIST) => continue,
            made => made?,
        };
        short_lived.weaken()?;
        let mut parts: Vec<_> = path.components().map(Component::as_os_str).collect();
        let name = pid.to_string();
        if let Some(part) = parts.get_mut(at) {
            *part = name.as_ref();
        }
        let path: PathBuf = parts.iter().collect();
        return Ok((root.open(&path, flags as i32)?, Some(short_lived)));
    }
    Err(Error::Refused("no pid is free".into()))
}
