//! Files of procfs and sysfs, held open.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::ExitCode;
use subject::Stage;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let me = std::process::id();
    let mut status = File::open("/proc/self/status").expect("open");
    let mut uptime = File::open("/proc/uptime").expect("open");
    uptime.seek(SeekFrom::Start(0)).expect("seek");
    let directory = File::open("/proc/self/fd").expect("open a directory");

    stage.wait();

    let mut text = String::new();
    let read = status.read_to_string(&mut text).is_ok();
    stage.holds(
        "our status is ours",
        read && text.contains(&format!("\nPid:\t{me}\n")),
    );
    let mut text = String::new();
    stage.holds(
        "the uptime",
        uptime.read_to_string(&mut text).is_ok_and(|n| n > 3),
    );
    stage.holds(
        "the directory is one",
        directory.metadata().is_ok_and(|m| m.is_dir()),
    );
    stage.leave()
}
