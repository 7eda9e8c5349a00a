//! Event counters: plain, a semaphore, and one that does not block, shared with a child.
#![forbid(unsafe_code)]

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::wait::{WaitStatus, waitpid};
use std::process::ExitCode;
use subject::Stage;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let plain = EventFd::from_value_and_flags(5, EfdFlags::empty()).expect("eventfd");
    plain.write(1 << 40).expect("write");
    let semaphore = EventFd::from_value_and_flags(2, EfdFlags::EFD_SEMAPHORE).expect("eventfd");
    let shared = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).expect("eventfd");
    let asked = EventFd::new().expect("eventfd");
    let child = kernel::own::child::fork(|| {
        let heard = asked.read();
        i32::from(heard != Ok(7) || shared.write(9).is_err())
    })
    .expect("fork");

    stage.wait();

    stage.same("the count", Ok(5 + (1 << 40)), plain.read());
    stage.same("the semaphore gives one", Ok(1), semaphore.read());
    stage.same("and another", Ok(1), semaphore.read());
    stage.same("nothing yet", Err(nix::errno::Errno::EAGAIN), shared.read());
    asked.write(7).expect("ask the child");
    let child = nix::unistd::Pid::from_raw(child);
    stage.same(
        "the child",
        Ok(WaitStatus::Exited(child, 0)),
        waitpid(child, None),
    );
    stage.same("the child's count", Ok(9), shared.read());
    stage.leave()
}
