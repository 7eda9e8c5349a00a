//! Settings of our own process and thread that prctl(2), arch_prctl(2) and membarrier(2) make.

use crate::Result;
use crate::error::check;

/// One that is a number (include/uapi/linux/prctl.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `PR_SET_THP_DISABLE`.
    ThpDisable,
    /// `PR_SET_MDWE`.
    Mdwe,
    /// `PR_SET_MEMORY_MERGE`.
    MemoryMerge,
    /// `PR_SET_IO_FLUSHER`.
    IoFlusher,
}

impl Setting {
    /// Options to set and to get.
    fn options(self) -> (i32, i32) {
        match self {
            Setting::ThpDisable => (41, 42),
            Setting::Mdwe => (65, 66),
            Setting::MemoryMerge => (67, 68),
            Setting::IoFlusher => (57, 58),
        }
    }

    /// What it is.
    pub fn get(self) -> Result<u64> {
        let (_, get) = self.options();
        // SAFETY: these options take numbers only.
        let result = unsafe { libc::prctl(get, 0u64, 0u64, 0u64, 0u64) };
        check(result.into(), || format!("get {self:?}"))
    }

    /// Sets it; `flags` are a second argument that some take.
    pub fn set(self, value: u64, flags: u64) -> Result<()> {
        let (set, _) = self.options();
        // SAFETY: these options take numbers only.
        let result = unsafe { libc::prctl(set, value, flags, 0u64, 0u64) };
        check(result.into(), || format!("set {self:?}")).map(drop)
    }
}

/// `membarrier(2)`: 512 asks for the registrations, others register.
pub fn membarrier(command: i32) -> Result<u64> {
    // SAFETY: numbers only.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    check(result, || format!("membarrier {command}"))
}

/// Whether reading the time stamp counter is a fault for the calling thread (`PR_GET_TSC`).
pub fn tsc_faults() -> Result<bool> {
    let mut mode = 0i32;
    // SAFETY: the kernel writes one int, which outlives the call.
    let result = unsafe { libc::prctl(libc::PR_GET_TSC, &mut mode as *mut i32, 0, 0, 0) };
    check(result.into(), || "PR_GET_TSC".into())?;
    Ok(mode == libc::PR_TSC_SIGSEGV)
}

/// Makes it one.
pub fn make_tsc_fault() -> Result<()> {
    // SAFETY: numbers only.
    let result = unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV, 0, 0, 0) };
    check(result.into(), || "PR_SET_TSC".into()).map(drop)
}

/// Sheds what we were started with, children inherit, and no record sets back: the session keyring (keyctl(2),
/// `KEYCTL_JOIN_SESSION_KEYRING`), where memory comes from (set_mempolicy(2)), when failing memory is heard of (`PR_MCE_KILL_CLEAR`).
/// Nothing where this kernel has no such thing, or it is not for us to use.
pub fn shed() -> Result<()> {
    let calls: [(&str, i64, [i64; 5]); 3] = [
        (
            "join a session keyring of its own",
            libc::SYS_keyctl,
            [1, 0, 0, 0, 0],
        ),
        ("set_mempolicy", libc::SYS_set_mempolicy, [0; 5]),
        ("PR_MCE_KILL", libc::SYS_prctl, [33, 0, 0, 0, 0]),
    ];
    for (what, number, [a, b, c, d, e]) in calls {
        // SAFETY: no memory of ours is touched; without a name, the keyring is a new one.
        let result = unsafe { libc::syscall(number, a, b, c, d, e) };
        match check(result, || what.into()) {
            Err(e) if matches!(e.raw(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)) => {}
            done => done.map(drop)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_whose_time_stamp_counter_faults_says_so() {
        let thread = std::thread::spawn(|| {
            let before = tsc_faults().unwrap();
            make_tsc_fault().unwrap();
            (before, tsc_faults().unwrap())
        });
        assert_eq!(thread.join().unwrap(), (false, true));
        assert!(!tsc_faults().unwrap());
    }
}
