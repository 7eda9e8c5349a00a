//! Processes with threads in user namespaces inside the container, one of them in a pid namespace too: their ids, the credentials
//! that each has for itself, and a host name that one thread alone has.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use kernel::own::seccomp;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, gethostname, getpid, gettid, read, sethostname, write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::thread;
use subject::Stage;

/// The pipes between a child and the main process.
struct Pipes<'a> {
    /// What the children say; what each of their threads is told.
    say: &'a OwnedFd,
    told: &'a OwnedFd,
    /// The same of one child, about its maps.
    ask: OwnedFd,
    mapped: OwnedFd,
}

/// What a thread sees of itself.
fn seen() -> String {
    let path = format!("/proc/self/task/{}/status", gettid());
    // The proc file system may be that of the container, where this is not the name of the thread.
    let path = match getpid().as_raw() {
        1 => "/proc/thread-self/status".to_owned(),
        _ => path,
    };
    let status = std::fs::read_to_string(path).unwrap_or_default();
    let wanted = ["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp"];
    let status: Vec<&str> = status
        .lines()
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
        .collect();
    let name = gethostname().unwrap_or_default().display().to_string();
    let refused = nix::sched::sched_getaffinity(Pid::from_raw(0)).map(|_| ());
    format!("{} {} {name} {refused:?} {status:?}", getpid(), gettid())
}

/// A user namespace in which the main process has mapped users and groups 0 to 999.
fn become_root(pipes: &Pipes, more: CloneFlags) {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWUTS | more).expect("unshare");
    sethostname("crowd").expect("sethostname");
    write(&pipes.ask, b"x").expect("ask for maps");
    read(&pipes.mapped, &mut [0]).expect("hear of maps");
}

/// Gives the calling thread something that the others have not.
fn differ(nth: usize) {
    match nth {
        1 => {
            nix::unistd::setfsgid(Gid::from_raw(33));
            nix::unistd::setfsuid(Uid::from_raw(44));
        }
        2 => {
            nix::sys::prctl::set_no_new_privs().expect("no_new_privs");
            seccomp::refuse(nix::libc::SYS_sched_getaffinity, nix::libc::ENOTNAM).expect("seccomp");
        }
        3 => {
            unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET).expect("unshare");
            sethostname("alone").expect("sethostname");
        }
        _ => {}
    }
}

fn waits(pipes: &Pipes, nth: usize) -> bool {
    differ(nth);
    let before = seen();
    if write(pipes.say, b"x") != Ok(1) || read(pipes.told, &mut [0]) != Ok(1) {
        return false;
    }
    let after = seen();
    if before != after {
        println!("was {before}; is {after}");
    }
    // It may still rule there. The name stays: others look at it.
    let name = gethostname().unwrap_or_default();
    before == after && sethostname(name).is_ok()
}

/// Four threads that wait.
fn crowd(pipes: &Pipes) -> i32 {
    let well = thread::scope(|scope| {
        let others: Vec<_> = (1..=3)
            .map(|nth| scope.spawn(move || waits(pipes, nth)))
            .collect();
        let own = waits(pipes, 0);
        own & others
            .into_iter()
            .all(|thread| thread.join().unwrap_or(false))
    });
    i32::from(!well)
}

fn plain(pipes: &Pipes) -> i32 {
    become_root(pipes, CloneFlags::empty());
    crowd(pipes)
}

fn with_pids(pipes: &Pipes) -> i32 {
    become_root(pipes, CloneFlags::CLONE_NEWPID);
    ended(fork(|| crowd(pipes)).expect("fork"))
}

/// A user of no rights in two user namespaces, one within the other, that has locked itself up as Chromium's sandbox does: its
/// root is a directory of a process that is gone.
fn locked_up(pipes: &Pipes) -> i32 {
    let (user, group) = (Uid::from_raw(700), Gid::from_raw(701));
    nix::unistd::setgroups(&[]).expect("setgroups");
    nix::unistd::setresgid(group, group, group).expect("setresgid");
    nix::unistd::setresuid(user, user, user).expect("setresuid");
    // As after an exec: its files in /proc are its own.
    nix::sys::prctl::set_dumpable(true).expect("PR_SET_DUMPABLE");
    for _ in 0..2 {
        unshare(CloneFlags::CLONE_NEWUSER).expect("unshare");
        std::fs::write("/proc/self/setgroups", "deny").expect("deny setgroups");
        for (map, id) in [("uid_map", user.as_raw()), ("gid_map", group.as_raw())] {
            std::fs::write(format!("/proc/self/{map}"), format!("{id} {id} 1\n")).expect("map");
        }
    }
    let (hear, end) = nix::unistd::pipe().expect("pipe");
    let child = fork(|| i32::from(read(&hear, &mut [0]) != Ok(1))).expect("fork");
    std::env::set_current_dir(format!("/proc/{child}/fdinfo")).expect("chdir");
    nix::unistd::chroot(".").expect("chroot");
    std::env::set_current_dir("/").expect("chdir");
    write(&end, b"x").expect("end the child");
    if ended(child) != 0 {
        return 8;
    }
    let seen = || {
        let found = std::fs::read_dir("/").map(|_| ()).map_err(|e| e.kind());
        let made = std::fs::write("/file", b"x").map_err(|e| e.kind());
        let ids = (nix::unistd::getresuid(), nix::unistd::getresgid());
        (found, made, ids)
    };
    let waits = || {
        let before = seen();
        let well = write(pipes.say, b"x") == Ok(1) && read(pipes.told, &mut [0]) == Ok(1);
        let after = seen();
        if before != after {
            println!("was {before:?}; is {after:?}");
        }
        well && before == after && before.0.is_err()
    };
    let well = thread::scope(|scope| {
        let other = scope.spawn(waits);
        waits() & other.join().unwrap_or(false)
    });
    i32::from(!well) + 2 * i32::from(unshare(CloneFlags::CLONE_NEWUTS).is_err())
}

fn ended(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, status)) => status,
        _ => 99,
    }
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let pipe = || nix::unistd::pipe().expect("pipe");
    let ((told, tell), (heard, say)) = (pipe(), pipe());
    let (say, told) = (&say, &told);
    let children = [plain, with_pids].map(|work| {
        let ((mapped, map), (asked, ask)) = (pipe(), pipe());
        let pipes = Pipes {
            say,
            told,
            ask,
            mapped,
        };
        let child = fork(|| work(&pipes)).expect("fork");
        read(&asked, &mut [0]).expect("hear of a namespace");
        for name in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{child}/{name}"), "0 0 1000\n").expect("map");
        }
        write(&map, b"m").expect("tell of maps");
        child
    });
    let alone = fork(|| {
        let ((_, ask), (mapped, _)) = (pipe(), pipe());
        let pipes = Pipes {
            say,
            told,
            ask,
            mapped,
        };
        locked_up(&pipes)
    });
    for _ in 0..10 {
        stage.same("a thread is set up", Ok(1), read(&heard, &mut [0]));
    }
    stage.wait();
    write(&tell, &[0; 10]).expect("tell them all");
    for pid in children.into_iter().chain(alone) {
        stage.same("a child's end", 0, ended(pid));
    }
    stage.leave()
}
