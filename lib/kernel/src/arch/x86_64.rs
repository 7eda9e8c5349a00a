//! x86-64: registers, restart of interrupted calls, and the few bytes of code that make calls in a task.

use libc::user_regs_struct;
use std::arch::x86_64::{__cpuid, __cpuid_count};

/// The general registers as ptrace gives them (`NT_PRSTATUS`).
pub type Registers = user_regs_struct;

/// `syscall`.
pub const SYSCALL: &[u8] = &[0x0f, 0x05];
/// `syscall; ret`.
pub const SYSCALL_RET: &[u8] = &[0x0f, 0x05, 0xc3];
/// The ways `rt_sigreturn` is called in return trampolines: `mov $15,%rax; syscall` and `mov $15,%eax; syscall`.
pub const SIGRETURN: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05],
    &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05],
];
/// What lies below the stack pointer and still belongs to the function (System V ABI, 3.2.2).
pub const RED_ZONE: u64 = 128;

/// The code of a stub: a single call at [`STUB_ONE`], a table of calls at [`STUB_MANY`]; both end in a trap.
///
/// A table entry is eight words: number, six arguments, result. `r12` points to the entry, `r13` counts them.
pub const STUB: &[u8] = &[
    0x0f, 0x05, // one: syscall
    0xcc, // int3
    0xcc, // (alignment)
    0x49, 0x8b, 0x04, 0x24, // many: mov (%r12),%rax
    0x49, 0x8b, 0x7c, 0x24, 0x08, // mov 8(%r12),%rdi
    0x49, 0x8b, 0x74, 0x24, 0x10, // mov 16(%r12),%rsi
    0x49, 0x8b, 0x54, 0x24, 0x18, // mov 24(%r12),%rdx
    0x4d, 0x8b, 0x54, 0x24, 0x20, // mov 32(%r12),%r10
    0x4d, 0x8b, 0x44, 0x24, 0x28, // mov 40(%r12),%r8
    0x4d, 0x8b, 0x4c, 0x24, 0x30, // mov 48(%r12),%r9
    0x0f, 0x05, // syscall
    0x49, 0x89, 0x44, 0x24, 0x38, // mov %rax,56(%r12)
    0x49, 0x83, 0xc4, 0x40, // add $64,%r12
    0x49, 0xff, 0xcd, // dec %r13
    0x75, 0xce, // jnz many
    0xcc, // int3
];
/// Where in [`STUB`] a single call begins.
pub const STUB_ONE: u64 = 0;
/// Where in [`STUB`] the loop over a table begins.
pub const STUB_MANY: u64 = 4;

/// Sets the registers for one call at `address`, which holds a system call instruction.
pub fn prepare_call(registers: &mut Registers, address: u64, nr: i64, args: [u64; 6]) {
    registers.rip = address;
    registers.rax = nr as u64;
    registers.orig_rax = u64::MAX; // not in a call: nothing to restart
    [
        registers.rdi,
        registers.rsi,
        registers.rdx,
        registers.r10,
        registers.r8,
        registers.r9,
    ] = args;
    registers.eflags &= !0x100; // no trap flag
}

/// Sets the registers for a table of `count` calls at `table`, with the loop at `address`.
pub fn prepare_table(registers: &mut Registers, address: u64, table: u64, count: u64) {
    registers.rip = address;
    registers.orig_rax = u64::MAX;
    registers.r12 = table;
    registers.r13 = count;
    registers.eflags &= !0x100;
}

/// What a call gave back: a value, or minus an error number.
pub fn result(registers: &Registers) -> i64 {
    registers.rax as i64
}

/// The number of the call the task was in when it stopped, if any.
pub fn interrupted_call(registers: &Registers) -> Option<i64> {
    let nr = registers.orig_rax as i64;
    (nr >= 0).then_some(nr)
}

/// The arguments of the call the task was in.
pub fn call_arguments(registers: &Registers) -> [u64; 6] {
    [
        registers.rdi,
        registers.rsi,
        registers.rdx,
        registers.r10,
        registers.r8,
        registers.r9,
    ]
}

/// `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND` (include/linux/errno.h): never seen by programs.
const RESTART: [i64; 3] = [-512, -513, -514];
/// `ERESTART_RESTARTBLOCK`: the kernel remembers in the task how to go on.
const RESTART_BLOCK: i64 = -516;

/// Makes the task execute its interrupted call once more, with the same arguments, as `do_signal` does where no
/// handler runs (arch/x86/kernel/signal.c). For a new process, which has lost its restart block, and for a call the
/// stop itself ended with `EINTR` (`epoll_wait`, `sigtimedwait`), which a stop must not be seen to do.
pub fn restart_call(registers: &mut Registers) {
    let Some(nr) = interrupted_call(registers) else {
        return;
    };
    let code = result(registers);
    let interrupted = code == -i64::from(libc::EINTR) && restarts_after_eintr(nr);
    if RESTART.contains(&code) || code == RESTART_BLOCK || interrupted {
        registers.rax = nr as u64;
        registers.rip -= SYSCALL.len() as u64;
        registers.orig_rax = u64::MAX;
    }
}

/// For the same process, in which no call of ours has come between: the kernel restarts by itself what it can, and only
/// calls that the stop itself ended with `EINTR` must be executed again, so that the program does not see the stop.
pub fn hide_stop(registers: &mut Registers) {
    if result(registers) == -i64::from(libc::EINTR) {
        restart_call(registers);
    }
}

/// Calls that a mere stop ends with `EINTR` (signal(7), "Interruption of system calls … by stop signals"), also those
/// of sockets with a timeout. None of them has done anything when it says so; `close` and `connect` have.
fn restarts_after_eintr(nr: i64) -> bool {
    [
        libc::SYS_epoll_wait,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_rt_sigtimedwait,
        libc::SYS_semop,
        libc::SYS_semtimedop,
        libc::SYS_io_getevents,
        333, // io_pgetevents (arch/x86/entry/syscalls/syscall_64.tbl)
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_recvmmsg,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_accept,
        libc::SYS_accept4,
    ]
    .contains(&nr)
}

/// Whether the kernel goes on with the interrupted call from what it remembers in the task.
pub fn restarts_by_itself(registers: &Registers) -> bool {
    interrupted_call(registers).is_some() && result(registers) == RESTART_BLOCK
}

/// Whether a stop ended the call the task was in with `EINTR`, though a stop must not be seen to do that.
pub fn ended_by_stop(registers: &Registers) -> bool {
    let nr = interrupted_call(registers);
    result(registers) == -i64::from(libc::EINTR) && nr.is_some_and(restarts_after_eintr)
}

/// The calls that the kernel can go on with from what it remembers, by `restart_syscall(2)`.
const REMEMBERED: [i64; 4] = [
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_poll,
    libc::SYS_futex,
];

/// The call a task is in, where `restart_syscall(2)` has taken the place of its number: arguments are as they were, `wchan`
/// (proc(5)) says where in the kernel it slept, if anything, and `code` before the `syscall` instruction moves the number to
/// `eax`, or is that of `syscall(3)`.
pub fn remembered_call(registers: &Registers, code: &[u8], wchan: &str) -> Option<i64> {
    let nr = interrupted_call(registers)?;
    if nr != libc::SYS_restart_syscall {
        return REMEMBERED.contains(&nr).then_some(nr);
    }
    let number = |window: &[u8]| match *window {
        [0xb8, a, b, c, d] => Some(i64::from(i32::from_le_bytes([a, b, c, d]))),
        _ => None,
    };
    // The names of functions in kernel/futex, fs/select.c and kernel/time/hrtimer.c.
    let fits = |nr| match wchan {
        "" | "0" => REMEMBERED.contains(&nr),
        _ if wchan.starts_with("futex") => nr == libc::SYS_futex,
        _ if wchan.contains("poll") => nr == libc::SYS_poll,
        _ => [libc::SYS_nanosleep, libc::SYS_clock_nanosleep].contains(&nr),
    };
    if let [only] = REMEMBERED
        .into_iter()
        .filter(|nr| fits(*nr))
        .collect::<Vec<_>>()[..]
    {
        return Some(only);
    }
    let found = code.windows(5).rev().find_map(|window| {
        let nr = number(window)?;
        fits(nr).then_some(nr)
    });
    let [first, second, ..] = call_arguments(registers);
    let command = second & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u64;
    let waits = [libc::FUTEX_WAIT, libc::FUTEX_WAIT_BITSET].map(|op| op as u64);
    Some(match found {
        Some(nr) => nr,
        None if first < 4096 => libc::SYS_clock_nanosleep,
        None if fits(libc::SYS_futex) && waits.contains(&command) => libc::SYS_futex,
        None => libc::SYS_nanosleep,
    })
}

/// Whether code that goes on behind a system call is that of a function which only looks at the result and returns, so
/// that nobody misses what was in the registers of the arguments: `ret`, or as the C libraries and Go do it, a comparison
/// with the greatest error number and a jump.
pub fn only_returns(code: &[u8]) -> bool {
    // mov %rax,…: kept for later.
    let code = match code {
        [0x48, 0x89, _, rest @ ..] => rest,
        code => code,
    };
    match code {
        [0xc3, ..] | [0x48, 0x3d, 1, 0xf0, 0xff, 0xff, 0x73, 1, 0xc3, ..] => true,
        [0x48, 0x3d, 0 | 1, 0xf0, 0xff, 0xff, rest @ ..] => {
            matches!(rest, [0x76 | 0x77, ..] | [0x0f, 0x86 | 0x87, ..])
        }
        _ => false,
    }
}

/// Sets argument `n` of a call, counted from 0.
pub fn set_call_argument(registers: &mut Registers, n: usize, value: u64) {
    let place = match n {
        0 => &mut registers.rdi,
        1 => &mut registers.rsi,
        2 => &mut registers.rdx,
        3 => &mut registers.r10,
        4 => &mut registers.r8,
        _ => &mut registers.r9,
    };
    *place = value;
}

/// For the same process: the kernel still has its restart block, so `restart_syscall` goes on where the call was, with
/// the time that remained. After a call of ours has come between, the kernel no longer does this by itself.
pub fn resume_call(registers: &mut Registers) {
    if interrupted_call(registers).is_some() && result(registers) == RESTART_BLOCK {
        registers.rax = libc::SYS_restart_syscall as u64;
        registers.rip -= SYSCALL.len() as u64;
        registers.orig_rax = u64::MAX;
    } else {
        restart_call(registers);
    }
}

/// `NT_X86_XSTATE` (include/uapi/linux/elf.h): the XSAVE image.
pub const NT_XSTATE: u32 = 0x202;

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Offset of `sw_reserved` in the legacy part of an XSAVE image: `struct _fpx_sw_bytes`.
const SW_RESERVED: usize = 464;
/// Where the kernel reports XCR0 in an image given by ptrace (arch/x86/include/uapi/asm/sigcontext.h).
const PTRACE_XCR0: usize = 464;
/// `sizeof(struct ucontext)` and what `rt_sigreturn` reads of the frame behind it.
const FRAME: usize = 1024;

/// Builds the bytes of a signal frame at `address`, such that `rt_sigreturn` with the stack pointer at `address`
/// gives a task exactly these registers, extended state and signal mask (`struct rt_sigframe` without its return
/// address, arch/x86/include/asm/sigframe.h). The result is `address`-relative and 64-byte aligned inside.
pub fn signal_frame(address: u64, registers: &Registers, xstate: &[u8], mask: u64) -> Vec<u8> {
    let r = registers;
    let xstate_at = (address + FRAME as u64).next_multiple_of(64);
    let mut frame = vec![0u8; (xstate_at - address) as usize];
    let mut put = |word: usize, value: u64| {
        frame[word * 8..word * 8 + 8].copy_from_slice(&value.to_ne_bytes());
    };
    put(0, UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS);
    let context = [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
        r.rax, r.rcx, r.rsp, r.rip, r.eflags,
    ];
    for (i, value) in context.into_iter().enumerate() {
        put(5 + i, value);
    }
    put(23, (r.cs & 0xffff) | (r.ss & 0xffff) << 48);
    put(28, xstate_at); // fpstate
    put(37, mask); // uc_sigmask
    let len = xstate.len() as u32;
    let mut image = xstate.to_vec();
    let mut xcr0 = [0; 8];
    xcr0.copy_from_slice(&image[PTRACE_XCR0..PTRACE_XCR0 + 8]);
    let mut software = Vec::with_capacity(48);
    software.extend(FP_XSTATE_MAGIC1.to_ne_bytes());
    software.extend((len + 4).to_ne_bytes());
    software.extend(xcr0);
    software.extend(len.to_ne_bytes());
    image[SW_RESERVED..SW_RESERVED + software.len()].copy_from_slice(&software);
    image.extend(FP_XSTATE_MAGIC2.to_ne_bytes());
    frame.extend(image);
    frame
}

/// Sets the registers for one call at `address` (`syscall; ret`) with the stack pointer at `stack`.
pub fn prepare_guest_call(
    registers: &mut Registers,
    address: u64,
    stack: u64,
    nr: i64,
    args: [u64; 6],
) {
    prepare_call(registers, address, nr, args);
    registers.rsp = stack;
}

/// XCR0: the state components the kernel has enabled (Intel SDM volume 1, 13.3); 0 without XSAVE.
pub fn enabled_components() -> u64 {
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return 0;
    }
    let (low, high): (u32, u32);
    // SAFETY: CPUID says that the system has set CR4.OSXSAVE, so XGETBV does not fault; it reads register 0 only.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Bytes of an XSAVE area in the standard format for all enabled components (CPUID leaf 0xd); 0 without XSAVE.
pub fn xstate_size() -> u32 {
    if enabled_components() == 0 {
        0
    } else {
        __cpuid_count(0xd, 0).ebx
    }
}

/// Number, offset and size in bytes of the enabled user components from 2 on in the standard format (CPUID leaf 0xd).
pub fn xstate_components() -> Vec<(u32, u32, u32)> {
    let enabled = enabled_components();
    (2..63)
        .filter(|bit| enabled >> bit & 1 == 1)
        .map(|bit| {
            let leaf = __cpuid_count(0xd, bit);
            (bit, leaf.ebx, leaf.eax)
        })
        .collect()
}

/// Code that goes on at `address`, also with no stack: `mov $address,%rax; jmp *%rax`. Free to use where a function begins.
pub fn jump(address: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xb8];
    code.extend(address.to_le_bytes());
    code.extend([0xff, 0xe0]);
    code
}

/// Code that makes the system call a vDSO function stands for: `mov $nr,%eax; syscall; ret`.
pub fn vdso_fallback(name: &str) -> Option<Vec<u8>> {
    let nr = match name {
        "__vdso_clock_gettime" => libc::SYS_clock_gettime,
        "__vdso_gettimeofday" => libc::SYS_gettimeofday,
        "__vdso_time" => libc::SYS_time,
        "__vdso_clock_getres" => libc::SYS_clock_getres,
        "__vdso_getcpu" => libc::SYS_getcpu,
        "__vdso_getrandom" => libc::SYS_getrandom,
        _ => return None,
    };
    let mut code = vec![0xb8];
    code.extend((nr as u32).to_le_bytes());
    code.extend([0x0f, 0x05, 0xc3]);
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(nr: i64, code: i64) -> Registers {
        // SAFETY: the struct is plain integers, for which zero is a value.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        registers.orig_rax = nr as u64;
        registers.rax = code as u64;
        registers.rip = 0x1002;
        registers
    }

    #[test]
    fn the_components_lie_within_the_area() {
        assert_ne!(enabled_components() & 1, 0, "x87 is always there");
        for (bit, offset, size) in xstate_components() {
            assert!(
                offset >= 576 && offset + size <= xstate_size(),
                "component {bit}"
            );
        }
    }

    #[test]
    fn an_interrupted_read_is_executed_again() {
        let mut registers = stopped(libc::SYS_read, -512);
        restart_call(&mut registers);
        assert_eq!(
            (registers.rip, registers.rax),
            (0x1000, libc::SYS_read as u64)
        );
    }

    #[test]
    fn a_call_that_was_restarted_is_known_by_where_it_slept_its_code_or_its_arguments() {
        let mut poll = stopped(libc::SYS_restart_syscall, -516);
        let code = [0x90, 0xb8, 7, 0, 0, 0];
        assert_eq!(remembered_call(&poll, &code, ""), Some(libc::SYS_poll));
        poll.orig_rax = libc::SYS_futex as u64;
        assert_eq!(remembered_call(&poll, &code, ""), Some(libc::SYS_futex));
        poll.orig_rax = libc::SYS_read as u64;
        assert_eq!(remembered_call(&poll, &code, ""), None);
        let mut other = stopped(libc::SYS_restart_syscall, -516);
        other.rdi = 1;
        assert_eq!(
            remembered_call(&other, &[], ""),
            Some(libc::SYS_clock_nanosleep)
        );
        other.rdi = 0x10000;
        other.rsi = libc::FUTEX_PRIVATE_FLAG as u64;
        assert_eq!(remembered_call(&other, &[], ""), Some(libc::SYS_futex));
        other.rsi = 0x20000;
        assert_eq!(remembered_call(&other, &[], ""), Some(libc::SYS_nanosleep));
        // Where it slept says more than what it was called with.
        other.rsi = 0;
        let known = |wchan| remembered_call(&other, &code, wchan);
        assert_eq!(known("futex_do_wait"), Some(libc::SYS_futex));
        assert_eq!(
            known("poll_schedule_timeout.constprop.0"),
            Some(libc::SYS_poll)
        );
        assert_eq!(known("do_syscall_64"), Some(libc::SYS_nanosleep));
    }

    #[test]
    fn only_functions_of_libraries_miss_no_argument() {
        for code in [
            &[0xc3][..],
            &[0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77, 5],
            &[0x48, 0x89, 0xc5, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77, 5],
            &[0x48, 0x3d, 1, 0xf0, 0xff, 0xff, 0x76, 5],
        ] {
            assert!(only_returns(code), "{code:x?}");
        }
        for code in [
            &[][..],
            &[0x85, 0xc0, 0x78, 5],
            &[0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x90],
        ] {
            assert!(!only_returns(code), "{code:x?}");
        }
    }

    #[test]
    fn a_finished_call_is_left_alone() {
        let mut registers = stopped(libc::SYS_read, 17);
        restart_call(&mut registers);
        assert_eq!((registers.rip, registers.rax), (0x1002, 17));
    }

    #[test]
    fn epoll_wait_does_not_see_the_stop_but_close_is_not_done_twice() {
        let mut epoll = stopped(libc::SYS_epoll_wait, -4);
        restart_call(&mut epoll);
        assert_eq!(epoll.rip, 0x1000);
        let mut close = stopped(libc::SYS_close, -4);
        restart_call(&mut close);
        assert_eq!(close.rip, 0x1002);
    }
}
