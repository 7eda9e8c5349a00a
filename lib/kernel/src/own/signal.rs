//! Signals of our own: handlers that only count, one that plays on the alternate stack, and signals queued with a value.

use crate::error::check;
use crate::{Pid, Result};
use std::mem::zeroed;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

static COUNTS: [AtomicU32; 65] = [const { AtomicU32::new(0) }; 65];
static VALUE: AtomicU64 = AtomicU64::new(0);
static PLAY: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// What a signal brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brought {
    /// Its number.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_value`.
    pub value: u64,
}

extern "C" fn count_one(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if let Some(count) = COUNTS.get(signal as usize) {
        count.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid siginfo.
    let value = unsafe { (*info).si_value().sival_ptr };
    VALUE.store(value as u64, Ordering::SeqCst);
}

fn act(
    signal: i32,
    handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void),
    flags: i32,
) -> Result<()> {
    // SAFETY: a sigaction of zeros is one (no flags, an empty mask).
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for; the action outlives the call.
    let result = unsafe { libc::sigaction(signal, &action, null_mut()) };
    check(result.into(), || format!("sigaction of signal {signal}"))?;
    Ok(())
}

/// Counts a signal from now on, with further `SA_*` flags.
pub fn count(signal: i32, flags: i32) -> Result<()> {
    act(signal, count_one, flags)
}

/// How often a counted signal came.
pub fn counted(signal: i32) -> u32 {
    let count = COUNTS.get(signal as usize);
    count.map_or(0, |count| count.load(Ordering::SeqCst))
}

/// The value that the last counted signal brought.
pub fn last_value() -> u64 {
    VALUE.load(Ordering::SeqCst)
}

/// The action of a signal: handler, flags.
pub fn action(signal: i32) -> Result<(usize, i32)> {
    // SAFETY: a sigaction of zeros is one; the kernel fills it, and it outlives the call.
    let (result, action) = unsafe {
        let mut action: libc::sigaction = zeroed();
        (libc::sigaction(signal, null(), &mut action), action)
    };
    check(result.into(), || format!("sigaction of signal {signal}"))?;
    Ok((action.sa_sigaction, action.sa_flags))
}

/// Queues a signal with a value for a process (sigqueue(3)).
pub fn queue(pid: Pid, signal: i32, value: u64) -> Result<()> {
    let value = libc::sigval {
        sival_ptr: value as *mut libc::c_void,
    };
    // SAFETY: the value is a number to everybody; nobody follows it.
    let result = unsafe { libc::sigqueue(pid, signal, value) };
    check(result.into(), || format!("queue signal {signal}"))?;
    Ok(())
}

/// Takes one of the signals in `set` (signal 1 in bit 0) off the queue; `None` where none comes in so many seconds.
pub fn take(set: u64, seconds: i64) -> Result<Option<Brought>> {
    let timeout = libc::timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    // SAFETY: a siginfo of zeros is one; set and timeout are read, the siginfo is filled, and all outlive the call.
    let (found, info) = unsafe {
        let mut info: libc::siginfo_t = zeroed();
        let found = libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &set as *const u64,
            &mut info as *mut libc::siginfo_t,
            &timeout as *const libc::timespec,
            8,
        );
        (found, info)
    };
    match check(found, || "rt_sigtimedwait".into()) {
        Ok(signal) => Ok(Some(Brought {
            signal: signal as i32,
            code: info.si_code,
            // SAFETY: si_value is read as a number, which any bytes are.
            value: unsafe { info.si_value().sival_ptr } as u64,
        })),
        Err(e) if e.raw() == Some(libc::EAGAIN) => Ok(None),
        Err(e) => Err(e),
    }
}

extern "C" fn play_once(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let play = PLAY.lock().ok().and_then(|mut play| play.take());
    if let Some(play) = play {
        play();
    }
}

/// Runs `play` in a handler of `signal`, on an alternate stack of the calling thread. The signal is raised by ourselves, so
/// `play` may do what it likes.
pub fn on_alternate_stack(signal: i32, play: impl FnOnce() + Send + 'static) -> Result<()> {
    static ONE_AT_A_TIME: OnceLock<Mutex<()>> = OnceLock::new();
    let _one = ONE_AT_A_TIME.get_or_init(Mutex::default).lock();
    const SIZE: usize = 256 * 1024;
    let memory = Box::leak(vec![0u8; SIZE].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: memory.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: SIZE,
    };
    // SAFETY: the memory is never freed, so the stack is there as long as the thread is.
    let result = unsafe { libc::sigaltstack(&stack, null_mut()) };
    check(result.into(), || "sigaltstack".into())?;
    if let Ok(mut place) = PLAY.lock() {
        *place = Some(Box::new(play));
    }
    act(signal, play_once, libc::SA_ONSTACK)?;
    // SAFETY: no pointers; the handler is ours.
    unsafe { libc::raise(signal) };
    Ok(())
}

/// The alternate stack of the calling thread: address, size, `SS_*`.
pub fn alternate_stack() -> Result<(u64, usize, i32)> {
    // SAFETY: a stack_t of zeros is one; the kernel fills it, and it outlives the call.
    let (result, stack) = unsafe {
        let mut stack: libc::stack_t = zeroed();
        (libc::sigaltstack(null(), &mut stack), stack)
    };
    check(result.into(), || "sigaltstack".into())?;
    Ok((stack.ss_sp as u64, stack.ss_size, stack.ss_flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_play_runs_on_the_alternate_stack() {
        let seen = Arc::new(AtomicBool::new(false));
        let in_handler = Arc::clone(&seen);
        on_alternate_stack(libc::SIGURG, move || {
            let here = 0u8;
            let at = &here as *const u8 as u64;
            let (address, size, flags) = alternate_stack().unwrap();
            let inside = (address..address + size as u64).contains(&at);
            in_handler.store(inside && flags == libc::SS_ONSTACK, Ordering::SeqCst);
        })
        .unwrap();
        assert!(seen.load(Ordering::SeqCst));
    }

    #[test]
    fn a_counted_signal_brings_its_value() {
        let signal = libc::SIGRTMIN() + 9;
        count(signal, libc::SA_RESTART).unwrap();
        queue(std::process::id() as Pid, signal, 0xabc).unwrap();
        while counted(signal) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(last_value(), 0xabc);
        assert_ne!(action(signal).unwrap().0, 0);
    }
}
