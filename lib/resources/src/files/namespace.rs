//! Namespaces held open: those that tasks of the container are in.

use super::borrowed::{Borrowed, Seen};
use super::collect::Collector;
use super::surroundings::Surroundings;
use crate::{Error, Result, Target};
use image::files::namespace::Namespace;
use image::ids::NsId;
use kernel::namespaces::Kind;
use kernel::nsfs::Handle;
use std::os::fd::OwnedFd;

/// Which one it is: the container's, or one inside it; none where no task is in it.
pub(super) fn which(file: &Seen, around: &Surroundings) -> Option<Option<NsId>> {
    around.namespaces.get(&file.stat.inode).copied()
}

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Namespace> {
    let gone = || Error::Refused(format!("{}: no task is in {}", file.holder, file.link));
    let link = file.link.to_string();
    let (kind, _) = link.split_once(":[").ok_or_else(gone)?;
    Ok(Namespace {
        of: which(file, &collector.around).ok_or_else(gone)?,
        file: kind.into(),
    })
}

/// Opens it, by a process that is in it.
pub(crate) fn restore(record: &Namespace, target: &Target) -> Result<OwnedFd> {
    let mut kinds = Kind::ALL.iter();
    let kind = kinds.find(|kind| kind.name() == record.file);
    let unknown = || {
        let file = &record.file;
        Error::Refused(format!(
            "the image has a {file} namespace open that is not in it"
        ))
    };
    let kind = *kind.ok_or_else(unknown)?;
    let first = target.root_pid;
    let handle = match record.of {
        None => Handle::of(first, first, kind)?,
        Some(id) => target.inners.handle(id, kind)?.ok_or_else(unknown)?,
    };
    Ok(handle.into())
}
