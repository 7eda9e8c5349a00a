//! The calls that are made in tasks by more than one room, as data.

use super::Call;
use crate::Pid;
use crate::namespaces::Kind;

/// `clone(2)`: the child's parent is the caller's parent.
pub const CLONE_PARENT: u64 = libc::CLONE_PARENT as u64;
/// The child is process 1 of a new pid namespace.
pub const CLONE_NEWPID: u64 = libc::CLONE_NEWPID as u64;
/// The pid is taken.
pub const EEXIST: i32 = libc::EEXIST;

/// `setsid(2)`.
pub fn setsid() -> Call {
    Call::new(libc::SYS_setsid, &[])
}

/// `getsid(2)` of the caller.
pub fn getsid() -> Call {
    Call::new(libc::SYS_getsid, &[0])
}

/// `setpgid(2)`.
pub fn setpgid(pid: Pid, pgid: Pid) -> Call {
    Call::new(libc::SYS_setpgid, &[pid as u64, pgid as u64])
}

/// `PR_SET_CHILD_SUBREAPER` (prctl(2)).
pub fn set_child_subreaper(on: bool) -> Call {
    prctl(libc::PR_SET_CHILD_SUBREAPER, on.into())
}

/// `PR_SET_NAME`: the name at an address in the task, ended by NUL.
pub fn set_name(address: u64) -> Call {
    prctl(libc::PR_SET_NAME, address)
}

/// `PR_SET_DUMPABLE`.
pub fn set_dumpable(value: u64) -> Call {
    prctl(libc::PR_SET_DUMPABLE, value)
}

/// `prctl(2)` with one argument.
pub fn prctl(option: i32, argument: u64) -> Call {
    Call::new(libc::SYS_prctl, &[option as u64, argument, 0, 0, 0])
}

/// `exit(2)`: the end of one thread.
pub fn exit(status: i32) -> Call {
    Call::new(libc::SYS_exit, &[status as u64])
}

/// `exit_group(2)`.
pub fn exit_group(status: i32) -> Call {
    Call::new(libc::SYS_exit_group, &[status as u64])
}

/// `wait4(2)` for any kind of child, its status not wanted.
pub fn wait4(pid: Pid) -> Call {
    Call::new(libc::SYS_wait4, &[pid as u64, 0, libc::__WALL as u64, 0])
}

/// `write(2)` of bytes at an address in the task.
pub fn write(fd: i32, address: u64, len: u64) -> Call {
    Call::new(libc::SYS_write, &[fd as u64, address, len])
}

/// `setns(2)`: the calling thread, or its children, into the namespace of a descriptor of its own.
pub fn setns(fd: i32, kind: Kind) -> Call {
    Call::new(libc::SYS_setns, &[fd as u64, kind.flag() as u64])
}

/// `unshare(2)` of namespaces.
pub fn unshare(kind: Kind) -> Call {
    Call::new(libc::SYS_unshare, &[kind.flag() as u64])
}

/// `close(2)`.
pub fn close(fd: i32) -> Call {
    Call::new(libc::SYS_close, &[fd as u64])
}

/// `kill(2)`.
pub fn kill(pid: Pid, signal: i32) -> Call {
    Call::new(libc::SYS_kill, &[pid as u64, signal as u64])
}

/// `rt_sigaction(2)`, setting the kernel's form of the action (32 bytes) at an address in the task.
pub fn sigaction(signal: i32, action: u64) -> Call {
    Call::new(libc::SYS_rt_sigaction, &[signal as u64, action, 0, 8])
}

/// `clone3(2)` with the ids chosen, innermost namespace first: the call, and the argument bytes that must be put at
/// `address` in the task before.
pub fn clone3(address: u64, flags: u64, exit_signal: i32, ids: &[Pid]) -> (Call, Vec<u8>) {
    const ARGUMENTS: u64 = 88; // struct clone_args (include/uapi/linux/sched.h)
    let ids_at = address + ARGUMENTS;
    let words = [
        flags,
        0, // pidfd
        0, // child_tid
        0, // parent_tid
        exit_signal as u64,
        0, // stack
        0, // stack_size
        0, // tls
        if ids.is_empty() { 0 } else { ids_at },
        ids.len() as u64,
        0, // cgroup
    ];
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
    bytes.extend(ids.iter().flat_map(|id| id.to_ne_bytes()));
    (Call::new(libc::SYS_clone3, &[address, ARGUMENTS]), bytes)
}
