//! Tracing as types: a [`Stopped`] task takes requests, a [`Running`] one can only be waited for, and what a wait
//! finds is a value ([`Event`]). Neither is `Copy`: a request on a running task does not compile (ptrace(2)).

use crate::arch::Registers;
use crate::{Error, Pid, Result, error::check};
use std::ptr::null_mut;

/// `PTRACE_O_*` bits (ptrace(2)).
pub mod options {
    /// Marks system call stops.
    pub const SYSGOOD: i32 = libc::PTRACE_O_TRACESYSGOOD;
    /// Kills the task when the tracer ends.
    pub const EXITKILL: i32 = libc::PTRACE_O_EXITKILL;
    /// Children made by fork, vfork and clone are traced from their first instruction.
    pub const FAMILY: i32 =
        libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE;
    /// A successful execve stops.
    pub const EXEC: i32 = libc::PTRACE_O_TRACEEXEC;
    /// Filters do not apply while traced.
    pub const SUSPEND_SECCOMP: i32 = libc::PTRACE_O_SUSPEND_SECCOMP;
}

/// A task that stands still and takes requests.
#[derive(Debug)]
pub struct Stopped {
    tid: Pid,
}

/// A traced task that runs.
#[derive(Debug)]
pub struct Running {
    tid: Pid,
}

/// What a wait found.
#[derive(Debug)]
pub enum Event {
    /// A signal is about to be delivered (or a trap): it reaches the task only if passed on.
    Signal(Stopped, i32),
    /// A group stop: the task is stopped by this signal.
    GroupStop(Stopped, i32),
    /// The stop that `interrupt` asked for, or a new task's first.
    Stop(Stopped),
    /// Entry or exit of a system call.
    Syscall(Stopped),
    /// A `PTRACE_EVENT_*`: its number, and its message (for a fork, the new task's id).
    Traced(Stopped, i32, u64),
    /// The task ended with this wait status.
    Gone(i32),
}

/// What [`Running::poll`] found.
#[derive(Debug)]
pub enum Polled {
    /// An event.
    Event(Event),
    /// It still runs.
    Still(Running),
}

fn request(request: libc::c_uint, tid: Pid, address: u64, data: u64, name: &str) -> Result<u64> {
    // SAFETY: only requests whose address and data are plain numbers come here.
    let result = unsafe { libc::ptrace(request, tid, address, data) };
    check(result, || format!("ptrace {name} of task {tid}"))
}

/// Attaches without stopping (`PTRACE_SEIZE`).
pub fn seize(tid: Pid, options: i32) -> Result<Running> {
    request(libc::PTRACE_SEIZE, tid, 0, options as u64, "seize")?;
    Ok(Running { tid })
}

/// Waits for any traced task (`__WALL`); `None` when nothing is there to wait for.
pub fn wait_any() -> Result<Option<(Pid, Event)>> {
    match wait_status(-1, 0) {
        Ok((tid, status)) => Ok(Some((tid, event(tid, status)?))),
        Err(Error::Call { errno, .. }) if errno == libc::ECHILD => Ok(None),
        Err(e) => Err(e),
    }
}

fn wait_status(tid: Pid, flags: i32) -> Result<(Pid, i32)> {
    let mut status = 0;
    loop {
        // SAFETY: status outlives the call.
        let found = unsafe { libc::waitpid(tid, &mut status, libc::__WALL | flags) };
        match check(found.into(), || format!("wait for task {tid}")) {
            Ok(tid) => return Ok((tid as Pid, status)),
            Err(Error::Call { errno, .. }) if errno == libc::EINTR => continue,
            Err(e) => return Err(e),
        }
    }
}

fn event(tid: Pid, status: i32) -> Result<Event> {
    if !libc::WIFSTOPPED(status) {
        return Ok(Event::Gone(status));
    }
    let stopped = Stopped { tid };
    let signal = libc::WSTOPSIG(status);
    Ok(match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Event::Syscall(stopped),
        0 => Event::Signal(stopped, signal),
        libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Event::Stop(stopped),
        libc::PTRACE_EVENT_STOP => Event::GroupStop(stopped, signal),
        number => match stopped.message() {
            Ok(message) => Event::Traced(stopped, number, message),
            Err(e) if e.raw() == Some(libc::ESRCH) => Event::Gone(status),
            Err(e) => return Err(e),
        },
    })
}

impl Running {
    /// Its thread id.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Asks it to stop (`PTRACE_INTERRUPT`); the stop itself comes by [`Running::wait`].
    pub fn interrupt(&self) -> Result<()> {
        request(libc::PTRACE_INTERRUPT, self.tid, 0, 0, "interrupt").map(drop)
    }

    /// Waits for its next event.
    pub fn wait(self) -> Result<Event> {
        let (tid, status) = wait_status(self.tid, 0)?;
        event(tid, status)
    }

    /// Looks whether it has an event, without waiting.
    pub fn poll(self) -> Result<Polled> {
        Ok(match wait_status(self.tid, libc::WNOHANG)? {
            (0, _) => Polled::Still(self),
            (tid, status) => Polled::Event(event(tid, status)?),
        })
    }

    /// Takes the word of [`wait_any`] or of a parent's event that this traced task runs.
    pub fn known(tid: Pid) -> Self {
        Running { tid }
    }
}

impl Stopped {
    /// Its thread id.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Asks it to stop anew once it runs (`PTRACE_INTERRUPT`), where signals are taken and before it executes anything.
    pub fn interrupt(&self) -> Result<()> {
        request(libc::PTRACE_INTERRUPT, self.tid, 0, 0, "interrupt").map(drop)
    }

    fn message(&self) -> Result<u64> {
        let mut message = 0u64;
        self.exchange(libc::PTRACE_GETEVENTMSG, 0, &mut message, "event message")?;
        Ok(message)
    }

    /// A request that reads or writes one value of ours.
    fn exchange<T>(
        &self,
        request: libc::c_uint,
        address: u64,
        value: &mut T,
        name: &str,
    ) -> Result<u64> {
        // SAFETY: callers pass the type that the request reads or fills; it outlives the call.
        let result = unsafe { libc::ptrace(request, self.tid, address, value as *mut T) };
        check(result, || format!("ptrace {name} of task {}", self.tid))
    }

    fn regset(
        &self,
        request: libc::c_uint,
        set: u32,
        bytes: &mut [u8],
        name: &str,
    ) -> Result<usize> {
        let mut iov = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        self.exchange(request, set.into(), &mut iov, name)?;
        Ok(iov.iov_len)
    }

    /// The general registers.
    pub fn registers(&self) -> Result<Registers> {
        // SAFETY: the struct is plain integers, for which zero is a value.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        self.exchange(libc::PTRACE_GETREGS, 0, &mut registers, "registers")?;
        Ok(registers)
    }

    /// Sets the general registers.
    pub fn set_registers(&mut self, registers: &Registers) -> Result<()> {
        let mut registers = *registers;
        self.exchange(libc::PTRACE_SETREGS, 0, &mut registers, "set registers")
            .map(drop)
    }

    /// A register set by its note type (`NT_X86_XSTATE` …), at most 64 KiB.
    pub fn register_set(&self, set: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; 65536];
        let len = self.regset(libc::PTRACE_GETREGSET, set, &mut bytes, "register set")?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Sets a register set.
    pub fn set_register_set(&mut self, set: u32, bytes: &[u8]) -> Result<()> {
        let mut bytes = bytes.to_vec();
        self.regset(libc::PTRACE_SETREGSET, set, &mut bytes, "set register set")
            .map(drop)
    }

    /// The mask of blocked signals.
    pub fn signal_mask(&self) -> Result<u64> {
        let mut mask = 0u64;
        self.exchange(libc::PTRACE_GETSIGMASK, 8, &mut mask, "signal mask")?;
        Ok(mask)
    }

    /// Sets the mask of blocked signals.
    pub fn set_signal_mask(&mut self, mask: u64) -> Result<()> {
        let mut mask = mask;
        self.exchange(libc::PTRACE_SETSIGMASK, 8, &mut mask, "set signal mask")
            .map(drop)
    }

    /// `PTRACE_GET_RSEQ_CONFIGURATION`: address, size, signature, flags of the registered rseq area (address 0: none).
    pub fn rseq(&self) -> Result<Rseq> {
        let mut rseq = Rseq::default();
        const GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
        self.exchange(
            GET_RSEQ_CONFIGURATION,
            size_of::<Rseq>() as u64,
            &mut rseq,
            "rseq configuration",
        )?;
        Ok(rseq)
    }

    /// Pending signals, from `offset` on, at most 32 at a time: raw `siginfo_t` (`PTRACE_PEEKSIGINFO`).
    pub fn pending(&self, shared: bool, offset: u64) -> Result<Vec<[u8; 128]>> {
        #[repr(C)]
        struct PeekSigInfo {
            offset: u64,
            flags: u32,
            count: i32,
        }
        let mut found = [[0u8; 128]; 32];
        let mut arguments = PeekSigInfo {
            offset,
            flags: u32::from(shared),
            count: found.len() as i32,
        };
        // SAFETY: the kernel fills at most `count` records of 128 bytes (siginfo_t) in `found`, which outlives the call.
        let count = unsafe {
            libc::ptrace(
                libc::PTRACE_PEEKSIGINFO,
                self.tid,
                &mut arguments as *mut PeekSigInfo,
                found.as_mut_ptr(),
            )
        };
        let count = check(count, || format!("pending signals of task {}", self.tid))?;
        Ok(found[..count as usize].to_vec())
    }

    /// Sets `PTRACE_O_*` (see [`options`]).
    pub fn set_options(&mut self, options: i32) -> Result<()> {
        request(
            libc::PTRACE_SETOPTIONS,
            self.tid,
            0,
            options as u64,
            "set options",
        )
        .map(drop)
    }

    /// A classic BPF filter of the task's, as raw `sock_filter`s: 0 is the oldest (kernel/seccomp.c,
    /// `get_nth_filter`). `None` past the youngest.
    pub fn seccomp_filter(&self, index: u64) -> Result<Option<Vec<[u8; 8]>>> {
        const SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
        let mut filter = vec![[0u8; 8]; 4096];
        // SAFETY: the kernel copies at most BPF_MAXINSNS (4096) instructions of 8 bytes; the buffer holds as many.
        let count =
            unsafe { libc::ptrace(SECCOMP_GET_FILTER, self.tid, index, filter.as_mut_ptr()) };
        match check(count, || {
            format!("seccomp filter {index} of task {}", self.tid)
        }) {
            Ok(count) => {
                filter.truncate(count as usize);
                Ok(Some(filter))
            }
            Err(e) if e.raw() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// `SECCOMP_FILTER_FLAG_*` of a filter, counted as [`Self::seccomp_filter`] does (`PTRACE_SECCOMP_GET_METADATA`).
    pub fn seccomp_flags(&self, index: u64) -> Result<u64> {
        const SECCOMP_GET_METADATA: libc::c_uint = 0x420d;
        let mut metadata = [index, 0]; // struct seccomp_metadata: filter_off, flags
        self.exchange(
            SECCOMP_GET_METADATA,
            size_of_val(&metadata) as u64,
            &mut metadata,
            "flags of a seccomp filter",
        )?;
        Ok(metadata[1])
    }

    /// `PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG`; mode 0 where it is off, and before Linux 6.4.
    pub fn dispatch(&self) -> Result<Dispatch> {
        const GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;
        let mut dispatch = Dispatch::default();
        let size = size_of::<Dispatch>() as u64;
        match self.exchange(
            GET_SYSCALL_USER_DISPATCH_CONFIG,
            size,
            &mut dispatch,
            "syscall user dispatch",
        ) {
            Err(e) if e.raw() != Some(libc::EIO) => Err(e),
            _ => Ok(dispatch),
        }
    }

    /// `PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG`.
    pub fn set_dispatch(&mut self, dispatch: &Dispatch) -> Result<()> {
        const SET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4210;
        let mut dispatch = *dispatch;
        let size = size_of::<Dispatch>() as u64;
        self.exchange(
            SET_SYSCALL_USER_DISPATCH_CONFIG,
            size,
            &mut dispatch,
            "set syscall user dispatch",
        )
        .map(drop)
    }

    /// Runs on, delivering `signal` (0: none).
    pub fn resume(self, signal: i32) -> Result<Running> {
        request(libc::PTRACE_CONT, self.tid, 0, signal as u64, "continue")?;
        Ok(Running { tid: self.tid })
    }

    /// Runs to the next entry or exit of a system call, delivering `signal` (0: none).
    pub fn to_syscall(self, signal: i32) -> Result<Running> {
        request(
            libc::PTRACE_SYSCALL,
            self.tid,
            0,
            signal as u64,
            "run to a system call",
        )?;
        Ok(Running { tid: self.tid })
    }

    /// Stays in its group stop, but takes no more requests until interrupted (`PTRACE_LISTEN`).
    pub fn listen(self) -> Result<Running> {
        request(libc::PTRACE_LISTEN, self.tid, 0, 0, "listen")?;
        Ok(Running { tid: self.tid })
    }

    /// Lets go of it, delivering `signal` (0: none); it runs on, untraced.
    pub fn detach(self, signal: i32) -> Result<()> {
        request(libc::PTRACE_DETACH, self.tid, 0, signal as u64, "detach").map(drop)
    }
}

/// `struct ptrace_rseq_configuration` (include/uapi/linux/ptrace.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rseq {
    /// Address of the area; 0 where none is registered.
    pub address: u64,
    /// Its size.
    pub size: u32,
    /// The signature before abort handlers.
    pub signature: u32,
    /// Flags of the registration.
    pub flags: u32,
    pad: u32,
}

/// `struct ptrace_sud_config` (include/uapi/linux/ptrace.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dispatch {
    /// `PR_SYS_DISPATCH_*`; 0 is off.
    pub mode: u64,
    /// Address of the selector byte.
    pub selector: u64,
    /// Start of the range.
    pub offset: u64,
    /// Its length.
    pub len: u64,
}

/// Asks the parent to trace us, then stops: for a child just forked.
pub fn trace_me_and_stop() {
    // SAFETY: no pointers; a stop signal to ourselves.
    unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, 0, null_mut::<u8>(), null_mut::<u8>());
        libc::raise(libc::SIGSTOP);
    }
}
