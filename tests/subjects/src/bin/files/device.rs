//! Device nodes without state, also one without a name.
#![forbid(unsafe_code)]

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
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
    // A node of its own whose name is gone; not every container may make one.
    let own = stage.path("node");
    let kind = (SFlag::S_IFCHR, Mode::from_bits_truncate(0o640));
    let made = mknod(&own, kind.0, kind.1, makedev(1, 5)).is_ok();
    let gone = made.then(|| device(&own.display().to_string()));
    if made {
        std::fs::remove_file(&own).expect("unlink");
    }
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
    if let Some(mut gone) = gone {
        bytes = [7; 64];
        stage.holds(
            "a node without a name gives",
            gone.read_exact(&mut bytes).is_ok(),
        );
        stage.same("zeros, too", [0; 64], bytes);
        let seen = gone
            .metadata()
            .map(|m| (m.nlink(), m.mode() & 0o777, m.rdev()));
        stage.same("and has none", Some((0, 0o640, makedev(1, 5))), seen.ok());
    }
    stage.leave()
}
