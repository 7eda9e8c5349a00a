//! Descriptor tables.

use super::borrowed::Seen;
use super::collect::Collector;
use crate::target::TargetTask;
use crate::{Error, Result, Target, locks};
use image::files::table::{Descriptor, Table};
use image::ids::{Pid, TableId};
use kernel::descriptor::O_CLOEXEC;
use kernel::remote::{Call, Caller, Plant, plant};
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

/// The most descriptors that a process may have (`/proc/sys/fs/nr_open` is 1048576 unless raised).
const MOST: i32 = 1 << 24;

/// Takes one, of which all descriptors were seen.
pub(crate) fn dump(id: TableId, seen: &[Seen], collector: &mut Collector) -> Result<Table> {
    let mut descriptors = Vec::with_capacity(seen.len());
    for file in seen {
        descriptors.push(Descriptor {
            number: file.holder.number,
            file: collector.identify(file)?,
            close_on_exec: file.fdinfo.flags as i32 & O_CLOEXEC != 0,
        });
    }
    let locks = locks::dump(seen, &descriptors)?;
    Ok(Table {
        id,
        descriptors,
        locks,
    })
}

/// A descriptor number out of a record.
pub(crate) fn number(number: i32) -> Result<i32> {
    match number {
        0..MOST => Ok(number),
        _ => Err(Error::Refused(format!("{number} is no descriptor"))),
    }
}

/// Gives a task its table: all it has now is closed.
pub fn restore(inside: Pid, record: &Table, target: &mut Target) -> Result<()> {
    let mut numbers = HashSet::new();
    let mut plants = Vec::with_capacity(record.descriptors.len());
    for descriptor in &record.descriptors {
        if !numbers.insert(number(descriptor.number)?) {
            return Err(Error::Refused(format!(
                "descriptor {} of process {inside} is there twice",
                descriptor.number
            )));
        }
        let fd = target.files.get(&descriptor.file).ok_or_else(|| {
            Error::Refused(format!(
                "descriptor {} of process {inside} is open file {}, which the image does not have",
                descriptor.number, descriptor.file.0
            ))
        })?;
        plants.push(Plant {
            fd: fd.as_fd(),
            number: descriptor.number,
            close_on_exec: descriptor.close_on_exec,
        });
    }
    let mut processes = target.processes.values_mut();
    let task = processes.find_map(|process| process.task(inside));
    let task = task
        .ok_or_else(|| Error::Refused(format!("a table of task {inside}, which is not there")))?;
    let close = Call::new(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0]);
    task.stub.must("close_range", close)?;
    Ok(plant(task.stub, task.pidfd, &plants)?)
}

/// Puts one more descriptor into the table of a task.
pub(crate) fn plant_one(
    task: &mut TargetTask,
    fd: &OwnedFd,
    number: i32,
    close_on_exec: bool,
) -> Result<()> {
    let plants = [Plant {
        fd: fd.as_fd(),
        number,
        close_on_exec,
    }];
    Ok(plant(task.stub, task.pidfd, &plants)?)
}

/// Closes a descriptor of a task.
pub(crate) fn close(task: &mut TargetTask, number: i32) -> Result<()> {
    let call = Call::new(libc::SYS_close, &[number as u64]);
    task.stub.must("close", call)?;
    Ok(())
}

/// Has a task register `number` with its epoll `list`.
pub(crate) fn watch(
    task: &mut TargetTask,
    list: i32,
    number: i32,
    events: u32,
    data: u64,
) -> Result<()> {
    // struct epoll_event is packed on x86-64 only (include/uapi/linux/eventpoll.h).
    let mut event = events.to_ne_bytes().to_vec();
    if !cfg!(target_arch = "x86_64") {
        event.extend_from_slice(&[0; 4]);
    }
    event.extend_from_slice(&data.to_ne_bytes());
    let event = task.stub.put(&event)?;
    const ADD: u64 = 1;
    let call = Call::new(
        libc::SYS_epoll_ctl,
        &[list as u64, ADD, number as u64, event],
    );
    let what = format!("watch descriptor {number}");
    task.stub.must(&what, call)?;
    Ok(())
}
