//! A child that a signal has stopped in the middle of its waiting: it stays stopped, and goes on when it is told. Another that
//! is told to end while it is stopped (`kill %1` of a shell's): it ends when it goes on, and no sooner.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use kernel::proc::stat;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe, read, write};
use std::process::ExitCode;
use subject::Stage;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (hear, tell) = pipe().expect("pipe");
    let child = fork(|| match read(&hear, &mut [0]) {
        Ok(1) => 7,
        _ => 1,
    })
    .expect("fork");
    let pid = Pid::from_raw(child);
    kill(pid, Signal::SIGSTOP).expect("stop the child");
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED));
    stage.same(
        "the child stops",
        Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)),
        stopped,
    );
    let doomed = fork(|| {
        std::thread::sleep(std::time::Duration::from_secs(1000));
        1
    });
    let doomed = Pid::from_raw(doomed.expect("fork"));
    kill(doomed, Signal::SIGSTOP).expect("stop the other child");
    waitpid(doomed, Some(WaitPidFlag::WUNTRACED)).expect("wait for it to stop");
    kill(doomed, Signal::SIGTERM).expect("tell it to end");

    stage.wait();
    let state = stat::read(doomed.as_raw()).ok().map(|s| s.state);
    stage.same("the state of who is to end", Some('T'), state);
    kill(doomed, Signal::SIGCONT).expect("let it end");
    stage.same(
        "how it ends",
        Ok(WaitStatus::Signaled(doomed, Signal::SIGTERM, false)),
        waitpid(doomed, None),
    );
    stage.same(
        "the child's state",
        Some('T'),
        stat::read(child).ok().map(|s| s.state),
    );
    stage.same("tell the child", Ok(1), write(&tell, b"x"));
    std::thread::sleep(std::time::Duration::from_millis(20));
    stage.same(
        "its state when told",
        Some('T'),
        stat::read(child).ok().map(|s| s.state),
    );
    kill(pid, Signal::SIGCONT).expect("let the child go on");
    stage.same(
        "the child's end",
        Ok(WaitStatus::Exited(pid, 7)),
        waitpid(pid, None),
    );
    stage.leave()
}
