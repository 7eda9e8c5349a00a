//! Calls in a task that is being rebuilt: a few dozen bytes of code and a table, in an area of the task's own that
//! is unmapped at the very end. The task is killed with its tracer (`PTRACE_O_EXITKILL`), so nothing needs healing.

use super::{Call, Caller};
use crate::arch::{self, Registers};
use crate::ptrace::{Event, Running, Stopped, options};
use crate::{Error, Pid, Result, proc::Proc, vm};

/// Size of the area: code, table, scratch memory.
pub const STUB_LEN: u64 = 0x20000;
const TABLE: u64 = 0x1000;
const TABLE_ENTRIES: usize = 512;
const ENTRY: usize = 64;
const SCRATCH: u64 = TABLE + (TABLE_ENTRIES * ENTRY) as u64;

/// A stopped task with a stub in its address space.
#[derive(Debug)]
pub struct Stub {
    task: Option<Stopped>,
    tid: Pid,
    base: u64,
    /// The registers calls start from: those at the first stop.
    registers: Registers,
}

impl Stub {
    /// Puts a stub into a stopped task's address space at `base` (page aligned, free there), and takes the task over.
    /// The first call is made by the `syscall` instruction of the task's own vDSO.
    pub fn install(task: Stopped, base: u64) -> Result<Self> {
        Stub::lay(task, base, libc::MAP_FIXED_NOREPLACE)
    }

    /// The same in place of whatever lies there: in a task whose memory is of no use any more.
    pub fn overlay(task: Stopped, base: u64) -> Result<Self> {
        Stub::lay(task, base, libc::MAP_FIXED)
    }

    fn lay(task: Stopped, base: u64, place: i32) -> Result<Self> {
        let tid = task.tid();
        let registers = task.registers()?;
        let mut stub = Stub {
            task: Some(task),
            tid,
            base,
            registers,
        };
        // What is made here inherits the options: where an engine's filter is in force, all must be free of it.
        let filtered = crate::proc::status::read(tid)?.number("Seccomp")? != 0;
        let suspend = if filtered {
            options::SUSPEND_SECCOMP
        } else {
            0
        };
        let wanted = options::SYSGOOD | options::EXITKILL | options::FAMILY | options::EXEC;
        stub.task()?.set_options(wanted | suspend)?;
        let gate = vdso_syscall(tid)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | place;
        let map = Call::new(
            libc::SYS_mmap,
            &[base, STUB_LEN, prot as u64, flags as u64, u64::MAX, 0],
        );
        let found = stub.call_at(gate, map)?;
        super::named(tid, &format!("map the stub at {base:#x}"), found)?;
        vm::write(tid, base, arch::STUB)?;
        Ok(stub)
    }

    /// Takes over a task whose address space has a stub already: a forked child, or another thread.
    pub fn adopt(task: Stopped, base: u64) -> Result<Self> {
        Ok(Stub {
            tid: task.tid(),
            registers: task.registers()?,
            task: Some(task),
            base,
        })
    }

    /// Where the stub lies.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The stopped task, for ptrace requests.
    pub fn task(&mut self) -> Result<&mut Stopped> {
        self.task.as_mut().ok_or(Error::Gone { pid: self.tid })
    }

    /// Gives the task back, stopped.
    pub fn into_task(self) -> Result<Stopped> {
        self.task.ok_or(Error::Gone { pid: self.tid })
    }

    /// The registers with which the stub makes one call.
    fn prepared(&self, call: Call) -> Registers {
        let mut registers = self.registers;
        arch::prepare_call(
            &mut registers,
            self.base + arch::STUB_ONE,
            call.nr,
            call.args,
        );
        registers
    }

    fn take(&mut self) -> Result<Stopped> {
        self.task.take().ok_or(Error::Gone { pid: self.tid })
    }

    /// Makes a `fork`, `vfork`-less `clone` or `clone3`: the call's result as the caller sees it, and the new task,
    /// stopped before its first instruction, as a stub in the same place.
    pub fn fork(&mut self, what: &str, call: Call) -> Result<(u64, Stub)> {
        let registers = self.prepared(call);
        let mut child = None;
        self.run(registers, &mut |message| child = Some(message as Pid))?;
        let result = arch::result(&self.task()?.registers()?);
        let seen = super::named(self.tid, what, result)?;
        let tid = child.ok_or_else(|| Error::unreadable("ptrace", "a fork without its event"))?;
        let stopped = match Running::known(tid).wait()? {
            Event::Stop(stopped) | Event::GroupStop(stopped, _) | Event::Signal(stopped, _) => {
                stopped
            }
            other => {
                return Err(Error::unreadable(
                    format!("first stop of task {tid}"),
                    format!("{other:?}"),
                ));
            }
        };
        Ok((seen, Stub::adopt(stopped, self.base)?))
    }

    /// Begins a call that waits, and interrupts it at once. Where the kernel remembers how to go on with it
    /// (`restart_syscall(2)`), it says so, and does until the task makes another such call.
    pub fn begin(&mut self, call: Call) -> Result<bool> {
        let registers = self.prepared(call);
        let mut task = self.take()?;
        task.set_registers(&registers)?;
        let mut running = task.to_syscall(0)?;
        let mut entered = false;
        loop {
            running = match running.wait()? {
                Event::Syscall(mut stopped) if !entered => {
                    entered = true;
                    if let Err(e) = stopped.interrupt() {
                        // It would wait in earnest: no call is made (ptrace(2), a number of -1).
                        let mut skipped = stopped.registers()?;
                        skipped.orig_rax = u64::MAX;
                        stopped.set_registers(&skipped)?;
                        self.task = Some(stopped);
                        return Err(e);
                    }
                    stopped.resume(0)?
                }
                Event::Stop(stopped) | Event::GroupStop(stopped, _) if entered => {
                    let restarts = arch::restarts_by_itself(&stopped.registers()?);
                    self.task = Some(stopped);
                    return Ok(restarts);
                }
                Event::Signal(stopped, _) | Event::Stop(stopped) | Event::GroupStop(stopped, _) => {
                    stopped.to_syscall(0)?
                }
                Event::Syscall(stopped) | Event::Traced(stopped, ..) => stopped.resume(0)?,
                Event::Gone(_) => return Err(Error::Gone { pid: self.tid }),
            };
        }
    }

    /// Makes a call after which the task is no more (`exit`): gives its wait status.
    pub fn last_call(mut self, call: Call) -> Result<i32> {
        let registers = self.prepared(call);
        let mut task = self.take()?;
        task.set_registers(&registers)?;
        let mut running = task.resume(0)?;
        loop {
            running = match running.wait()? {
                Event::Gone(status) => return Ok(status),
                Event::Signal(stopped, signal) => stopped.resume(signal)?,
                Event::Traced(stopped, ..) | Event::Stop(stopped) | Event::Syscall(stopped) => {
                    stopped.resume(0)?
                }
                Event::GroupStop(stopped, _) => stopped.resume(0)?,
            };
        }
    }

    /// Lets the task go to make a call after which it is no more, and does not wait for that: while other threads of its
    /// process live, the end of the first is told to nobody (kernel/exit.c, `delay_group_leader`).
    pub fn leave(mut self, call: Call) -> Result<()> {
        let registers = self.prepared(call);
        let mut task = self.take()?;
        task.set_registers(&registers)?;
        task.detach(0)
    }

    /// Makes a successful `execve`: the stop at its event, past which the task has new memory and no stub.
    pub fn exec(mut self, what: &str, call: Call) -> Result<Stopped> {
        let registers = self.prepared(call);
        let mut task = self.take()?;
        task.set_registers(&registers)?;
        let mut running = task.resume(0)?;
        loop {
            running = match running.wait()? {
                // execve still overwrites the result register: run on to the end of the call.
                Event::Traced(stopped, libc::PTRACE_EVENT_EXEC, _) => {
                    return match stopped.to_syscall(0)?.wait()? {
                        Event::Syscall(stopped) => Ok(stopped),
                        other => Err(Error::unreadable(what, format!("{other:?} after exec"))),
                    };
                }
                Event::Signal(stopped, libc::SIGTRAP) => {
                    super::named(self.tid, what, arch::result(&stopped.registers()?))?;
                    return Err(Error::unreadable(what, "an exec without its event"));
                }
                Event::Signal(stopped, _)
                | Event::Stop(stopped)
                | Event::GroupStop(stopped, _)
                | Event::Syscall(stopped)
                | Event::Traced(stopped, ..) => stopped.resume(0)?,
                Event::Gone(_) => return Err(Error::Gone { pid: self.tid }),
            };
        }
    }

    /// The same, with a stub in the new memory: the task is another program, of which nothing has run.
    pub fn become_another(&mut self, what: &str, call: Call) -> Result<()> {
        let old = Stub {
            task: Some(self.take()?),
            ..*self
        };
        *self = Stub::overlay(old.exec(what, call)?, self.base)?;
        Ok(())
    }

    /// Unmaps the stub, at the exit of which the task stands outside all of its memory's code: final registers only.
    pub fn remove(mut self) -> Result<Stopped> {
        let (gate, unmap) = (
            self.base + arch::STUB_ONE,
            Call::new(libc::SYS_munmap, &[self.base, STUB_LEN]),
        );
        let result = self.call_at(gate, unmap)?;
        super::named(self.tid, "unmap the stub", result)?;
        self.into_task()
    }

    /// One call at any `syscall` instruction, by stops at its entry and its exit.
    fn call_at(&mut self, address: u64, call: Call) -> Result<i64> {
        let mut registers = self.registers;
        arch::prepare_call(&mut registers, address, call.nr, call.args);
        let mut task = self.take()?;
        task.set_registers(&registers)?;
        let mut stops = 0;
        let mut running = task.to_syscall(0)?;
        loop {
            running = match running.wait()? {
                Event::Syscall(stopped) => {
                    stops += 1;
                    if stops == 2 {
                        let result = arch::result(&stopped.registers()?);
                        self.task = Some(stopped);
                        return Ok(result);
                    }
                    stopped.to_syscall(0)?
                }
                Event::Signal(stopped, _) | Event::Stop(stopped) | Event::GroupStop(stopped, _) => {
                    stopped.to_syscall(0)?
                }
                Event::Traced(..) | Event::Gone(_) => return Err(Error::Gone { pid: self.tid }),
            };
        }
    }

    /// Runs to the trap that ends the stub's code. Signals that come up meanwhile are not for the rebuilt program.
    fn run(&mut self, registers: Registers, born: &mut dyn FnMut(u64)) -> Result<()> {
        let mut task = self.take()?;
        task.set_registers(&registers)?;
        let mut running = task.resume(0)?;
        loop {
            running = match running.wait()? {
                Event::Signal(stopped, libc::SIGTRAP) => {
                    self.task = Some(stopped);
                    return Ok(());
                }
                Event::Signal(stopped, signal @ (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL)) => {
                    let at = stopped.registers()?;
                    self.task = Some(stopped);
                    return Err(Error::unreadable(
                        format!("remote call in task {}", self.tid),
                        format!("signal {signal} at {:#x}", at.rip),
                    ));
                }
                Event::Signal(stopped, _)
                | Event::Stop(stopped)
                | Event::GroupStop(stopped, _)
                | Event::Syscall(stopped) => stopped.resume(0)?,
                Event::Traced(stopped, number, message) => {
                    if number <= libc::PTRACE_EVENT_CLONE {
                        born(message);
                    }
                    stopped.resume(0)?
                }
                Event::Gone(_) => return Err(Error::Gone { pid: self.tid }),
            };
        }
    }
}

impl Caller for Stub {
    fn tid(&self) -> Pid {
        self.tid
    }

    fn call(&mut self, call: Call) -> Result<i64> {
        let registers = self.prepared(call);
        self.run(registers, &mut |_| ())?;
        Ok(arch::result(&self.task()?.registers()?))
    }

    fn batch(&mut self, calls: &[Call]) -> Result<Vec<i64>> {
        let mut results = Vec::with_capacity(calls.len());
        for chunk in calls.chunks(TABLE_ENTRIES) {
            let words = chunk.iter().flat_map(|c| {
                let mut entry = [0u64; 8];
                entry[0] = c.nr as u64;
                entry[1..7].copy_from_slice(&c.args);
                entry
            });
            let mut table: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
            let at = self.base + TABLE;
            vm::write(self.tid, at, &table)?;
            let mut registers = self.registers;
            let many = self.base + arch::STUB_MANY;
            arch::prepare_table(&mut registers, many, at, chunk.len() as u64);
            self.run(registers, &mut |_| ())?;
            vm::read(self.tid, at, &mut table)?;
            for entry in table.chunks_exact(ENTRY) {
                let mut word = [0; 8];
                word.copy_from_slice(&entry[56..]);
                results.push(i64::from_ne_bytes(word));
            }
        }
        Ok(results)
    }

    fn scratch(&mut self) -> Result<(u64, usize)> {
        Ok((self.base + SCRATCH, (STUB_LEN - SCRATCH) as usize))
    }

    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<()> {
        vm::read(self.tid, address, into)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        vm::write(self.tid, address, bytes)
    }
}

/// The address of a `syscall` instruction in the task's vDSO.
fn vdso_syscall(tid: Pid) -> Result<u64> {
    let maps = Proc::process(tid).text("maps")?;
    let line = maps.lines().find(|l| l.ends_with("[vdso]"));
    let range = line
        .and_then(|l| l.split_whitespace().next())
        .and_then(|r| r.split_once('-'))
        .and_then(|(start, end)| {
            Some((
                u64::from_str_radix(start, 16).ok()?,
                u64::from_str_radix(end, 16).ok()?,
            ))
        });
    let (start, end) =
        range.ok_or_else(|| Error::unreadable(format!("/proc/{tid}/maps"), "no [vdso]"))?;
    let mut code = vec![0; (end - start) as usize];
    vm::read(tid, start, &mut code)?;
    let at = code
        .windows(arch::SYSCALL.len())
        .position(|w| w == arch::SYSCALL);
    at.map(|at| start + at as u64)
        .ok_or_else(|| Error::unreadable(format!("vDSO of task {tid}"), "no syscall instruction"))
}
