//! Children that share with us what only threads usually share (clone(2)). One that has our memory has no place of its own
//! for what the C library keeps of a thread, so it makes plain system calls only, from a list that is fixed here.

use crate::error::{Named, check};
use crate::{Pid, Result};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// A child that waits to be told, and then does what shows with whom it shares what: adds one to [`Accomplice::count`], makes
/// a descriptor, sets its umask, ignores a signal.
#[derive(Debug)]
pub struct Accomplice {
    /// Its pid.
    pub pid: Pid,
    tell: OwnedFd,
    count: &'static AtomicU32,
}

/// What the child is given: lives as long as the program.
struct Part {
    hear: RawFd,
    count: AtomicU32,
}

/// The umask that it sets.
pub const UMASK: u32 = 0o31;
/// The signal that it ignores.
pub const IGNORED: i32 = libc::SIGUSR2;
const STACK: usize = 64 << 10;

impl Accomplice {
    /// Makes one with these `CLONE_*` flags; SIGCHLD says that it ends, unless it is a sibling (`CLONE_PARENT`).
    pub fn new(flags: i32) -> Result<Self> {
        let (hear, tell) = nix::unistd::pipe().named(|| "pipe".into())?;
        let part: &'static Part = Box::leak(Box::new(Part {
            hear: std::os::fd::IntoRawFd::into_raw_fd(hear),
            count: AtomicU32::new(0),
        }));
        let stack: &'static mut [u128] = Box::leak(vec![0u128; STACK / 16].into());
        let top = stack.as_mut_ptr_range().end;
        let signal = match flags & libc::CLONE_PARENT {
            0 => libc::SIGCHLD,
            _ => 0,
        };
        // SAFETY: the child runs `play` on a stack of its own, which is never freed or used by others; `part` is static, and
        // `play` makes system calls only, without touching what the C library keeps for the calling thread.
        let pid = unsafe {
            libc::clone(
                play,
                top.cast(),
                flags | signal,
                std::ptr::from_ref(part).cast_mut().cast(),
            )
        };
        check(pid.into(), || format!("clone with flags {flags:#x}"))?;
        Ok(Accomplice {
            pid,
            tell,
            count: &part.count,
        })
    }

    /// Tells it. It exits with the number of the descriptor it made.
    pub fn tell(&self) -> Result<()> {
        nix::unistd::write(&self.tell, b"!").named(|| "tell a child".into())?;
        Ok(())
    }

    /// The number of the descriptor by which it is told, here.
    pub fn descriptor(&self) -> RawFd {
        self.tell.as_raw_fd()
    }

    /// How often it has counted, as we see it.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }
}

extern "C" fn play(part: *mut libc::c_void) -> i32 {
    // The kernel's struct sigaction: handler (SIG_IGN), flags, restorer, mask.
    let ignore = [1u64, 0, 0, 0];
    let mut byte = 0u8;
    // SAFETY: `Accomplice::new` gives a Part that is never freed. System calls only, whose buffers outlive them; what they
    // leave behind of the C library's is errno, after an error, in a thread of ours that looks at no error meanwhile.
    unsafe {
        let part = &*part.cast_const().cast::<Part>();
        while libc::syscall(libc::SYS_read, part.hear, &raw mut byte, 1) < 0 {}
        part.count.fetch_add(1, Ordering::SeqCst);
        let made = libc::syscall(libc::SYS_dup, part.hear);
        libc::syscall(libc::SYS_umask, UMASK);
        libc::syscall(libc::SYS_rt_sigaction, IGNORED, ignore.as_ptr(), 0, 8);
        libc::syscall(libc::SYS_exit_group, made);
    }
    0
}
