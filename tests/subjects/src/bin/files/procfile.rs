//! Files of procfs and sysfs, held open; some are about a process that is dead.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe, read, write};
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
    // Once looked at again, the first one counts as deleted.
    let networks: Vec<File> = (0..2)
        .map(|_| File::open("/proc/self/net/dev").expect("open"))
        .collect();

    let (told, tell) = pipe().expect("pipe");
    let child = fork(|| {
        let _ = read(&told, &mut [0]);
        0
    })
    .expect("fork");
    let of_child = ["status", "stat", "maps", "task", ""];
    let own_task = format!("task/{child}/stat");
    let of_child = of_child.into_iter().chain([&*own_task]);
    let gone: Vec<(String, File)> = of_child
        .map(|name| format!("/proc/{child}/{name}"))
        .map(|name| (name.clone(), File::open(name).expect("open")))
        .collect();
    write(&tell, b".").expect("tell the child");
    waitpid(Pid::from_raw(child), None).expect("wait for the child");
    let of_the_dead = || -> Vec<_> {
        let look = |(name, file): &(String, File)| {
            let read = (&*file).read(&mut [0; 16]).map_err(|e| e.raw_os_error());
            let inner = openat(file, "status", OFlag::O_RDONLY, Mode::empty()).map(drop);
            (name.clone(), read, inner)
        };
        gone.iter().map(look).collect()
    };
    let before = of_the_dead();

    stage.wait();

    stage.same("files about a process that is dead", before, of_the_dead());

    let mut text = String::new();
    let read = status.read_to_string(&mut text).is_ok();
    stage.holds(
        "our status is ours",
        read && text.contains(&format!("\nPid:\t{me}\n")),
    );
    for mut network in networks {
        let mut text = String::new();
        let read = network.read_to_string(&mut text).is_ok();
        stage.holds("links of our network", read && text.contains(" lo:"));
    }
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
