//! Threads that wait for a time, most of which has passed when they are moved: each goes on with what remained.
#![forbid(unsafe_code)]

use kernel::own::{signal, wait};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::select::{FdSet, select};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::pipe;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};
use subject::Stage;

/// How long each waits, and how much of that is over when a checkpoint may come.
const WHOLE: Duration = Duration::from_secs(20);
const OVER: Duration = Duration::from_secs(13);
/// How long all moves together may take; one that begins anew waits longer than that.
const MOVES: Duration = Duration::from_secs(11);

const MILLISECONDS: u16 = WHOLE.as_millis() as u16;

/// A pipe that nobody writes to.
fn silent() -> (OwnedFd, OwnedFd) {
    pipe().expect("pipe")
}

fn polled() -> String {
    let (from, _to) = silent();
    let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    format!("{:?}", poll(&mut fds, PollTimeout::from(MILLISECONDS)))
}

fn selected() -> String {
    let (from, _to) = silent();
    let mut set = FdSet::new();
    set.insert(from.as_fd());
    let mut time = TimeVal::milliseconds(MILLISECONDS.into());
    format!("{:?}", select(None, &mut set, None, None, &mut time))
}

fn epolled() -> String {
    let (from, _to) = silent();
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    epoll
        .add(&from, EpollEvent::new(EpollFlags::EPOLLIN, 5))
        .expect("add");
    let mut events = [EpollEvent::empty()];
    format!(
        "{:?}",
        epoll.wait(&mut events, EpollTimeout::from(MILLISECONDS))
    )
}

fn condition() -> String {
    let (lock, condition) = (Mutex::new(()), Condvar::new());
    let held = lock.lock().expect("lock");
    let (held, result) = condition.wait_timeout(held, WHOLE).expect("wait");
    drop(held);
    format!("timed out: {}", result.timed_out())
}

fn signalled() -> String {
    let set = 1 << (Signal::SIGUSR2 as i32 - 1);
    let brought = signal::take(set, WHOLE.as_secs() as i64);
    format!("{:?}", brought.map(|brought| brought.map(|b| b.value)))
}

fn errno(result: kernel::Result<()>) -> String {
    format!("{:?}", result.map_err(|e| e.raw()))
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR2);
    blocked.thread_block().expect("block");
    type Way = (&'static str, fn() -> String, &'static str);
    let ways: [Way; 8] = [
        ("nanosleep", || errno(wait::sleep(WHOLE)), "Ok(())"),
        (
            "clock_nanosleep, with a remainder",
            || format!("{:?}", std::thread::sleep(WHOLE)),
            "()",
        ),
        ("poll", polled, "Ok(0)"),
        ("select", selected, "Ok(0)"),
        ("epoll_wait", epolled, "Ok(0)"),
        ("futex", || errno(wait::futex(WHOLE)), "Err(Some(110))"),
        ("futex, to a point in time", condition, "timed out: true"),
        ("sigtimedwait", signalled, "Ok(None)"),
    ];
    let (say, heard) = mpsc::channel();
    let start = Instant::now();
    for (name, wait, expected) in ways {
        let say = say.clone();
        std::thread::spawn(move || {
            let said = wait();
            say.send((name, said, expected, start.elapsed()))
        });
    }
    std::thread::sleep(OVER);
    stage.wait();
    for _ in 0..ways.len() {
        match heard.recv_timeout(WHOLE) {
            Ok((name, said, expected, took)) => {
                stage.same(name, expected.to_owned(), said);
                if took < WHOLE || took > WHOLE + MOVES {
                    stage.note(format!("{name}: waited {took:?} of {WHOLE:?}"));
                }
            }
            Err(_) => {
                stage.note("a thread never came back from its wait".into());
                break;
            }
        }
    }
    stage.leave()
}
