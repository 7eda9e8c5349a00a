//! `UFFDIO_MOVE` (ioctl_userfaultfd(2), Linux 6.8): pages change their address without being copied. It works only from
//! within the process, so these are the calls to be made there, and their arguments as bytes.

use crate::remote::Call;
use std::sync::OnceLock;

/// `_IOWR(0xAA, 0x3F, struct uffdio_api)`.
const UFFDIO_API: u64 = 0xc018_aa3f;
/// `_IOWR(0xAA, 0x00, struct uffdio_register)`.
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
/// `_IOWR(0xAA, 0x05, struct uffdio_move)`.
const UFFDIO_MOVE: u64 = 0xc028_aa05;
/// `UFFD_API`, `UFFD_FEATURE_MOVE`, `UFFDIO_REGISTER_MODE_MISSING` (include/uapi/linux/userfaultfd.h).
const API: u64 = 0xaa;
const FEATURE_MOVE: u64 = 1 << 16;
const MODE_MISSING: u64 = 1;
/// Needs no privilege; what it leaves out, faults in the kernel, is not needed.
const USER_MODE_ONLY: u64 = 1;

/// `sizeof(struct uffdio_move)`.
pub const MOVE_LEN: usize = 40;

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Opens a descriptor.
pub fn open() -> Call {
    let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
    Call::new(libc::SYS_userfaultfd, &[flags | USER_MODE_ONLY])
}

/// `struct uffdio_api`.
pub fn api() -> Vec<u8> {
    bytes(&[API, FEATURE_MOVE, 0])
}

/// Agrees on what is used, with [`api`] at `at`.
pub fn agree(fd: u64, at: u64) -> Call {
    Call::new(libc::SYS_ioctl, &[fd, UFFDIO_API, at])
}

/// `struct uffdio_register`.
pub fn area(start: u64, len: u64) -> Vec<u8> {
    bytes(&[start, len, MODE_MISSING, 0])
}

/// Registers an area that pages are moved into, with [`area`] at `at`.
pub fn register(fd: u64, at: u64) -> Call {
    Call::new(libc::SYS_ioctl, &[fd, UFFDIO_REGISTER, at])
}

/// `struct uffdio_move`.
pub fn run(from: u64, to: u64, len: u64) -> Vec<u8> {
    bytes(&[to, from, len, 0, 0])
}

/// Moves pages, with [`run`] at `at`.
pub fn relocate(fd: u64, at: u64) -> Call {
    Call::new(libc::SYS_ioctl, &[fd, UFFDIO_MOVE, at])
}

/// Whether this kernel moves pages.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let call = open();
        // SAFETY: no pointers; the descriptor is closed below.
        let fd = unsafe { libc::syscall(call.nr, call.args[0]) };
        if fd < 0 {
            return false;
        }
        let mut argument = [API, FEATURE_MOVE, 0];
        // SAFETY: the argument is `struct uffdio_api`, three words, and outlives the call; the descriptor is ours alone.
        unsafe {
            let agreed = libc::ioctl(fd as i32, UFFDIO_API as _, &mut argument) == 0;
            libc::close(fd as i32);
            agreed && argument[1] & FEATURE_MOVE != 0
        }
    })
}

/// Whether this kernel gives huge pages to areas that ask for them (Documentation/admin-guide/mm/transhuge.rst).
pub fn huge_pages() -> bool {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    std::fs::read_to_string(path).is_ok_and(|mode| !mode.contains("[never]"))
}
