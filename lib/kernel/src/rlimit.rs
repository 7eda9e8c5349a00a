//! Resource limits of other processes (`prlimit(2)`).

use crate::error::Named;
use crate::{Pid, Result, error::check};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// No limit.
pub const INFINITY: u64 = libc::RLIM_INFINITY;

/// Lets us open as many files as our hard limit permits: all open files of a container are open on our side for a time.
pub fn raise_open_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).named(|| "getrlimit".into())?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).named(|| "setrlimit".into())
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
