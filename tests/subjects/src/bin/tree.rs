//! The process tree: parents, sessions, process groups, zombies, an orphan that its subreaper has taken, one deep and
//! one wide branch.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgid, getpid, getppid, getsid, setpgid, setsid};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use subject::Stage;

const DEEP: usize = 8;
const WIDE: usize = 12;

/// What a process is to others: itself, its parent, its group, its session.
fn place() -> String {
    format!(
        "{} {} {} {}",
        getpid(),
        getppid(),
        getpgid(None).expect("getpgid"),
        getsid(None).expect("getsid")
    )
}

/// A process that says its place now and again when told, each as a line in the pipe.
fn speak(told: &OwnedFd, say: &OwnedFd) -> i32 {
    let line = |name: &str| format!("{name} {}\n", place());
    let said = nix::unistd::write(say, line("before").as_bytes());
    let mut byte = [0];
    let heard = nix::unistd::read(told, &mut byte);
    let again = nix::unistd::write(say, line("after").as_bytes());
    i32::from(said.is_err() || heard.is_err() || again.is_err())
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
    let mut lines: Vec<String> = String::from_utf8_lossy(&text)
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (told, tell) = nix::unistd::pipe().expect("pipe");
    let (heard, say) = nix::unistd::pipe().expect("pipe");

    // Wide: children in groups of four, each led by its first.
    let mut leader = 0;
    let mut wide = Vec::new();
    for number in 0..WIDE {
        if number % 4 == 0 {
            leader = 0;
        }
        let group = leader;
        let pid = fork(|| {
            if setpgid(Pid::from_raw(0), Pid::from_raw(group)).is_err() {
                return 9;
            }
            speak(&told, &say)
        })
        .expect("fork");
        // Also from here, so that the group is there before the next one joins it (credentials(7)).
        let _ = setpgid(Pid::from_raw(pid), Pid::from_raw(group));
        if leader == 0 {
            leader = pid;
        }
        wide.push(pid);
    }

    // Deep: each the child of the last; the odd ones lead sessions of their own.
    let deep = fork(|| descend(DEEP, &told, &say)).expect("fork");

    // Zombies: one that exited, one that was killed; both wait to be waited for.
    let exited = fork(|| 42).expect("fork");
    let killed = fork(|| {
        std::thread::sleep(std::time::Duration::from_secs(1000));
        0
    })
    .expect("fork");
    kill(Pid::from_raw(killed), Signal::SIGKILL).expect("kill");
    for zombie in [exited, killed] {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(Pid::from_raw(zombie)), flags).expect("wait without reaping");
    }

    // An orphan: its parent has gone, and this process has taken it (PR_SET_CHILD_SUBREAPER(2const)). It keeps the
    // session and group of a leader that is no more.
    nix::sys::prctl::set_child_subreaper(true).expect("become a subreaper");
    let between = fork(|| {
        let _ = setsid();
        match fork(|| speak(&told, &say)) {
            Ok(_) => 0,
            Err(_) => 9,
        }
    })
    .expect("fork");
    waitpid(Pid::from_raw(between), None).expect("wait for the orphan's parent");

    let count = WIDE + DEEP + 1;
    let mut before = lines(&heard, count);
    // The orphan may have spoken before its parent was gone; what counts is where it ended up.
    let orphans_parent = until_adopted(&before, between);
    before = before
        .into_iter()
        .map(|line| {
            line.replacen(
                &format!(" {between} {between} {between}"),
                &format!(" {orphans_parent} {between} {between}"),
                1,
            )
        })
        .collect();
    before.sort();
    stage.wait();

    nix::unistd::write(&tell, &[b'!'; WIDE + DEEP + 1]).expect("tell them all");
    let after = lines(&heard, count);
    let after: Vec<String> = after
        .iter()
        .map(|line| line.replacen("after", "before", 1))
        .collect();
    stage.same("their places", before, after);
    stage.same(
        "the subreaper",
        Ok(true),
        nix::sys::prctl::get_child_subreaper(),
    );
    for (pid, end) in [
        (exited, WaitStatus::Exited(Pid::from_raw(exited), 42)),
        (
            killed,
            WaitStatus::Signaled(Pid::from_raw(killed), Signal::SIGKILL, false),
        ),
    ] {
        stage.same("a zombie's end", Ok(end), waitpid(Pid::from_raw(pid), None));
    }
    for pid in wide.into_iter().chain([deep]) {
        let pid = Pid::from_raw(pid);
        stage.same(
            "a child's end",
            Ok(WaitStatus::Exited(pid, 0)),
            waitpid(pid, None),
        );
    }
    stage.leave()
}

/// Forks `depth` generations, each of which speaks; gives the exit code of its own line.
fn descend(depth: usize, told: &OwnedFd, say: &OwnedFd) -> i32 {
    if depth % 2 == 1 && setsid().is_err() {
        return 9;
    }
    let child = match depth {
        1 => None,
        _ => match fork(|| descend(depth - 1, told, say)) {
            Ok(pid) => Some(Pid::from_raw(pid)),
            Err(_) => return 9,
        },
    };
    let spoken = speak(told, say);
    match child.map(|pid| waitpid(pid, None)) {
        None | Some(Ok(WaitStatus::Exited(_, 0))) => spoken,
        _ => 8,
    }
}

/// The parent that took the child of `gone`, from its `stat`.
fn until_adopted(lines: &[String], gone: i32) -> i32 {
    let orphan = lines
        .iter()
        .filter_map(|line| {
            let numbers: Vec<i32> = line
                .split(' ')
                .skip(1)
                .filter_map(|n| n.parse().ok())
                .collect();
            (numbers.get(3) == Some(&gone)).then(|| numbers[0])
        })
        .next()
        .expect("the orphan's line");
    loop {
        let stat =
            std::fs::read_to_string(format!("/proc/{orphan}/stat")).expect("the orphan's stat");
        let after_name = stat.rsplit_once(") ").expect("a name in brackets").1;
        let parent: i32 = after_name
            .split(' ')
            .nth(1)
            .and_then(|p| p.parse().ok())
            .expect("its parent");
        if parent != gone {
            return parent;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
