//! Fifos: bytes in one, both ends open, its name gone; one with a reader only, one that its writer alone is left of.
#![forbid(unsafe_code)]

use nix::sys::stat::Mode;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::process::ExitCode;
use subject::Stage;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let path = stage.path("fifo");
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).expect("mkfifo");
    let mut reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .expect("open for reading");
    let mut writer = OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("open for writing");
    writer.write_all(b"through a name").expect("write");
    let both: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("open for both");
    std::fs::remove_file(&path).expect("unlink");

    let half = |name: &str| {
        let path = stage.path(name);
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).expect("mkfifo");
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_NONBLOCK);
        (options.open(&path).expect("open for reading"), path)
    };
    let (mut waiting, _) = half("waiting");
    let (gone, path) = half("left");
    let mut left = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("open for writing");
    drop(gone);

    stage.wait();

    // Before any of the replicas that have the name in common opens an end.
    let none = waiting.read(&mut [0]).map_err(|e| e.kind());
    stage.same("nobody has written yet", Ok(0), none);
    let alone = left.write(b"!").map_err(|e| e.kind());
    stage.same("nobody reads", Err(std::io::ErrorKind::BrokenPipe), alone);

    let mut bytes = [0; 64];
    let count = reader.read(&mut bytes).unwrap_or(0);
    stage.same("what was in it", &b"through a name"[..], &bytes[..count]);
    let empty = reader.read(&mut bytes).map_err(|e| e.kind());
    stage.same(
        "then it is empty",
        Err(std::io::ErrorKind::WouldBlock),
        empty,
    );
    writer.write_all(b"more").expect("write");
    stage.same("and goes on", Some(4), reader.read(&mut bytes).ok());
    stage.holds(
        "it is a fifo",
        both.metadata().is_ok_and(|m| m.file_type().is_fifo()),
    );
    drop((writer, both));
    stage.same("its end", Some(0), reader.read(&mut bytes).ok());
    stage.leave()
}
