//! Credentials of a child that gave its privileges away: ids, groups, capabilities, no_new_privs, seccomp.
#![forbid(unsafe_code)]

use kernel::own::{child::fork, seccomp};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, pipe, read, setgroups, setresgid, setresuid, write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use subject::Stage;

const LINES: [&str; 11] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
];

fn state() -> Vec<String> {
    let status = kernel::proc::status::read(std::process::id() as i32).expect("status");
    let mut state: Vec<String> = LINES
        .iter()
        .map(|key| format!("{key} {}", status.get(key).unwrap_or("-")))
        .collect();
    state.push(format!("dumpable {:?}", nix::sys::prctl::get_dumpable()));
    state.push(format!(
        "keep capabilities {:?}",
        nix::sys::prctl::get_keepcaps()
    ));
    state.push(format!(
        "death signal {:?}",
        nix::sys::prctl::get_pdeathsig()
    ));
    // Refused by the two filters, with an error of the filters' own.
    let affinity = nix::sched::sched_getaffinity(Pid::from_raw(0)).map(|_| ());
    let priority =
        nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).map(|_| ());
    state.push(format!("refused {affinity:?} {priority:?}"));
    state
}

fn drop_privileges() -> Result<(), Errno> {
    setgroups(&[10, 20, 30].map(Gid::from_raw))?;
    let [a, b, c] = [1001, 1002, 1003].map(Gid::from_raw);
    setresgid(a, b, c)?;
    let [a, b, c] = [2001, 2002, 2003].map(Uid::from_raw);
    setresuid(a, b, c)?;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGUSR1)?;
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}

/// 0 where nothing differs; what differs is written to the pipe.
fn play(hear: &OwnedFd, ready: &OwnedFd, say: &OwnedFd) -> i32 {
    let filters = || {
        seccomp::refuse(nix::libc::SYS_sched_getaffinity, nix::libc::ENOTNAM)?;
        seccomp::refuse(nix::libc::SYS_getrusage, nix::libc::EXDEV)
    };
    if drop_privileges().is_err() || filters().is_err() {
        return 2;
    }
    let before = state();
    let mut byte = [0];
    if write(ready, b"r").is_err() || read(hear, &mut byte) != Ok(1) {
        return 3;
    }
    let after = state();
    let differ: Vec<String> = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after)
        .map(|(before, after)| format!("was {before}, is {after}"))
        .collect();
    let sensible = before
        .iter()
        .any(|line| line.contains("ENOTNAM") && line.contains("EXDEV"));
    let said = write(say, differ.join("; ").as_bytes());
    i32::from(!differ.is_empty() || !sensible || said.is_err())
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (hear, tell) = pipe().expect("pipe");
    let (is_ready, ready) = pipe().expect("pipe");
    let (heard, say) = pipe().expect("pipe");
    let child = fork(|| play(&hear, &ready, &say)).expect("fork");
    drop(say);
    drop(ready);
    stage.same("the child is ready", Ok(1), read(&is_ready, &mut [0]));
    let own = state();
    stage.wait();
    stage.same("the parent's own", own, state());
    stage.same("tell the child", Ok(1), write(&tell, b"g"));
    let mut said = [0; 4096];
    let len = read(&heard, &mut said).unwrap_or(0);
    if len > 0 {
        stage.note(String::from_utf8_lossy(&said[..len]).into_owned());
    }
    let child = Pid::from_raw(child);
    stage.same(
        "the child's end",
        Ok(WaitStatus::Exited(child, 0)),
        waitpid(child, None),
    );
    stage.leave()
}
