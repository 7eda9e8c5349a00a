//! Process descriptors. Those of threads are made when threads are; until then something else has their numbers.

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::table;
use crate::{Error, Result, Target};
use image::files::pidfd::{Ended, Pidfd};
use image::files::table::Table;
use image::files::{File, OpenFile};
use image::ids::Pid;
use kernel::event::{self, Dead};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};

/// What the link of one says.
pub(crate) const LINK: &str = "anon_inode:[pidfd]";

/// Takes one.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Pidfd> {
    let Some(ours) = file.fdinfo.pidfd()? else {
        let ended = Ended {
            inode: file.stat.inode,
            status: event::exit_status(file.fd.as_fd()),
        };
        return Ok(Pidfd {
            pid: None,
            ended: Some(ended),
        });
    };
    let pid = collector.source.inside(ours).ok_or_else(|| {
        Error::Refused(format!(
            "{}: a descriptor of process {ours}, which is outside the container; close it first",
            file.holder
        ))
    })?;
    Ok(Pidfd {
        pid: Some(pid),
        ended: None,
    })
}

/// The thread that one is of, where it is made last of all, when the queues of sockets are full already.
pub(crate) fn of_late(file: &Borrowed, collector: &Collector) -> Result<Option<kernel::Pid>> {
    let processes = &collector.source.processes;
    let is_late = |tid: &kernel::Pid| processes.iter().all(|process| process.pid != *tid);
    if file.link.0 != LINK.as_bytes() || !is_of_thread(file.flags() as u32) {
        return Ok(None);
    }
    Ok(file.fdinfo.pidfd()?.filter(is_late))
}

/// Processes that are dead, by what tells them apart.
pub(crate) type Graves = HashMap<u64, Dead>;

/// Makes one.
pub(crate) fn restore(
    record: &Pidfd,
    flags: u32,
    target: &Target,
    graves: &mut Graves,
) -> Result<OwnedFd> {
    let thread = is_of_thread(flags);
    if let Some(inside) = record.pid {
        let pid = match is_late(inside, flags, target) {
            true => target.root_pid,
            false => super::ours(inside, target)?,
        };
        return Ok(event::pidfd(pid, thread)?);
    }
    let inode = record.ended.map_or(0, |ended| ended.inode);
    let dead = match graves.entry(inode) {
        Entry::Occupied(found) => found.into_mut(),
        Entry::Vacant(place) => {
            let status = record.ended.and_then(|ended| ended.status).unwrap_or(0);
            place.insert(Dead::with(status, target.root_pid)?)
        }
    };
    Ok(dead.pidfd(thread)?)
}

fn is_of_thread(flags: u32) -> bool {
    flags as i32 & event::PIDFD_THREAD != 0
}

/// Whether what it is of is a thread, and comes later.
fn is_late(inside: Pid, flags: u32, target: &Target) -> bool {
    is_of_thread(flags) && !target.processes.contains_key(&inside)
}

/// Makes those of threads, which are there now, and puts them to their numbers.
pub(crate) fn resume(
    files: &[OpenFile],
    tables: &BTreeMap<Pid, Table>,
    target: &mut Target,
) -> Result<()> {
    for file in files {
        let File::Pidfd(Pidfd {
            pid: Some(inside), ..
        }) = &file.file
        else {
            continue;
        };
        if !is_late(*inside, file.flags, target) {
            continue;
        }
        let fd = event::pidfd(super::ours(*inside, target)?, true)?;
        for (holder, table) in tables {
            let numbers = table.descriptors.iter().filter(|d| d.file == file.id);
            for found in numbers {
                let mut task = target.task(*holder)?;
                table::plant_one(&mut task, &fd, found.number, found.close_on_exec)?;
            }
        }
        target.files.insert(file.id, fd);
    }
    Ok(())
}
