//! Open file descriptions: an offset shared by `dup` and by a child, another one that is not, and their flags.
#![forbid(unsafe_code)]

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use subject::Stage;

fn at(file: &mut File) -> u64 {
    file.stream_position().expect("the file's position")
}

fn flags(file: &File) -> (OFlag, FdFlag) {
    (
        OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).expect("F_GETFL")),
        FdFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFD).expect("F_GETFD")),
    )
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let path = stage.path("hundred");
    std::fs::write(&path, (0..100).collect::<Vec<u8>>()).expect("write the file");

    let mut one = File::open(&path).expect("open");
    one.seek(SeekFrom::Start(10)).expect("seek");
    let mut twin = one.try_clone().expect("dup");
    let mut other = File::open(&path).expect("open again");
    other.seek(SeekFrom::Start(70)).expect("seek");
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOATIME)
        .open(stage.path("log"))
        .expect("open the log");
    fcntl(&twin, FcntlArg::F_SETFD(FdFlag::empty())).expect("F_SETFD");
    let before = [flags(&one), flags(&twin), flags(&other), flags(&log)];

    // The child reads one byte of the shared description once told, and says at its exit whether it was the right one.
    let (told, tell) = nix::unistd::pipe().expect("pipe");
    let mut childs = one.try_clone().expect("dup");
    let childs_other = other.try_clone().expect("dup");
    let child = kernel::own::child::fork(move || {
        let mut byte = [0];
        if nix::unistd::read(&told, &mut byte).is_err() {
            return 2;
        }
        drop(childs_other);
        match childs.read_exact(&mut byte) {
            Ok(()) if byte[0] == 20 => 0,
            _ => 1,
        }
    })
    .expect("fork");

    stage.wait();

    stage.same(
        "the flags",
        before,
        [flags(&one), flags(&twin), flags(&other), flags(&log)],
    );
    stage.same("the position", 10, at(&mut one));
    one.seek(SeekFrom::Start(20)).expect("seek");
    stage.same("the position of its twin", 20, at(&mut twin));
    stage.same("the other's position", 70, at(&mut other));
    nix::unistd::write(&tell, b"!").expect("tell the child");
    let end = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None)
        .expect("wait for the child");
    stage.same(
        "what the child said",
        nix::sys::wait::WaitStatus::Exited(nix::unistd::Pid::from_raw(child), 0),
        end,
    );
    stage.same("the position after the child read", 21, at(&mut twin));
    log.write_all(b"still appending\n").expect("append");
    stage.leave()
}
