//! Process descriptors: of a child, of ourselves, and of one that is dead and waited for.
#![forbid(unsafe_code)]

use kernel::event;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use subject::Stage;

fn of(fd: &OwnedFd) -> Option<i32> {
    let number = std::os::fd::AsRawFd::as_raw_fd(fd);
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).expect("fdinfo");
    let parsed = kernel::proc::fdinfo::parse(&text).expect("fdinfo");
    parsed.pidfd().expect("a pidfd")
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let me = std::process::id() as i32;
    let (told, tell) = nix::unistd::pipe().expect("pipe");
    let child = kernel::own::child::fork(|| {
        let heard = nix::unistd::read(&told, &mut [0]);
        if heard.is_ok() { 3 } else { 4 }
    })
    .expect("fork");
    let held = event::pidfd(child, false).expect("pidfd_open");
    let own = event::pidfd(me, false).expect("pidfd_open");
    let dead = event::pidfd_of_the_dead().expect("a dead process");

    stage.wait();

    stage.same("the child", Some(child), of(&held));
    stage.same("ourselves", Some(me), of(&own));
    stage.same("the dead", None, of(&dead));
    nix::unistd::write(&tell, b"!").expect("tell the child");
    let fd = std::os::fd::AsFd::as_fd(&held);
    let ended = nix::sys::wait::waitid(
        nix::sys::wait::Id::PIDFd(fd),
        nix::sys::wait::WaitPidFlag::WEXITED,
    );
    let pid = nix::unistd::Pid::from_raw(child);
    stage.same(
        "waited for",
        Ok(nix::sys::wait::WaitStatus::Exited(pid, 3)),
        ended,
    );
    stage.leave()
}
