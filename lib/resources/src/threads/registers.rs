//! Registers, and the interrupted call they stand in.

use crate::{Blocker, Error, Result};
use image::threads::{Component, ExtendedState, Registers, Thread};
use kernel::arch::{self, xstate};
use kernel::ptrace::{Dispatch, Event, Stopped};
use kernel::remote::{Call, Caller, Stub};

/// `ERESTARTNOHAND`, `ERESTART_RESTARTBLOCK` (include/linux/errno.h).
const NO_HANDLER: i64 = -514;
const RESTART_BLOCK: i64 = -516;
/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
/// Not in a call.
const NO_CALL: u64 = u64::MAX;

macro_rules! each_register {
    ($to:path, $from:expr) => {{
        let from = $from;
        $to {
            r15: from.r15,
            r14: from.r14,
            r13: from.r13,
            r12: from.r12,
            rbp: from.rbp,
            rbx: from.rbx,
            r11: from.r11,
            r10: from.r10,
            r9: from.r9,
            r8: from.r8,
            rax: from.rax,
            rcx: from.rcx,
            rdx: from.rdx,
            rsi: from.rsi,
            rdi: from.rdi,
            orig_rax: from.orig_rax,
            rip: from.rip,
            cs: from.cs,
            eflags: from.eflags,
            rsp: from.rsp,
            ss: from.ss,
            fs_base: from.fs_base,
            gs_base: from.gs_base,
            ds: from.ds,
            es: from.es,
            fs: from.fs,
            gs: from.gs,
        }
    }};
}

pub(super) fn general(registers: &arch::Registers) -> Registers {
    each_register!(Registers, registers)
}

fn ours(registers: &Registers) -> arch::Registers {
    each_register!(arch::Registers, registers)
}

pub(super) fn extended(task: &Stopped) -> Result<ExtendedState> {
    let found = xstate::read(task)?;
    let components = found
        .components
        .into_iter()
        .map(|(number, bytes)| Component {
            number,
            bytes: bytes.into(),
        });
    Ok(ExtendedState {
        legacy: found.legacy.into(),
        in_use: found.in_use,
        enabled: found.enabled,
        components: components.collect(),
    })
}

/// What a thread has in its registers and this host's processor or kernel does not know.
pub fn missing(record: &Thread) -> Vec<Blocker> {
    let bits = record.extended.components.iter();
    let bits = bits.fold(0, |bits, c| bits | 1u64.checked_shl(c.number).unwrap_or(0));
    let blocker = |feature| Blocker {
        pid: record.tid,
        place: "registers".into(),
        what: format!("{feature} is in use, and this host does not have it or cannot give it back"),
        remedy: "restore on a host whose processor has it, or start the program without it \
                 (GLIBC_TUNABLES=glibc.cpu.hwcaps=…)"
            .into(),
    };
    xstate::missing(bits).into_iter().map(blocker).collect()
}

/// The last step: extended state, mask and registers of a thread whose stub has been removed. What comes back is a
/// thread that has executed nothing yet and can be let go of at any time: it then takes the signals that wait for it
/// and goes on with its interrupted call as the kernel decides.
/// `remembered` is what [`wait_again`] said.
pub fn release(mut task: Stopped, record: &Thread, remembered: bool) -> Result<Stopped> {
    let missing = missing(record);
    if !missing.is_empty() {
        return Err(Error::Blocked(missing));
    }
    let components = record.extended.components.iter();
    let state = xstate::ExtendedState {
        legacy: record.extended.legacy.0.clone(),
        in_use: record.extended.in_use,
        enabled: record.extended.enabled,
        components: components.map(|c| (c.number, c.bytes.0.clone())).collect(),
    };
    xstate::write(&mut task, &state)?;
    if let Some(dispatch) = &record.dispatch {
        task.set_dispatch(&Dispatch {
            mode: dispatch.mode,
            selector: dispatch.selector,
            offset: dispatch.offset,
            len: dispatch.len,
        })?;
    }
    task.set_signal_mask(record.mask)?;
    let mut registers = ours(&record.registers);
    if let Some(wait) = &record.wait
        && arch::restarts_by_itself(&registers)
    {
        registers.orig_rax = wait.call.into();
    }
    let restarts = remembered || restart(&mut registers);
    task.set_registers(&registers)?;
    if restarts {
        through_signals(task, registers)
    } else {
        Ok(task)
    }
}

/// Puts a thread into the stop in which signals are taken, because only past it does the kernel look at the restart
/// code: where a handler runs the call ends with `EINTR` or begins anew, as `sigaction` says, otherwise it begins anew
/// (arch/x86/kernel/signal.c, `arch_do_signal_or_restart`).
fn through_signals(mut task: Stopped, mut registers: arch::Registers) -> Result<Stopped> {
    let tid = task.tid();
    match task.interrupt() {
        Ok(()) => {}
        // Not seized but traced from its own wish: no such stop. A handler will then find the call begun anew.
        Err(e) if e.raw() == Some(libc::EIO) => {
            arch::restart_call(&mut registers);
            task.set_registers(&registers)?;
            return Ok(task);
        }
        Err(e) => return Err(e.into()),
    }
    match task.resume(0)?.wait()? {
        Event::Stop(task) | Event::GroupStop(task, _) => Ok(task),
        Event::Gone(_) => Err(kernel::Error::Gone { pid: tid }.into()),
        other => Err(kernel::Error::unreadable(
            format!("last stop of task {tid}"),
            format!("{other:?}"),
        )
        .into()),
    }
}

/// Prepares the registers of a thread that is no longer in the kernel: whether it still has a call to go on with, and
/// how. A restart block is lost with the old thread: the call starts over, unless it was begun by [`wait_again`].
fn restart(registers: &mut arch::Registers) -> bool {
    if arch::interrupted_call(registers).is_none() {
        return false;
    }
    let (code, at) = (arch::result(registers), registers.rip);
    let mut tried = *registers;
    arch::restart_call(&mut tried);
    if tried.rip == at {
        registers.orig_rax = NO_CALL;
        return false;
    }
    if code == RESTART_BLOCK || code == -i64::from(libc::EINTR) {
        registers.rax = NO_HANDLER as u64;
    }
    true
}

/// While the stub is still there: begins the wait that was interrupted, with the time that remained of it, and interrupts
/// it again, so that the kernel itself goes on with it, the thread's registers being what they were. `false` where there
/// was none, or it has nothing to wait for any more: then the call starts over.
pub fn wait_again(stub: &mut Stub, record: &Thread) -> Result<bool> {
    let Some((wait, time)) = record.wait.and_then(|wait| Some((wait, wait.remaining?))) else {
        return Ok(false);
    };
    if record.registers.rax as i64 != RESTART_BLOCK {
        return Ok(false);
    }
    let timespec = [time / SECOND, time % SECOND].map(u64::to_ne_bytes);
    let at = stub.put(timespec.as_flattened())?;
    let call = again(record, wait.call.into(), time, at).ok_or_else(|| {
        Error::Refused(format!(
            "thread {} of the image goes on with call {}, which is not remembered",
            record.tid, wait.call
        ))
    })?;
    match stub.begin(call) {
        // Not seized but traced from its own wish: it cannot be interrupted.
        Err(e) if e.raw() == Some(libc::EIO) => Ok(false),
        begun => Ok(begun?),
    }
}

/// `timespec` is the address of `time`, in nanoseconds.
fn again(record: &Thread, nr: i64, time: u64, timespec: u64) -> Option<Call> {
    let mut arguments = arch::call_arguments(&ours(&record.registers));
    match nr {
        libc::SYS_nanosleep => arguments[0] = timespec,
        libc::SYS_clock_nanosleep => arguments[2] = timespec,
        libc::SYS_poll => arguments[2] = time.div_ceil(MILLISECOND).min(i32::MAX as u64),
        libc::SYS_futex => arguments[3] = timespec,
        _ => return None,
    }
    Some(Call::new(nr, &arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_call(nr: i64, code: i64, arguments: [u64; 4]) -> arch::Registers {
        let [rdi, rsi, rdx, r10] = arguments;
        ours(&Registers {
            orig_rax: nr as u64,
            rax: code as u64,
            rip: 0x1002,
            rdi,
            rsi,
            rdx,
            r10,
            ..Registers::default()
        })
    }

    #[test]
    fn a_wait_goes_on_with_what_remains_and_else_with_its_arguments() {
        let mut sleep = in_call(libc::SYS_nanosleep, -516, [0x10, 0x20, 0, 0]);
        assert!(restart(&mut sleep));
        assert_eq!(
            (sleep.rdi, sleep.rax as i64, sleep.rip),
            (0x10, -514, 0x1002)
        );
        let until = [1, libc::TIMER_ABSTIME as u64, 0x10, 0x20];
        let mut sleep = in_call(libc::SYS_clock_nanosleep, -514, until);
        assert!(restart(&mut sleep));
        assert_eq!((sleep.rdx, sleep.rax as i64), (0x10, -514));
    }

    #[test]
    fn the_kernel_decides_about_calls_it_can_restart_and_finished_ones_are_over() {
        let mut read = in_call(libc::SYS_read, -512, [0; 4]);
        assert!(restart(&mut read));
        assert_eq!((read.rax as i64, read.orig_rax), (-512, 0));
        let mut epoll = in_call(libc::SYS_epoll_wait, -4, [0; 4]);
        assert!(restart(&mut epoll));
        assert_eq!(epoll.rax as i64, -514);
        let mut done = in_call(libc::SYS_read, 5, [0; 4]);
        assert!(!restart(&mut done));
        assert_eq!((done.rax, done.orig_rax), (5, NO_CALL));
        let mut close = in_call(libc::SYS_close, -4, [0; 4]);
        assert!(!restart(&mut close));
    }

    #[test]
    fn a_component_no_processor_has_is_named() {
        assert_eq!(xstate::missing(1 << 40), ["processor state component 40"]);
        assert!(xstate::missing(3).is_empty());
    }
}
