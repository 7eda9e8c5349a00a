//! Directories: the working directory, the umask, an open directory, one that is removed, and places opened with `O_PATH`.
#![forbid(unsafe_code)]

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat, umask};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use subject::Stage;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let here = stage.path("here");
    std::fs::create_dir_all(here.join("inner")).expect("make directories");
    std::fs::write(here.join("file"), b"in here").expect("write");
    std::os::unix::fs::symlink("nowhere", here.join("link")).expect("symlink");
    std::fs::create_dir_all(stage.path("removed")).expect("make a directory");

    let none = Mode::empty();
    let directory = open(&here, OFlag::O_DIRECTORY, none).expect("open a directory");
    let removed = open(&stage.path("removed"), OFlag::O_DIRECTORY, none).expect("open");
    std::fs::remove_dir(stage.path("removed")).expect("rmdir");
    let place = open(&here.join("file"), OFlag::O_PATH, none).expect("O_PATH");
    std::fs::write(stage.path("gone"), b"was here").expect("write");
    let gone = open(&stage.path("gone"), OFlag::O_PATH, none).expect("O_PATH");
    std::fs::remove_file(stage.path("gone")).expect("unlink");
    let link = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let link = open(&here.join("link"), link, none).expect("O_PATH of a link");
    std::env::set_current_dir(here.join("inner")).expect("chdir");
    umask(Mode::from_bits_truncate(0o027));
    let before = std::env::current_dir().expect("the working directory");

    stage.wait();

    stage.same(
        "the working directory",
        before,
        std::env::current_dir().expect("getcwd"),
    );
    stage.same(
        "the umask",
        Mode::from_bits_truncate(0o027),
        umask(Mode::empty()),
    );
    stage.same(
        "what lies beside the working directory",
        Ok(b"in here".to_vec()),
        std::fs::read("../file").map_err(|e| e.kind()),
    );
    let file = openat(&directory, "file", OFlag::O_RDONLY, none);
    stage.holds("a file beneath the open directory", file.is_ok());
    stage.same(
        "the removed directory's links",
        Ok(0),
        fstat(&removed).map(|s| s.st_nlink.min(1)),
    );
    stage.holds(
        "nothing can be made in it",
        openat(
            &removed,
            "x",
            OFlag::O_CREAT,
            Mode::from_bits_truncate(0o600),
        )
        .is_err(),
    );
    stage.same("the place's size", Ok(7), fstat(&place).map(|s| s.st_size));
    stage.same(
        "a place cannot be read",
        Err(nix::errno::Errno::EBADF),
        nix::unistd::read(&place, &mut [0]),
    );
    let through = format!("/proc/self/fd/{}", gone.as_raw_fd());
    stage.same(
        "what is behind a place without a name",
        Ok("was here".to_owned()),
        std::fs::read_to_string(through).map_err(|e| e.kind()),
    );
    let is_link = fstat(&link).map(|s| s.st_mode & libc::S_IFMT == libc::S_IFLNK);
    stage.same("the link itself", Ok(true), is_link);
    let permissions = std::fs::metadata(&here).expect("stat").permissions().mode();
    stage.same("the directory's permissions", 0o755, permissions & 0o777);
    stage.leave()
}
