//! Vector registers held in a loop across the whole move: what they have is in no memory.
#![forbid(unsafe_code)]

use kernel::own::vector::{held, hold};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use subject::Stage;

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let until = AtomicU8::new(0);
    let patterns = [0x0123_4567_89ab_cdefu64, u64::MAX / 3];
    let found = std::thread::scope(|scope| {
        let holders: Vec<_> = patterns
            .iter()
            .map(|pattern| scope.spawn(|| hold(*pattern, &until)))
            .collect();
        stage.wait();
        until.store(1, Ordering::SeqCst);
        holders
            .into_iter()
            .map(|h| h.join().expect("join"))
            .collect::<Vec<_>>()
    });
    for (pattern, found) in patterns.iter().zip(found) {
        stage.same("the vector registers", held(*pattern), found);
    }
    stage.leave()
}
