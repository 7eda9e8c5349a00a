//! A process whose first thread has ended while another lives on: its ids, its name, and how its parent finds the last one to end.
#![forbid(unsafe_code)]

use kernel::own::child::{end_this_thread, fork};
use kernel::proc::{Proc, stat};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, gettid, pipe, read, write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use subject::Stage;

/// What the thread that is left can see of itself and of the first.
fn state() -> Vec<String> {
    let pid = getpid().as_raw();
    let first = stat::parse(&Proc::thread(pid, pid).text("stat").expect("stat")).expect("stat");
    let mut tids = Proc::process(pid).numbers("task").expect("tasks");
    tids.sort_unstable();
    vec![
        format!("{pid} {} {}", gettid(), nix::unistd::getppid()),
        format!("tasks {tids:?}"),
        format!("{} {} {}", first.state, first.comm, first.exit_code()),
    ]
}

/// Lives on, without the thread that it was started by.
fn live_on(hear: &OwnedFd, say: &OwnedFd) {
    let pid = getpid().as_raw();
    while stat::read(pid).is_ok_and(|first| first.state != 'Z') {
        std::thread::yield_now();
    }
    let before = state();
    let heard = write(say, b"r").is_ok() && read(hear, &mut [0]) == Ok(1);
    let after = state();
    let said = match heard && before == after {
        true => String::from("same"),
        false => format!("was {before:?}, is {after:?}"),
    };
    let _ = write(say, said.as_bytes());
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (hear, tell) = pipe().expect("pipe");
    let (heard, say) = pipe().expect("pipe");
    let child = fork(|| {
        nix::sys::prctl::set_name(c"headless").expect("name");
        std::thread::spawn(move || {
            live_on(&hear, &say);
            end_this_thread(7)
        });
        end_this_thread(3)
    })
    .expect("fork");
    stage.same("it is ready", Ok(1), read(&heard, &mut [0]));
    stage.wait();
    stage.same("tell it", Ok(1), write(&tell, b"g"));
    let mut said = [0; 1024];
    let len = read(&heard, &mut said).unwrap_or(0);
    let said = String::from_utf8_lossy(&said[..len]).into_owned();
    stage.same("what it sees", String::from("same"), said);
    let child = Pid::from_raw(child);
    let end = Ok(WaitStatus::Exited(child, 7));
    stage.same("its end", end, waitpid(child, None));
    stage.leave()
}
