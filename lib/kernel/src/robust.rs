//! Robust futex lists of other tasks (`get_robust_list(2)`).

use crate::{Pid, Result, error::check};

/// Head and size of a thread's list; `None` where it has none.
pub fn list(tid: Pid) -> Result<Option<(u64, u64)>> {
    let (mut head, mut size) = (0u64, 0u64);
    // SAFETY: the kernel writes one word through each pointer; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_robust_list,
            tid,
            &mut head as *mut u64,
            &mut size as *mut u64,
        )
    };
    check(result, || format!("get_robust_list of task {tid}"))?;
    Ok((head != 0).then_some((head, size)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn our_own_threads_have_the_list_of_the_c_library() {
        let (head, size) = super::list(std::process::id() as i32).unwrap().unwrap();
        assert!(head != 0);
        assert_eq!(size, 24);
    }
}
