//! File locks: record locks of a process and of an open file description, flock(2), and a lease. All are shared ones, so that
//! replicas can hold them side by side.
#![forbid(unsafe_code)]

use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use subject::Stage;

fn record(start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: libc::F_RDLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// The locks that fdinfo shows of a file, without the pid and the inode.
fn shown(file: &File) -> Vec<String> {
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let text = std::fs::read_to_string(path).expect("fdinfo");
    let parsed = kernel::proc::fdinfo::parse(&text).expect("fdinfo");
    let mut locks: Vec<String> = parsed.locks.iter().map(|l| format!("{l:?}")).collect();
    locks.sort();
    locks
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let path = stage.path("locked");
    std::fs::write(&path, b"0123456789").expect("write");
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .expect("open")
    };
    let (posix, ofd, flock) = (open(), open(), open());
    fcntl(&posix, FcntlArg::F_SETLK(&record(2, 3))).expect("F_SETLK");
    fcntl(&posix, FcntlArg::F_SETLK(&record(100, 0))).expect("F_SETLK");
    fcntl(&ofd, FcntlArg::F_OFD_SETLK(&record(4, 1))).expect("F_OFD_SETLK");
    flock.lock_shared().expect("flock");
    let leased = stage.path("leased");
    std::fs::write(&leased, b"").expect("write");
    let lease = File::open(&leased).expect("open");
    kernel::descriptor::lease(lease.as_fd()).expect("F_SETLEASE");
    let all = || [&posix, &ofd, &flock, &lease].map(shown);
    let before = all();

    stage.wait();

    stage.same("the locks", before, all());
    let stranger = open();
    let exclusive = stranger.try_lock();
    stage.holds("nobody else gets it for himself", exclusive.is_err());
    let mut wanted = record(3, 1);
    wanted.l_type = libc::F_WRLCK as i16;
    let refused = fcntl(&stranger, FcntlArg::F_OFD_SETLK(&wanted));
    stage.same("nor the record", Err(nix::errno::Errno::EAGAIN), refused);
    stage.leave()
}
