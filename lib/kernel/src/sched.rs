//! How a task is given processors and disks, from outside (sched(7), `ioprio_set(2)`).

use crate::error::{Named, check};
use crate::{Pid, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};

/// `struct sched_attr` (include/uapi/linux/sched/types.h), its second version (Linux 5.3).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The version of the struct, by its size; set by [`set_attributes`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
    /// The least utilisation that the choice of a processor's frequency assumes, 0 to 1024.
    pub least: u32,
    /// The greatest; 0 in both on a kernel that has no such bounds.
    pub greatest: u32,
}

const SIZE: u32 = size_of::<Attributes>() as u32;
const IOPRIO_WHO_PROCESS: i32 = 1;

/// `sched_getattr(2)`.
pub fn attributes(tid: Pid) -> Result<Attributes> {
    let mut found = Attributes::default();
    // SAFETY: the kernel fills at most the size it is given of the struct, which outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            tid,
            &mut found as *mut Attributes,
            SIZE,
            0,
        )
    };
    check(result, || format!("sched_getattr of task {tid}"))?;
    Ok(found)
}

/// `sched_setattr(2)`.
pub fn set_attributes(tid: Pid, attributes: Attributes) -> Result<()> {
    let wanted = Attributes {
        size: SIZE,
        ..attributes
    };
    // SAFETY: the kernel reads as many bytes as the struct says it has; it outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            tid,
            &wanted as *const Attributes,
            0,
        )
    };
    check(result, || format!("sched_setattr of task {tid}"))?;
    Ok(())
}

/// The processors a task may run on.
pub fn processors(tid: Pid) -> Result<Vec<u32>> {
    let set = sched_getaffinity(nix::unistd::Pid::from_raw(tid))
        .named(|| format!("sched_getaffinity of task {tid}"))?;
    let is_set = |n: &usize| set.is_set(*n).unwrap_or(false);
    Ok((0..CpuSet::count())
        .filter(is_set)
        .map(|n| n as u32)
        .collect())
}

/// A task's nice value, which `sched_getattr` does not say of one whose policy makes no use of it.
pub fn nice(tid: Pid) -> Result<i32> {
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) };
    // The system call counts from 40 down, so that no value looks like an error (getpriority(2)).
    check(result, || format!("getpriority of task {tid}")).map(|value| 20 - value as i32)
}

/// Sets it, whatever the policy.
pub fn set_nice(tid: Pid, nice: i32) -> Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, tid, nice) };
    check(result, || format!("setpriority of task {tid}")).map(drop)
}

/// Lets a task run on these processors only.
pub fn set_processors(tid: Pid, processors: &[u32]) -> Result<()> {
    let mut set = CpuSet::new();
    for n in processors {
        set.set(*n as usize)
            .named(|| format!("processor {n} of task {tid}"))?;
    }
    sched_setaffinity(nix::unistd::Pid::from_raw(tid), &set)
        .named(|| format!("sched_setaffinity of task {tid}"))
}

/// `ioprio_get(2)`: class in the bits from 13 on, level below; 0 for none.
pub fn io_priority(tid: Pid) -> Result<u32> {
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
    check(result, || format!("ioprio_get of task {tid}")).map(|value| value as u32)
}

/// `ioprio_set(2)`.
pub fn set_io_priority(tid: Pid, value: u32) -> Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, value) };
    check(result, || format!("ioprio_set of task {tid}"))?;
    Ok(())
}

/// Who may run beside a task on the same core (`PR_SCHED_CORE_GET`, prctl(2)): those with the same number. 0 where it does not
/// mind, and on a kernel or a machine that has no such thing.
pub fn core_cookie(tid: Pid) -> Result<u64> {
    /// `PR_SCHED_CORE`, `PR_SCHED_CORE_GET`, `PR_SCHED_CORE_SCOPE_THREAD` (include/uapi/linux/prctl.h).
    const CORE: (i32, u64, u64) = (62, 0, 0);
    let mut cookie = 0u64;
    let (option, get, scope) = CORE;
    // SAFETY: the cookie outlives the call, which writes it.
    let result = unsafe { libc::prctl(option, get, tid as u64, scope, &mut cookie) };
    match check(result.into(), || format!("PR_SCHED_CORE of task {tid}")) {
        Ok(_) => Ok(cookie),
        Err(e) if matches!(e.raw(), Some(libc::EINVAL | libc::ENODEV)) => Ok(0),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_told_and_tells() {
        let spawned = std::thread::spawn(|| {
            let tid = nix::unistd::gettid().as_raw();
            let mut wanted = attributes(tid).unwrap();
            wanted.nice = 7;
            wanted.policy = libc::SCHED_BATCH as u32;
            set_attributes(tid, wanted).unwrap();
            set_processors(tid, &[0]).unwrap();
            set_io_priority(tid, 2 << 13 | 6).unwrap();
            let found = attributes(tid).unwrap();
            (
                found.nice,
                found.policy,
                processors(tid).unwrap(),
                io_priority(tid).unwrap(),
            )
        });
        let expected = (7, libc::SCHED_BATCH as u32, vec![0], 2 << 13 | 6);
        assert_eq!(spawned.join().unwrap(), expected);
    }
}
