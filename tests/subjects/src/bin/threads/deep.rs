//! A program that has come to the end of its stack as far as that has grown: in a function with much in its variables, deeper
//! than ever before, and with a second thread.
#![forbid(unsafe_code)]

use kernel::proc::maps;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use subject::Stage;

/// More than the kernel gives a stack at first.
const MUCH: usize = 1 << 20;

/// How much of the stack is mapped below a variable of the caller's.
fn room_below(address: u64) -> u64 {
    let areas = maps::read(std::process::id() as i32).expect("maps");
    let stack = areas.iter().find(|area| area.name == b"[stack]");
    address - stack.expect("a stack").start
}

#[inline(never)]
fn waits_at_the_end(stage: &mut Stage) {
    let mut variables = [0u8; MUCH];
    for (i, byte) in variables.iter_mut().enumerate() {
        *byte = (i % 251) as u8;
    }
    let variables = black_box(&mut variables);
    let room = room_below(variables.as_ptr() as u64);
    stage.holds("at the end of the stack", room < 64 << 10);
    stage.wait();
    let same = variables
        .iter()
        .enumerate()
        .all(|(i, byte)| *byte == (i % 251) as u8);
    stage.holds("the variables", same);
}

#[inline(never)]
fn deeper(levels: usize) -> usize {
    let variables = black_box([levels; 512]);
    match levels {
        0 => variables[1],
        _ => variables[levels % 512] + deeper(levels - 1),
    }
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (tell, told) = channel::<()>();
    let thread = std::thread::spawn(move || told.recv().is_ok());
    waits_at_the_end(&mut stage);
    stage.same("it still grows", 300 * 301 / 2, deeper(300));
    tell.send(()).expect("tell");
    stage.holds("the other thread", thread.join().is_ok_and(|told| told));
    stage.leave()
}
