//! Waits of the calling thread, made as plainly as the kernel offers them.

use crate::{Result, error::check};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

/// Sleeps, without asking what remains when it is interrupted (`nanosleep(2)`).
pub fn sleep(time: Duration) -> Result<()> {
    // SAFETY: the kernel reads the time, which outlives the call, and is given no place for what remains.
    let result = unsafe { libc::nanosleep(&timespec(time), std::ptr::null_mut()) };
    check(result.into(), || "nanosleep".into()).map(drop)
}

/// Waits on a futex with a relative timeout, which always passes (`FUTEX_WAIT` of a word that nobody changes).
pub fn futex(time: Duration) -> Result<()> {
    let (word, time) = (AtomicU32::new(0), timespec(time));
    // SAFETY: the kernel reads the word and the time, which outlive the call.
    let result = unsafe {
        let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        libc::syscall(libc::SYS_futex, word.as_ptr(), op, 0, &time)
    };
    check(result, || "futex".into()).map(drop)
}
