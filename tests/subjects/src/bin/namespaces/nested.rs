//! Namespaces inside the container: children in uts, ipc, network and cgroup namespaces of their own, a pid namespace with
//! a process 1 and its child, one within that, one that somebody has entered from outside, one that is still to be made, and
//! a thread that has gone its own way.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpid, getppid, getsid, gettid};
use std::fs::read_to_string;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use subject::Stage;

const SYSCTLS: [&str; 3] = [
    "kernel/msgmax",
    "net/core/somaxconn",
    "net/ipv4/ip_unprivileged_port_start",
];

/// Everything a task can see of its namespaces, on one line.
fn seen() -> String {
    let number = |id: nix::Result<Pid>| id.map_or(-1, Pid::as_raw);
    let mut all = vec![
        format!("{} {} {}", getpid(), getppid(), gettid()),
        format!("{} {}", number(getpgid(None)), number(getsid(None))),
    ];
    // Of the container's own host name and network a replica has others.
    let name = nix::unistd::gethostname().unwrap_or_default();
    if let Some(name) = name.to_str()
        && ["nested", "process", "thread"].contains(&name)
    {
        all.push(name.to_owned());
        if name != "process" {
            let links = read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            all.push(links.lines().count().to_string());
        }
    }
    for name in SYSCTLS {
        let value = read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
        all.push(value.trim().replace('\n', " "));
    }
    all.join(" | ")
}

/// Sets a limit, where that is not beneath a read-only mount, as in a container of podman's.
fn set(name: &str, value: &str) -> bool {
    let read_only = |e: std::io::Error| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
    std::fs::write(format!("/proc/sys/{name}"), value).map_or_else(read_only, |()| true)
}

/// Says what it sees, and when it is told, again; and it can still fork.
fn speak(name: &str, told: &OwnedFd, say: &OwnedFd) -> i32 {
    let say_it = |text: String| nix::unistd::write(say, format!("{name}: {text}\n").as_bytes());
    let first = say_it(seen());
    let heard = nix::unistd::read(told, &mut [0]);
    let again = say_it(seen());
    i32::from(first.is_err() || heard != Ok(1) || again.is_err())
}

fn ended(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, status)) => status,
        _ => 99,
    }
}

/// The next `count` lines of the pipe, in the order of the alphabet.
fn lines(heard: &OwnedFd, count: usize) -> Vec<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while text.iter().filter(|b| **b == b'\n').count() < count {
        match nix::unistd::read(heard, &mut byte) {
            Ok(1) => text.push(byte[0]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (told, tell) = nix::unistd::pipe().expect("pipe");
    let (heard, say) = nix::unistd::pipe().expect("pipe");
    let mut children = Vec::new();

    let own = CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    children.push(
        fork(|| {
            unshare(own).expect("unshare");
            nix::unistd::sethostname("nested").expect("sethostname");
            let all = set("kernel/msgmax", "12345")
                && set("net/core/somaxconn", "77")
                && set("net/ipv4/ip_unprivileged_port_start", "99");
            // Its child is in the same.
            let child = fork(|| speak("a child's child", &told, &say)).expect("fork");
            let spoken = speak("a child", &told, &say);
            i32::from(!all) + ended(child) + spoken
        })
        .expect("fork"),
    );

    // Parent, process 1, its child, and one more namespace below that.
    children.push(
        fork(|| {
            unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
            let first = fork(|| {
                let second = fork(|| {
                    let _ = nix::unistd::setsid();
                    speak("process 2", &told, &say)
                })
                .expect("fork");
                let third = fork(|| {
                    unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
                    let below = fork(|| speak("process 1 below", &told, &say)).expect("fork");
                    speak("its parent", &told, &say) + ended(below)
                })
                .expect("fork");
                speak("process 1", &told, &say) + ended(second) + ended(third)
            })
            .expect("fork");
            // Its next child would be in there, and is.
            let another = fork(|| speak("one from outside", &told, &say)).expect("fork");
            let spoken = speak("who made it", &told, &say) + ended(another) + ended(first);
            // Process 1 is gone: nothing more can be born there.
            spoken + i32::from(fork(|| 0).is_ok())
        })
        .expect("fork"),
    );

    // A pid namespace whose process 1 is not born yet.
    children.push(
        fork(|| {
            unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
            let spoken = speak("before the first", &told, &say);
            spoken + ended(fork(|| i32::from(getpid().as_raw() != 1)).expect("fork"))
        })
        .expect("fork"),
    );

    // A thread elsewhere than its process, and one that has come home.
    children.push(
        fork(|| {
            unshare(CloneFlags::CLONE_NEWUTS).expect("unshare");
            nix::unistd::sethostname("process").expect("sethostname");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET).expect("unshare");
                    nix::unistd::sethostname("thread").expect("sethostname");
                    speak("a thread", &told, &say)
                });
                scope.spawn(|| {
                    let home = format!("/proc/{}/ns/uts", getppid());
                    let home = std::fs::File::open(home).expect("open a namespace");
                    setns(&home, CloneFlags::CLONE_NEWUTS).expect("setns");
                    drop(home);
                    speak("a thread at home", &told, &say)
                });
                speak("its leader", &told, &say)
            })
        })
        .expect("fork"),
    );

    let count = 12;
    let before = lines(&heard, count);
    stage.same("who has spoken", count, before.len());
    stage.wait();
    nix::unistd::write(&tell, &[b'!'; 12]).expect("tell them all");
    stage.same("what they see", before, lines(&heard, count));
    for pid in children {
        stage.same("a child's end", 0, ended(pid));
    }
    stage.leave()
}
