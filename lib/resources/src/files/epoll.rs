//! Interest lists.

use super::borrowed::Borrowed;
use super::collect::Collector;
use super::table;
use crate::{Error, Result, Target};
use image::files::epoll::{Epoll, Watch};
use image::files::table::Table;
use image::files::{File, OpenFile, OpenFiles};
use image::ids::{FileId, Pid};
use kernel::event::{self, Registration};
use kernel::proc::fdinfo;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};

/// Takes one, once all open file descriptions are known.
pub(crate) fn dump(file: &Borrowed, collector: &Collector) -> Result<Epoll> {
    let mut watches = Vec::new();
    let mut seen: HashMap<i32, u32> = HashMap::new();
    for target in file.fdinfo.epoll()? {
        let nth = seen.entry(target.number).or_default();
        let key = (fdinfo::device(target.device), target.inode);
        let found = collector.watched(file.holder, key, target.number, *nth)?;
        *nth += 1;
        let watched = found.ok_or_else(|| {
            Error::Refused(format!(
                "{}: the epoll watches descriptor {}, which is closed but kept open by something that cannot be taken; end what holds it",
                file.holder, target.number
            ))
        })?;
        watches.push(Watch {
            number: target.number,
            file: watched,
            events: target.events,
            data: target.data,
        });
    }
    Ok(Epoll { watches })
}

/// Makes an empty one.
pub(crate) fn restore(_record: &Epoll) -> Result<OwnedFd> {
    Ok(event::epoll()?)
}

/// Registers everything with all lists, once all files are there.
pub(crate) fn resume(
    record: &OpenFiles,
    tables: &BTreeMap<Pid, Table>,
    target: &mut Target,
) -> Result<()> {
    let kinds: HashMap<FileId, &OpenFile> = record.files.iter().map(|f| (f.id, f)).collect();
    let mut here = Vec::new();
    let mut there = Vec::new();
    for file in &record.files {
        let File::Epoll(epoll) = &file.file else {
            continue;
        };
        for watch in &epoll.watches {
            match kinds.get(&watch.file).map(|f| &f.file) {
                // Bound to the signals of whoever registers it (fs/signalfd.c, signalfd_poll): done in the task.
                Some(File::Signalfd(_)) => there.push((file.id, watch)),
                Some(kind) => here.push((
                    file.id,
                    watch,
                    matches!(kind, File::External(_) | File::Tty(_)),
                )),
                None => target.file(watch.file).map(drop)?,
            }
        }
    }
    register_here(&here, target)?;
    for (epoll, watch) in there {
        register_there(epoll, watch, tables, target)?;
    }
    Ok(())
}

fn register_here(watches: &[(FileId, &Watch, bool)], target: &Target) -> Result<()> {
    let (mut all, mut optional) = (Vec::new(), Vec::new());
    for (epoll, watch, is_optional) in watches {
        let registration = Registration {
            epoll: target.file(*epoll)?.as_fd(),
            target: target.file(watch.file)?.as_fd(),
            number: table::number(watch.number)?,
            events: watch.events,
            data: watch.data,
        };
        match is_optional {
            true => optional.push(registration),
            false => all.push(registration),
        }
    }
    event::register(&all)?;
    for registration in optional {
        // What stands in for a file outside, /dev/null for one, need not be one that can be waited for (EPERM).
        match event::register(&[registration]) {
            Err(e) if e.raw() == Some(kernel::error::EPERM) => (),
            result => result?,
        }
    }
    Ok(())
}

/// In a task that has the list: the target is put at its number for a moment where it is not there anyway.
fn register_there(
    epoll: FileId,
    watch: &Watch,
    tables: &BTreeMap<Pid, Table>,
    target: &mut Target,
) -> Result<()> {
    let holder = tables.iter().find_map(|(pid, table)| {
        let found = table.descriptors.iter().find(|d| d.file == epoll)?;
        Some((*pid, table, found.number))
    });
    let Some((pid, held, list)) = holder else {
        return Ok(()); // In flight only: nobody's signals.
    };
    let number = table::number(watch.number)?;
    let before = held.descriptors.iter().find(|d| d.number == number);
    let Target {
        files, processes, ..
    } = target;
    let mut processes = processes.values_mut();
    let task = processes.find_map(|process| process.task(pid));
    let task = &mut task
        .ok_or_else(|| Error::Refused(format!("a table of task {pid}, which is not there")))?;
    let own = |id: FileId| {
        files
            .get(&id)
            .ok_or_else(|| Error::Refused(format!("open file {} is not there", id.0)))
    };
    let there = before.is_some_and(|d| d.file == watch.file);
    if !there {
        table::plant_one(task, own(watch.file)?, number, true)?;
    }
    let watched = table::watch(task, list, number, watch.events, watch.data);
    match before {
        _ if there => (),
        Some(before) => table::plant_one(task, own(before.file)?, number, before.close_on_exec)?,
        None => table::close(task, number)?,
    }
    watched
}
