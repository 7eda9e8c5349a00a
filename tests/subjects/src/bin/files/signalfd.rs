//! Signal descriptors: a mask, and signals that wait to be read.
#![forbid(unsafe_code)]

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::process::ExitCode;
use subject::Stage;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    set.add(Signal::SIGWINCH);
    set.thread_block().expect("block signals");
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK).expect("signalfd");
    raise(Signal::SIGUSR1).expect("raise");

    stage.wait();

    let next = || {
        signals
            .read_signal()
            .map(|found| found.map(|s| (s.ssi_signo, s.ssi_pid)))
    };
    let me = std::process::id();
    stage.same(
        "the signal that waited",
        Ok(Some((Signal::SIGUSR1 as u32, me))),
        next(),
    );
    stage.same("no other", Ok(None), next());
    raise(Signal::SIGWINCH).expect("raise");
    stage.same("a new one", Ok(Some((Signal::SIGWINCH as u32, me))), next());
    stage.leave()
}
