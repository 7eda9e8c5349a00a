//! Calls in a task of a running container, which must survive us: killed at any point, we leave a task that heals
//! itself. A complete signal frame lies in dead memory at the bottom of the main stack; the call is made by a
//! `syscall; ret` of the program's own, and its return address is a signal-return trampoline over that frame. So
//! wherever the tracer dies, the task finishes the call, returns into `rt_sigreturn`, and is where it was.

use super::{Call, Caller};
use crate::arch::{self, Registers};
use crate::ptrace::{Event, Running, Stopped};
use crate::{Error, Pid, Result, proc::maps, vm};
use memchr::memmem;

/// Readable and executable.
const CODE: u8 = (libc::PROT_READ | libc::PROT_EXEC) as u8;
/// Memory for the caller's use, below the frame.
const SCRATCH: u64 = 4096;
/// How far below the deepest known use of the main stack our memory must end.
const DISTANCE: u64 = 16 * 1024;
/// More than that, a frame and the scratch memory take: what a stack is grown by that has less below its use.
const ROOM: u64 = 64 * 1024;

/// How much code is read at a time in search of the gates, and how much of it twice: more than the longest of them.
const STEP: usize = 128 << 10;
const OVERLAP: usize = 16;

/// The two places in a program's own code that calls need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gates {
    call: u64,
    sigreturn: u64,
    /// Start and end of `[stack]`.
    stack: (u64, u64),
}

/// A stopped task of a running container, able to make calls.
#[derive(Debug)]
pub struct Guest {
    task: Option<Stopped>,
    tid: Pid,
    gates: Option<Gates>,
    registers: Registers,
    mask: u64,
    /// The stack pointer of calls: the return address, then the frame. 0 before the first call.
    frame: u64,
    /// Its signals are blocked: from the first call on, which need not be what the frame was laid for.
    hushed: bool,
    /// A stop signal that came up in between, to be given back.
    stop_signal: i32,
}

impl Gates {
    /// Looks for the code in a process's executable areas. `None` where the program has none: then it cannot be
    /// asked without risk, and is not.
    pub fn find(pid: Pid) -> Result<Option<Self>> {
        let mut areas = maps::read(pid)?;
        let stack = areas.iter().find(|area| area.name == b"[stack]");
        let Some(stack) = stack.map(|area| (area.start, area.end)) else {
            return Ok(None);
        };
        // Code that stays: of a file, readable, and not the vDSO, whose calls do not return cleanly. A C library
        // first: it has both, and is small beside what some programs bring.
        areas.retain(|area| area.prot & CODE == CODE && area.name.starts_with(b"/"));
        areas.sort_by_key(|area| memmem::find(&area.name, b"/libc").is_none());
        let (mut call, mut sigreturn) = (None, None);
        let mut bytes = vec![0; STEP];
        for area in areas {
            // Both are met early in a C library: by steps most of it is not read.
            let end = area.end.min(area.start + (64 << 20));
            for at in (area.start..end).step_by(STEP - OVERLAP) {
                let bytes = &mut bytes[..STEP.min((end - at) as usize)];
                if vm::read(pid, at, bytes).is_err() {
                    break; // beyond the end of a file that was truncated
                }
                let find = |code: &[u8]| memmem::find(bytes, code).map(|found| at + found as u64);
                call = call.or_else(|| find(arch::SYSCALL_RET));
                sigreturn = sigreturn.or_else(|| arch::SIGRETURN.into_iter().find_map(find));
                if let (Some(call), Some(sigreturn)) = (call, sigreturn) {
                    return Ok(Some(Gates {
                        call,
                        sigreturn,
                        stack,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Has the main stack grow where its use by `task`, the process's first and stopped, comes near to the end of it: as it
    /// would by itself when a function is called. Where it may not, the first call says so.
    pub fn with_room(mut self, task: &Stopped) -> Result<Self> {
        let (bottom, top) = self.stack;
        let sp = task.registers()?.rsp;
        let deep = (bottom..top).contains(&sp) && sp - bottom < ROOM;
        let wanted = bottom.min(sp).saturating_sub(ROOM) & !0xfff;
        // By way of /proc, where a write below a stack makes it grow (mm/memory.c, `__access_remote_vm`).
        if deep && vm::force_write(task.tid(), wanted, &[0]).is_ok() {
            let areas = maps::read(task.tid())?;
            let grown = areas.iter().find(|area| area.name == b"[stack]");
            self.stack.0 = grown.map_or(bottom, |area| area.start);
        }
        Ok(self)
    }
}

impl Guest {
    /// Takes over a stopped task. Nothing is changed before the first call.
    /// Without gates it can be looked at, and every call is refused.
    pub fn new(task: Stopped, gates: Option<Gates>) -> Result<Self> {
        let mut registers = task.registers()?;
        crate::rseq::abort(&task, &mut registers)?;
        Ok(Guest {
            tid: task.tid(),
            registers,
            mask: task.signal_mask()?,
            task: Some(task),
            gates,
            frame: 0,
            hushed: false,
            stop_signal: 0,
        })
    }

    /// The registers as they were at the stop.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The mask of blocked signals as it was at the stop.
    pub fn mask(&self) -> u64 {
        self.mask
    }

    /// Ends the calls, until another one is made: the task has its own registers and mask. All threads of a process
    /// lay their frame in the same place, so one must rest before another makes calls.
    pub fn rest(&mut self) -> Result<()> {
        if self.frame != 0 {
            let task = self.task.as_mut().ok_or(Error::Gone { pid: self.tid })?;
            // The mask first: dying in between, the task still heals itself through the frame.
            task.set_signal_mask(self.mask)?;
            let mut registers = self.registers;
            arch::resume_call(&mut registers);
            task.set_registers(&registers)?;
            self.frame = 0;
            self.hushed = false;
        }
        Ok(())
    }

    /// Ends the calls: the task, stopped, with its own registers and mask.
    pub fn finish(mut self) -> Result<Stopped> {
        self.rest()?;
        let task = self.task.take().ok_or(Error::Gone { pid: self.tid })?;
        if self.stop_signal != 0 {
            // SAFETY: no pointers.
            unsafe { libc::syscall(libc::SYS_tkill, self.tid, self.stop_signal) };
        }
        Ok(task)
    }

    /// The stopped task, for ptrace requests that only look.
    pub fn task(&self) -> Result<&Stopped> {
        self.task.as_ref().ok_or(Error::Gone { pid: self.tid })
    }

    fn gates(&self) -> Result<Gates> {
        self.gates.ok_or_else(|| Error::Unsupported {
            what: format!(
                "the program of task {} has no signal-return code that a remote call could come home by",
                self.tid
            ),
        })
    }

    fn lay_frame(&mut self) -> Result<()> {
        let gates = self.gates()?;
        let xstate = self.task()?.register_set(arch::NT_XSTATE)?;
        let (bottom, top) = gates.stack;
        let base = bottom.next_multiple_of(64);
        let frame_at = (base + SCRATCH).next_multiple_of(64);
        let mut healed = self.registers;
        arch::restart_call(&mut healed);
        let frame = arch::signal_frame(frame_at, &healed, &xstate, self.mask);
        let end = frame_at + frame.len() as u64;
        let sp = self.registers.rsp;
        if end + DISTANCE > top || (sp >= bottom && sp < end + DISTANCE) {
            return Err(Error::Unsupported {
                what: format!(
                    "the main stack of task {} has no {} free bytes at its end for remote calls",
                    self.tid,
                    end + DISTANCE - bottom
                ),
            });
        }
        let mut bytes = gates.sigreturn.to_ne_bytes().to_vec();
        bytes.extend(frame);
        vm::write(self.tid, frame_at - 8, &bytes)?;
        self.frame = frame_at - 8;
        Ok(())
    }

    /// Runs to the next stop of the call. All signals are blocked; those that cannot be are put off or passed on.
    fn next_stop(&mut self, mut running: Running) -> Result<Stopped> {
        loop {
            running = match running.wait()? {
                Event::Syscall(stopped) => return Ok(stopped),
                Event::Signal(stopped, signal @ (libc::SIGSTOP | libc::SIGTSTP)) => {
                    self.stop_signal = signal;
                    stopped.to_syscall(0)?
                }
                Event::Signal(stopped, signal) => stopped.to_syscall(signal)?,
                Event::Stop(stopped)
                | Event::GroupStop(stopped, _)
                | Event::Traced(stopped, ..) => stopped.to_syscall(0)?,
                Event::Gone(_) => return Err(Error::Gone { pid: self.tid }),
            };
        }
    }
}

impl Caller for Guest {
    fn tid(&self) -> Pid {
        self.tid
    }

    fn call(&mut self, call: Call) -> Result<i64> {
        let gates = self.gates()?;
        if self.frame == 0 {
            self.lay_frame()?;
        }
        let mut task = self.task.take().ok_or(Error::Gone { pid: self.tid })?;
        let mut registers = self.registers;
        arch::prepare_guest_call(&mut registers, gates.call, self.frame, call.nr, call.args);
        task.set_registers(&registers)?;
        if !self.hushed {
            task.set_signal_mask(u64::MAX)?;
            self.hushed = true;
        }
        let running = task.to_syscall(0)?;
        let entered = self.next_stop(running)?;
        let running = entered.to_syscall(0)?;
        let left = self.next_stop(running)?;
        let result = arch::result(&left.registers()?);
        self.task = Some(left);
        Ok(result)
    }

    fn scratch(&mut self) -> Result<(u64, usize)> {
        Ok((
            self.gates()?.stack.0.next_multiple_of(64),
            SCRATCH as usize - 64,
        ))
    }

    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<()> {
        vm::read(self.tid, address, into)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        // Before the frame lies there, the distance to the stack in use is not known to be safe.
        if self.frame == 0 {
            self.lay_frame()?;
        }
        vm::write(self.tid, address, bytes)
    }
}
