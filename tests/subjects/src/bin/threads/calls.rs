//! Threads that wait in system calls: none may see that it was moved, each wakes by what it waited for.
#![forbid(unsafe_code)]

use kernel::own::{child::fork, signal};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::select::{FdSet, select};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use nix::unistd::{Pid, pause, pipe, read, write};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use subject::Stage;

/// A thread's name, and what its call gave.
type Said = (&'static str, String);

/// A pipe, of which a thread gets the reading end; what is kept wakes it.
fn waiter(
    name: &'static str,
    say: &mpsc::Sender<Said>,
    wait: impl FnOnce(OwnedFd) -> String + Send + 'static,
) -> (&'static str, OwnedFd) {
    let (from, to) = pipe().expect("pipe");
    let say = say.clone();
    std::thread::spawn(move || say.send((name, wait(from))));
    (name, to)
}

fn on_descriptors(say: &mpsc::Sender<Said>) -> Vec<(&'static str, OwnedFd)> {
    let polled = |fd: OwnedFd, timeout: PollTimeout| {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        format!("{:?}", poll(&mut fds, timeout))
    };
    vec![
        waiter("read", say, |fd| {
            let mut bytes = [0; 4];
            format!("{:?}", read(&fd, &mut bytes))
        }),
        waiter("poll", say, move |fd| polled(fd, PollTimeout::NONE)),
        waiter("poll with a timeout", say, move |fd| {
            polled(fd, PollTimeout::try_from(900_000).expect("a timeout"))
        }),
        waiter("select", say, |fd| {
            let mut set = FdSet::new();
            set.insert(fd.as_fd());
            format!("{:?}", select(None, &mut set, None, None, None))
        }),
        waiter("epoll_wait", say, |fd| {
            let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
            epoll
                .add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, 5))
                .expect("add");
            let mut events = [EpollEvent::empty()];
            format!("{:?}", epoll.wait(&mut events, EpollTimeout::NONE))
        }),
    ]
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (hear, tell) = pipe().expect("pipe");
    let child = fork(move || {
        let mut byte = [0];
        match read(&hear, &mut byte) {
            Ok(1) => 7,
            other => 100 + other.map_or(1, |n| n as i32),
        }
    })
    .expect("fork");

    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR1);
    blocked.add(Signal::SIGUSR2);
    blocked.thread_block().expect("block");
    signal::count(Signal::SIGUSR1 as i32, 0).expect("a handler");

    let (say, heard) = mpsc::channel::<Said>();
    let wake = on_descriptors(&say);
    let spawn = |name: &'static str, wait: Box<dyn FnOnce() -> String + Send>| {
        let say = say.clone();
        std::thread::spawn(move || say.send((name, wait())));
    };
    let (mut near, far) = UnixStream::pair().expect("socket pair");
    spawn(
        "recv",
        Box::new(move || format!("{:?}", near.read(&mut [0; 4]))),
    );
    spawn(
        "wait4",
        Box::new(move || format!("{:?}", waitpid(Pid::from_raw(child), None))),
    );
    spawn(
        "sigtimedwait",
        Box::new(|| {
            let set = 1 << (Signal::SIGUSR2 as i32 - 1);
            format!(
                "{:?}",
                signal::take(set, 3600).map(|brought| brought.map(|b| b.value))
            )
        }),
    );
    spawn(
        "pause",
        Box::new(|| {
            let mut set = SigSet::empty();
            set.add(Signal::SIGUSR1);
            set.thread_unblock().expect("unblock");
            pause();
            format!("{}", signal::counted(Signal::SIGUSR1 as i32))
        }),
    );
    let parked = std::thread::Builder::new();
    let told = Arc::new(AtomicBool::new(false));
    let (is_told, say_parked) = (told.clone(), say.clone());
    let parked = parked.spawn(move || {
        std::thread::park_timeout(Duration::from_secs(3600));
        say_parked.send(("futex", format!("{}", is_told.load(Ordering::SeqCst))))
    });
    let is_told = told.clone();
    spawn(
        "nanosleep",
        Box::new(move || {
            let step = TimeSpec::from_duration(Duration::from_millis(300));
            while !is_told.load(Ordering::SeqCst) {
                let slept = clock_nanosleep(
                    ClockId::CLOCK_MONOTONIC,
                    ClockNanosleepFlags::empty(),
                    &step,
                );
                if slept.is_err() {
                    return format!("{slept:?}");
                }
            }
            "asleep until told".into()
        }),
    );

    stage.wait();
    while let Ok((name, result)) = heard.try_recv() {
        stage.note(format!("{name} returned too early: {result}"));
    }
    told.store(true, Ordering::SeqCst);
    for (_, fd) in &wake {
        stage.same(
            "write to a pipe",
            Ok(1),
            write(fd, b"x").map_err(|e: Errno| e),
        );
    }
    drop(far);
    write(&tell, b"x").expect("tell the child");
    let own = std::process::id() as i32;
    signal::queue(own, Signal::SIGUSR1 as i32, 1).expect("queue");
    signal::queue(own, Signal::SIGUSR2 as i32, 42).expect("queue");
    parked.expect("spawn").thread().unpark();
    let exited = WaitStatus::Exited(Pid::from_raw(child), 7);
    let expected = [
        ("read", "Ok(1)".to_owned()),
        ("poll", "Ok(1)".into()),
        ("poll with a timeout", "Ok(1)".into()),
        ("select", "Ok(1)".into()),
        ("epoll_wait", "Ok(1)".into()),
        ("recv", "Ok(0)".into()),
        ("wait4", format!("{:?}", Ok::<_, Errno>(exited))),
        ("sigtimedwait", "Ok(Some(42))".into()),
        ("pause", "1".into()),
        ("futex", "true".into()),
        ("nanosleep", "asleep until told".into()),
    ];
    for _ in 0..expected.len() {
        match heard.recv_timeout(Duration::from_secs(10)) {
            Ok((name, result)) => {
                let found = expected.iter().find(|(n, _)| *n == name);
                stage.same(name, found.map(|(_, e)| e.clone()), Some(result));
            }
            Err(_) => {
                stage.note("a thread never came back from its call".into());
                break;
            }
        }
    }
    stage.leave()
}
