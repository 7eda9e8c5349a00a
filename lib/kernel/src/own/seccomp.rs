//! Seccomp filters on ourselves (seccomp(2)).

use crate::{Result, error::check};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has a command run under such a filter from its start: its first one, as an engine gives it to a container.
pub fn refused(command: &mut Command, nr: i64, errno: i32) -> &mut Command {
    // SAFETY: between fork and exec only seccomp(2) is called, which is async-signal-safe, on a program on the stack; on
    // success nothing is allocated.
    unsafe {
        command.pre_exec(move || refuse(nr, errno).map_err(|_| std::io::Error::last_os_error()))
    }
}

/// Refuses one system call with an error number from now on, in the calling thread and its children. Without privilege
/// `no_new_privs` must be set.
pub fn refuse(nr: i64, errno: i32) -> Result<()> {
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let step = |code: u16, jt: u8, jf: u8, k: u32| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(0x20, 0, 0, 0),                    // the call's number
        step(0x15, 0, 1, nr as u32),            // is it this one?
        step(0x06, 0, 0, ERRNO | errno as u32), // then this error
        step(0x06, 0, 0, ALLOW),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    const SET_MODE_FILTER: u32 = 1;
    // SAFETY: the program has as many instructions as it says, and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            0,
            &program as *const libc::sock_fprog,
        )
    };
    check(result, || format!("seccomp filter against call {nr}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_refused_call_gives_its_error() {
        let refused = std::thread::spawn(|| {
            super::refuse(libc::SYS_getpriority, libc::ENOTNAM).unwrap();
            crate::sched::attributes(0).unwrap();
            // SAFETY: no pointers.
            let result = unsafe { libc::syscall(libc::SYS_getpriority, 0, 0) };
            (result, std::io::Error::last_os_error().raw_os_error())
        });
        assert_eq!(refused.join().unwrap(), (-1, Some(libc::ENOTNAM)));
    }
}
