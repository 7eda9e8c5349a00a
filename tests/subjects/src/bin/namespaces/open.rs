//! Namespaces held open: the container's own, and those of a child with its own uts, network, pid and user namespaces, by its parent
//! and by another child; and a network that no process is in. They are the same as before, and can be entered.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{fstat, stat};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, gethostname, pipe, read, sethostname, write};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use subject::Stage;

const PORT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

fn ended(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, status)) => status,
        _ => 99,
    }
}

fn rest(say: &OwnedFd, told: &OwnedFd) -> bool {
    write(say, b"x") == Ok(1) && read(told, &mut [0]) == Ok(1)
}

/// A child in namespaces of its own.
fn apart(flags: CloneFlags, name: &str, say: &OwnedFd, told: &OwnedFd) -> i32 {
    unshare(flags).expect("unshare");
    if flags.contains(CloneFlags::CLONE_NEWUSER) {
        std::fs::write("/proc/self/setgroups", "deny").expect("deny setgroups");
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/self/{map}"), "0 0 1\n").expect("map");
        }
    }
    sethostname(name).expect("sethostname");
    i32::from(!rest(say, told))
}

fn open(pid: &str, kind: &str) -> (String, File) {
    let path = format!("/proc/{pid}/ns/{kind}");
    let file = File::open(&path).expect("open a namespace");
    (path, file)
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let ((told, tell), (heard, say)) = (pipe().expect("pipe"), pipe().expect("pipe"));
    let own = CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET;
    let plain = fork(|| apart(own, "plain", &say, &told)).expect("fork");
    let user = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWUTS;
    let users = fork(|| apart(user, "users", &say, &told)).expect("fork");
    for _ in 0..2 {
        stage.same("a child is set up", Ok(1), read(&heard, &mut [0]));
    }
    let [first, second] = [plain, users].map(|pid| pid.to_string());
    let mut held = vec![
        open(&first, "uts"),
        open(&first, "net"),
        open(&second, "user"),
    ];
    for kind in ["net", "uts", "pid", "user", "ipc"] {
        held.push(open("self", kind));
    }
    // A network that nobody is in any more.
    let lone = fork(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
        let _ = std::fs::write(PORT, "77"); // an engine may have made it read-only
        i32::from(!rest(&say, &told))
    });
    let lone = lone.expect("fork");
    stage.same("the last child is set up", Ok(1), read(&heard, &mut [0]));
    let (_, alone) = open(&lone.to_string(), "net");
    kill(Pid::from_raw(lone), Signal::SIGKILL).expect("kill");
    ended(lone);
    let visit = || {
        let visited = fork(|| {
            let entered = setns(&alone, CloneFlags::CLONE_NEWNET).is_ok();
            let port = std::fs::read_to_string(PORT).unwrap_or_default();
            i32::from(entered) + 2 * i32::from(port.trim() == "77")
        });
        ended(visited.expect("fork"))
    };
    let before = visit();
    stage.holds(
        "the network that nobody is in can be entered",
        before & 1 == 1,
    );
    let twin = held[0].1.try_clone().expect("dup");

    stage.wait();

    for (path, file) in &held {
        let ids = |stat: nix::sys::stat::FileStat| (stat.st_dev, stat.st_ino);
        let (now, there) = (fstat(file).map(ids), stat(path.as_str()).map(ids));
        stage.same(path, there, now);
    }
    let entered = fork(|| {
        let named = |name: &str| gethostname().is_ok_and(|found| found == name);
        let well = setns(&twin, CloneFlags::CLONE_NEWUTS).is_ok() && named("plain");
        let well = well && setns(&held[2].1, CloneFlags::CLONE_NEWUSER).is_ok();
        i32::from(!well)
    });
    stage.same("who enters them", 0, ended(entered.expect("fork")));
    stage.same("who enters the network that nobody is in", before, visit());
    write(&tell, b"!!").expect("tell them all");
    for pid in [plain, users] {
        stage.same("a child's end", 0, ended(pid));
    }
    stage.leave()
}
