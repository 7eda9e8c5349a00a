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

/// Leaves the session keyring that we were started with for an empty one (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`); nothing where there
/// are none, or they are not for us to use.
pub fn leave_keyring() -> Result<()> {
    const JOIN_SESSION_KEYRING: i64 = 1;
    // SAFETY: no memory of ours is touched: without a name, the keyring is a new one.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0, 0, 0, 0) };
    match check(joined, || "join a session keyring of its own".into()) {
        Err(e) if matches!(e.raw(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        joined => joined.map(drop),
    }
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
