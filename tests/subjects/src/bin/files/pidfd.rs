//! Process descriptors: of a child, of ourselves, of a thread, and of one that is dead and waited for.
#![forbid(unsafe_code)]

use kernel::event;
use std::os::fd::{AsFd, OwnedFd};
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
    let grave = event::Dead::with(7 << 8, me).expect("a dead process");
    let dead = [false, false].map(|thread| grave.pidfd(thread).expect("pidfd_open"));
    drop(grave);
    let status = event::exit_status(dead[0].as_fd());
    let (tid_of, tid) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tid_of.send(nix::unistd::gettid().as_raw()).expect("tell");
        let _ = ended.recv();
    });
    let tid = tid.recv().expect("its id");
    let of_thread = event::pidfd(tid, true).expect("pidfd_open of a thread");

    stage.wait();

    stage.same("the child", Some(child), of(&held));
    stage.same("ourselves", Some(me), of(&own));
    for dead in &dead {
        stage.same("the dead", None, of(dead));
        stage.same("how it died", status, event::exit_status(dead.as_fd()));
    }
    let inode = |fd: &OwnedFd| nix::sys::stat::fstat(fd).map(|stat| stat.st_ino);
    stage.same("both are of one", inode(&dead[0]), inode(&dead[1]));
    stage.same("the thread", Some(tid), of(&of_thread));
    let ready = |fd: &OwnedFd| {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut asked = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut asked, PollTimeout::from(5000u16))
    };
    drop(end);
    stage.holds("the thread ends", thread.join().is_ok());
    stage.same("its end is seen", Ok(1), ready(&of_thread));
    nix::unistd::write(&tell, b"!").expect("tell the child");
    let fd = held.as_fd();
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
