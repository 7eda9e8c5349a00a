//! User namespaces inside the container: one with its own host name, mounts and network, which stay its own to change; one with a
//! pid namespace, whose maker waits outside of that; and one within another. Their processes have all capabilities there, and none
//! outside.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, gethostname, getpid, sethostname};
use std::fs::read_to_string;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use subject::Stage;

fn ended(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, status)) => status,
        _ => 99,
    }
}

/// What a process sees of its user namespace.
fn seen() -> String {
    let lines = |name: &str| {
        let text = read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let status = status.lines().filter(|line| {
        let wanted = ["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:"];
        wanted.iter().any(|name| line.starts_with(name))
    });
    let status: Vec<&str> = status.collect();
    // Of the container's own host name a replica has another.
    let name = gethostname().unwrap_or_default().display().to_string();
    let name = if ["nested", "deep"].contains(&&*name) {
        name
    } else {
        String::new()
    };
    let (uids, gids) = (lines("uid_map"), lines("gid_map"));
    let groups = lines("setgroups");
    format!(
        "{} {name} {uids} {gids} {groups} {}",
        getpid(),
        status.join(" ")
    )
}

/// A user namespace in which this process, user 0 of the one around it, has this id.
fn become_user(id: u32, more: CloneFlags) {
    unshare(CloneFlags::CLONE_NEWUSER | more).expect("unshare");
    std::fs::write("/proc/self/setgroups", "deny").expect("deny setgroups");
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/self/{map}"), format!("{id} 0 1\n")).expect("map");
    }
}

fn rest(say: &OwnedFd, told: &OwnedFd) -> bool {
    nix::unistd::write(say, b"x") == Ok(1) && nix::unistd::read(told, &mut [0]) == Ok(1)
}

/// Whether it may still change what is its namespace's own.
fn rules() -> bool {
    let none = None::<&str>;
    sethostname("changed").is_ok()
        && mount(Some("mem"), "/mnt", Some("tmpfs"), MsFlags::empty(), none).is_ok()
        && set("/proc/sys/net/ipv4/ip_unprivileged_port_start", "7")
}

/// Sets a limit, where that is not beneath a read-only mount, as in a container of podman's.
fn set(path: &str, value: &str) -> bool {
    let read_only = |e: std::io::Error| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
    std::fs::write(path, value).map_or_else(read_only, |()| true)
}

fn all_its_own(say: &OwnedFd, told: &OwnedFd) -> i32 {
    let own = CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    become_user(0, own);
    sethostname("nested").expect("sethostname");
    let before = seen();
    if !rest(say, told) {
        return 9;
    }
    let after = seen();
    if before != after {
        println!("was {before}; is {after}");
    }
    i32::from(before != after) + 2 * i32::from(!rules())
}

fn with_pids(say: &OwnedFd, told: &OwnedFd) -> i32 {
    become_user(7, CloneFlags::CLONE_NEWPID);
    let child = fork(|| {
        let before = seen();
        let second = fork(|| i32::from(!rest(say, told))).expect("fork");
        let told = rest(say, told);
        let after = seen();
        if before != after {
            println!("was {before}; is {after}");
        }
        i32::from(before != after || getpid().as_raw() != 1) + 2 * i32::from(!told) + ended(second)
    });
    let ok = rest(say, told);
    ended(child.expect("fork")) + i32::from(!ok)
}

fn within(say: &OwnedFd, told: &OwnedFd) -> i32 {
    become_user(0, CloneFlags::empty());
    become_user(0, CloneFlags::CLONE_NEWUTS);
    sethostname("deep").expect("sethostname");
    let before = seen();
    let ok = rest(say, told);
    let after = seen();
    if before != after {
        println!("was {before}; is {after}");
    }
    i32::from(before != after || !ok) + 2 * i32::from(sethostname("deeper").is_err())
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (told, tell) = nix::unistd::pipe().expect("pipe");
    let (heard, say) = nix::unistd::pipe().expect("pipe");
    let children = [all_its_own, with_pids, within];
    let children = children.map(|work| fork(|| work(&say, &told)).expect("fork"));
    for _ in 0..5 {
        stage.same(
            "a child is set up",
            Ok(1),
            nix::unistd::read(&heard, &mut [0]),
        );
    }
    stage.wait();
    nix::unistd::write(&tell, b"!!!!!").expect("tell them all");
    for pid in children {
        stage.same("a child's end", 0, ended(pid));
    }
    stage.leave()
}
