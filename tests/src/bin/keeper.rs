//! Process 1 of a disposable host: makes a `/run` of its own, reaps what is orphaned, and ends with its standard input,
//! so that the kernel ends everything else in the host's pid namespace, however the test ended.
#![forbid(unsafe_code)]

use nix::mount::{MsFlags, mount};
use nix::sys::wait::wait;
use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

fn main() {
    // Where the tools keep what belongs to a host: registrations, and the file systems of containers.
    std::fs::create_dir_all("/var/lib/ferry").expect("make /var/lib/ferry");
    for (at, flags) in [
        ("/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV),
        ("/var/lib/ferry", MsFlags::empty()),
    ] {
        mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some("mode=755"))
            .expect("mount a tmpfs of the host's own");
    }
    for directory in ["/run/sshd", "/run/netns", "/run/lock"] {
        std::fs::create_dir_all(directory).expect("make a directory in /run");
    }
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.is_ok_and(|s| s.success()), "ip link set lo up failed");
    println!("ready");
    std::io::stdout().flush().expect("say ready");
    std::thread::spawn(|| {
        loop {
            if wait().is_err() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
}
