//! Device nodes without state.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::process::ExitCode;
use subject::Stage;

fn device(path: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open a device")
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let mut null = device("/dev/null");
    let mut zero = device("/dev/zero");
    let mut full = device("/dev/full");
    let mut random = File::open("/dev/urandom").expect("open a device");

    stage.wait();

    let mut bytes = [7; 64];
    stage.same("null ends at once", Some(0), null.read(&mut bytes).ok());
    stage.holds("null swallows", null.write_all(b"anything").is_ok());
    stage.holds("zero gives", zero.read_exact(&mut bytes).is_ok());
    stage.same("zeros", [0; 64], bytes);
    let refused = full.write(b"x").map_err(|e| e.kind());
    stage.same("full is full", Err(ErrorKind::StorageFull), refused);
    stage.holds("urandom gives", random.read_exact(&mut bytes).is_ok());
    stage.holds("something", bytes != [0; 64]);
    stage.leave()
}
