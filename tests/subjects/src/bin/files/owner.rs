//! Who is told by a signal that something can be read: the process, a thread of it, its group; by a signal of its choice.
#![forbid(unsafe_code)]

use kernel::descriptor::{OwnerKind, owner, set_owner, set_signal, signal};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use subject::Stage;

/// Signals that arrived and wait, for this thread or its process.
fn arrived() -> Vec<Signal> {
    let status = kernel::proc::status::read_thread(
        std::process::id() as i32,
        nix::unistd::gettid().as_raw(),
    )
    .expect("status");
    let mask = |key: &str| status.mask(key).expect("a mask");
    let both = mask("SigPnd") | mask("ShdPnd");
    let there = |signal: &Signal| both & 1 << (*signal as i32 - 1) != 0;
    Signal::iterator().filter(there).collect()
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let signals = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH];
    let mut set = SigSet::empty();
    signals.iter().for_each(|signal| set.add(*signal));
    // Threads have it from us.
    set.thread_block().expect("block signals");

    let (tell, told) = channel();
    let (ask, asked) = channel::<()>();
    let thread = std::thread::spawn(move || {
        tell.send(nix::unistd::gettid().as_raw()).expect("tell");
        let _ = asked.recv();
        arrived()
    });
    let tid = told.recv().expect("its id");
    let me = std::process::id() as i32;
    let group = nix::unistd::getpgrp().as_raw();
    let owners = [
        (OwnerKind::Process, me),
        (OwnerKind::Thread, tid),
        (OwnerKind::Group, group),
    ];
    let make = |(kind, pid), signal: Signal| {
        let (out, into) = nix::unistd::pipe().expect("pipe");
        set_owner(out.as_fd(), kind, pid).expect("F_SETOWN_EX");
        set_signal(out.as_fd(), signal as i32).expect("F_SETSIG");
        let flags = OFlag::O_ASYNC | OFlag::O_NONBLOCK;
        fcntl(&out, FcntlArg::F_SETFL(flags)).expect("F_SETFL");
        (out, into)
    };
    let ends: Vec<(OwnedFd, OwnedFd)> = owners
        .iter()
        .zip(signals)
        .map(|(owner, signal)| make(*owner, signal))
        .collect();
    let look = || {
        let of = |(out, _): &(OwnedFd, OwnedFd)| {
            (owner(out.as_fd()).ok().flatten(), signal(out.as_fd()).ok())
        };
        ends.iter().map(of).collect::<Vec<_>>()
    };
    let before = look();

    stage.wait();

    stage.same("owners and signals", before, look());
    for (_, into) in &ends {
        nix::unistd::write(into, b"!").expect("write");
    }
    let (own, groups) = (vec![signals[0]], vec![signals[0], signals[2]]);
    let found = arrived();
    // Whoever is alone in its group is told as that, too.
    stage.holds("we are told", found == own || found == groups);
    drop(ask);
    let found = thread.join().unwrap_or_default();
    stage.holds("the thread is told", found.contains(&signals[1]));
    stage.leave()
}
