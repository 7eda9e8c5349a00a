//! Resource limits of other processes (`prlimit(2)`).

use crate::error::Named;
use crate::{Pid, Result, error::check};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// No limit.
pub const INFINITY: u64 = libc::RLIM_INFINITY;

/// What programs are used to: some close all descriptors up to the limit, one by one.
const MANY_FILES: u64 = 1 << 20;

/// Lets us open as many files as we may: all open files of a container are open on our side for a time, sockets twice. Beyond our
/// hard limit only who has CAP_SYS_RESOURCE, up to `fs.nr_open` (proc_sys_fs(5)).
pub fn raise_open_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).named(|| "getrlimit".into())?;
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let most = most
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(hard);
    let wanted = hard.max(most.min(MANY_FILES));
    let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted);
    raised
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .named(|| "setrlimit".into())
}

/// Sets soft and hard limit of a resource (`RLIMIT_*`).
pub fn set(pid: Pid, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let new = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the kernel reads the limits, which outlive the call, and writes none.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            &new as *const libc::rlimit64,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    check(result, || format!("set limit {resource} of process {pid}"))?;
    Ok(())
}
