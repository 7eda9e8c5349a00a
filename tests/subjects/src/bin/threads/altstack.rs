//! Moved while it is in a signal handler on an alternate stack; it returns from the handler on the other side.
#![forbid(unsafe_code)]

use kernel::own::signal::{alternate_stack, on_alternate_stack};
use std::process::ExitCode;
use std::sync::mpsc;
use subject::Stage;

/// `SS_ONSTACK`.
const ON_STACK: i32 = 1;

fn main() -> ExitCode {
    let stage = Stage::enter();
    let (back, forth) = mpsc::channel();
    let angle = std::hint::black_box(0.5f64);
    let sine = angle.sin();
    on_alternate_stack(nix::libc::SIGUSR1, move || {
        let mut stage = stage;
        let before = alternate_stack().expect("sigaltstack");
        stage.wait();
        let after = alternate_stack().expect("sigaltstack");
        stage.same("the alternate stack, from the handler", before, after);
        stage.same("on it", ON_STACK, after.2);
        back.send((stage, before)).expect("hand back");
    })
    .expect("a handler");
    let (mut stage, (address, size, _)) = forth.recv().expect("the handler's stage");
    let outside = alternate_stack().expect("sigaltstack");
    stage.same(
        "the alternate stack, after the handler",
        (address, size, 0),
        outside,
    );
    stage.same(
        "a number that was in registers",
        sine,
        std::hint::black_box(0.5f64).sin(),
    );
    stage.leave()
}
