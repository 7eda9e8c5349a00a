//! Descriptor tables.

use super::borrowed::Seen;
use super::collect::Collector;
use crate::{Error, Result, Target, TargetProcess, locks};
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

/// Gives a process its table: all it has now is closed.
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
    let process = target.processes.get_mut(&inside).ok_or_else(|| {
        Error::Refused(format!("a table of process {inside}, which is not there"))
    })?;
    let close = Call::new(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0]);
    process.leader.must("close_range", close)?;
    Ok(plant(&mut process.leader, &process.pidfd, &plants)?)
}

/// Puts one more descriptor into the table of a process.
pub(crate) fn plant_one(
    process: &mut TargetProcess,
    fd: &OwnedFd,
    number: i32,
    close_on_exec: bool,
) -> Result<()> {
    let plants = [Plant {
        fd: fd.as_fd(),
        number,
        close_on_exec,
    }];
    Ok(plant(&mut process.leader, &process.pidfd, &plants)?)
}

/// Closes a descriptor of a process.
pub(crate) fn close(process: &mut TargetProcess, number: i32) -> Result<()> {
    let call = Call::new(libc::SYS_close, &[number as u64]);
    process.leader.must("close", call)?;
    Ok(())
}

/// Has a process register `number` with its epoll `list`.
pub(crate) fn watch(
    process: &mut TargetProcess,
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
    let event = process.leader.put(&event)?;
    const ADD: u64 = 1;
    let call = Call::new(
        libc::SYS_epoll_ctl,
        &[list as u64, ADD, number as u64, event],
    );
    process
        .leader
        .must(&format!("watch descriptor {number}"), call)?;
    Ok(())
}
