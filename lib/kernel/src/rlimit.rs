//! Resource limits of other processes (`prlimit(2)`).

use crate::{Pid, Result, error::check};

/// No limit.
pub const INFINITY: u64 = libc::RLIM_INFINITY;

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
