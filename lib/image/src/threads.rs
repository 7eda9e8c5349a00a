//! One thread: its registers, and all that the kernel keeps for a thread rather than for a process.

use crate::bytes::Bytes;
use crate::credentials::Credentials;
use crate::files::{fs::Fs, table::Table};
use crate::ids::Pid;
use crate::path::Name;
use crate::signals::Pending;
use serde::{Deserialize, Serialize};

/// A thread as it stood at the freeze.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thread {
    /// Thread id.
    pub tid: Pid,
    /// Its name (`/proc/PID/task/TID/comm`, at most 15 bytes).
    pub name: Name,
    /// The general registers, an interrupted call's restart code among them (`PTRACE_GETREGS`).
    pub registers: Registers,
    /// Floating point and vector registers (`NT_X86_XSTATE`).
    pub extended: ExtendedState,
    /// Blocked signals, signal 1 in bit 0 (`PTRACE_GETSIGMASK`).
    pub mask: u64,
    /// Signals queued for this thread alone, oldest first (`PTRACE_PEEKSIGINFO`).
    pub pending: Vec<Pending>,
    /// The alternate signal stack, where one is set (`sigaltstack(2)`).
    pub alternate_stack: Option<AlternateStack>,
    /// The restartable sequences area, where one is registered (`PTRACE_GET_RSEQ_CONFIGURATION`).
    pub rseq: Option<Rseq>,
    /// The list of robust futexes, where one is set (`get_robust_list(2)`).
    pub robust_list: Option<RobustList>,
    /// The word cleared and woken when the thread ends; 0 for none (`PR_GET_TID_ADDRESS`).
    pub clear_child_tid: u64,
    /// The signal it gets when its parent dies; 0 for none (`PR_GET_PDEATHSIG`).
    pub death_signal: i32,
    /// How it is given processors and disks.
    pub scheduling: Scheduling,
    /// Syscall user dispatch, where it is on (`PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG`).
    pub dispatch: Option<Dispatch>,
    /// What it has forbidden itself or its processor to do.
    pub controls: Controls,
    /// The wait it was in, where the kernel remembers more of it than registers show (`restart_syscall(2)`).
    pub wait: Option<Wait>,
    /// Its credentials; absent where they are those of the process (that is, of its leader).
    pub credentials: Option<Credentials>,
    /// Its descriptors; absent where they are those of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<Apart<Table>>,
    /// Its working directory, root and umask; absent where they are those of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs: Option<Apart<Fs>>,
}

/// What a thread does not share with the first of its process (unshare(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Apart<T> {
    /// Its own.
    Own(T),
    /// That of this other thread of its process.
    With(Pid),
}

/// A wait that the freeze interrupted: `nanosleep`, `clock_nanosleep`, `poll` or `futex`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// Number of the call; registers may hold that of `restart_syscall` instead.
    pub call: u32,
    /// What remained of its time in nanoseconds; absent where it waits for a point in time, for ever, or nobody could tell.
    pub remaining: Option<u64>,
}

/// `struct user_regs_struct` of x86-64 (arch/x86/include/asm/user_64.h).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the processor's own names")]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// The XSAVE image taken apart, so that a processor with another layout can put it together again
/// (Intel SDM volume 1, chapter 13).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtendedState {
    /// The legacy region without its software bytes: x87 and SSE (464 bytes).
    pub legacy: Bytes,
    /// `XSTATE_BV`: the components that are not in their initial state.
    pub in_use: u64,
    /// XCR0 at the source: the components its kernel had enabled.
    pub enabled: u64,
    /// The components from number 2 on that are in use.
    pub components: Vec<Component>,
}

/// One state component of the XSAVE image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Its number: the bit in XCR0 (2: AVX, 5–7: AVX-512, 9: PKRU …).
    pub number: u32,
    /// Its bytes (at most 64 KiB).
    pub bytes: Bytes,
}

/// `stack_t` of `sigaltstack(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlternateStack {
    /// Lowest address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// `SS_AUTODISARM`; never `SS_ONSTACK`, which follows from the stack pointer.
    pub flags: u32,
}

/// A registration of `rseq(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rseq {
    /// Address of `struct rseq`.
    pub address: u64,
    /// The length it was registered with.
    pub size: u32,
    /// The word before each abort handler.
    pub signature: u32,
    /// Flags of the registration.
    pub flags: u32,
}

/// `set_robust_list(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RobustList {
    /// Address of `struct robust_list_head`.
    pub head: u64,
    /// Its size (24).
    pub size: u64,
}

/// `struct sched_attr` (`sched_setattr(2)`) and its relatives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduling {
    /// `SCHED_OTHER` 0, `SCHED_FIFO` 1, `SCHED_RR` 2, `SCHED_BATCH` 3, `SCHED_IDLE` 5, `SCHED_DEADLINE` 6.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value, -20 to 19.
    pub nice: i32,
    /// Real-time priority, 0 to 99.
    pub priority: u32,
    /// Nanoseconds: `SCHED_DEADLINE`'s budget (or a fair task's slice).
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
    /// Bounds on its utilisation, 0 to 1024 (`sched_util_min`, `sched_util_max`); absent where the kernel has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<(u32, u32)>,
    /// Processors it may run on; absent where it may use all (`sched_getaffinity(2)`).
    pub processors: Option<Vec<u32>>,
    /// Class and level for disks (`ioprio_get(2)`); 0 for none.
    pub io_priority: u32,
    /// Nanoseconds by which its timers may be late (`/proc/PID/timerslack_ns`).
    pub timer_slack: u64,
}

/// Flags of a thread that prctl(2) and arch_prctl(2) set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controls {
    /// Reading the time stamp counter is a fault (`PR_TSC_SIGSEGV`).
    pub no_tsc: bool,
    /// The CPUID instruction is a fault (`ARCH_SET_CPUID`).
    pub no_cpuid: bool,
    /// It writes back what others wait for (`PR_SET_IO_FLUSHER`).
    pub io_flusher: bool,
    /// Speculation it does not want, by misfeature (`PR_SPEC_STORE_BYPASS` 0, `PR_SPEC_INDIRECT_BRANCH` 1,
    /// `PR_SPEC_L1D_FLUSH` 2).
    pub speculation: Vec<Speculation>,
    /// Whether it hears of failing memory at once or when it touches that (`PR_MCE_KILL_EARLY`, `PR_MCE_KILL_LATE`), where it has
    /// said so (`PR_MCE_KILL`).
    #[serde(default)]
    pub early_kill: Option<bool>,
    /// Where its memory is to come from, where it has said so.
    #[serde(default)]
    pub placement: Option<Placement>,
}

/// A policy of NUMA (set_mempolicy(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// `MPOL_*`, with the flags of `MPOL_MODE_FLAGS`.
    pub mode: u32,
    /// Its nodes by their numbers; at most 1024.
    pub nodes: Vec<u16>,
}

/// `PR_GET_SPECULATION_CTRL` of one misfeature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speculation {
    /// `PR_SPEC_*`.
    pub misfeature: u32,
    /// `PR_SPEC_ENABLE` 2, `PR_SPEC_DISABLE` 4, `PR_SPEC_FORCE_DISABLE` 8, `PR_SPEC_DISABLE_NOEXEC` 16.
    pub control: u32,
}

/// `struct ptrace_sud_config` (include/uapi/linux/ptrace.h).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dispatch {
    /// `PR_SYS_DISPATCH_ON` (1), or the inclusive kind (2).
    pub mode: u64,
    /// Address of the selector byte.
    pub selector: u64,
    /// Start of the range.
    pub offset: u64,
    /// Length of the range.
    pub len: u64,
}
