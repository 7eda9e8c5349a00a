//! Pipes: bytes on their way, a chosen size, flags, an end that is closed, and one shared with a child.
#![forbid(unsafe_code)]

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe, pipe2, read, write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use subject::Stage;

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn drain(end: &OwnedFd, count: usize) -> Vec<u8> {
    let mut all = vec![0; count];
    let mut filled = 0;
    while filled < count {
        match read(end, &mut all[filled..]) {
            Ok(0) | Err(_) => break,
            Ok(n) => filled += n,
        }
    }
    all.truncate(filled);
    all
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();

    let (short_out, short_in) = pipe().expect("pipe");
    write(&short_in, b"on its way").expect("write");

    let (wide_out, wide_in) = pipe2(OFlag::O_NONBLOCK).expect("pipe");
    let size = fcntl(&wide_in, FcntlArg::F_SETPIPE_SZ(1 << 20)).expect("F_SETPIPE_SZ");
    let wide = bytes(700_000);
    let written = write(&wide_in, &wide).expect("write");

    // Nobody can write any more: what is in it is read, then comes the end.
    let (ending_out, ending_in) = pipe().expect("pipe");
    write(&ending_in, b"last words").expect("write");
    drop(ending_in);

    // Packets keep their boundaries (pipe(2), O_DIRECT).
    let (packets_out, packets_in) = pipe2(OFlag::O_DIRECT).expect("pipe");
    for packet in [&b"one"[..], b"three", b"0"] {
        write(&packets_in, packet).expect("write");
    }

    // Also when nobody writes any more.
    let (left_out, left_in) = pipe2(OFlag::O_DIRECT).expect("pipe");
    for packet in [&b"first"[..], b"second"] {
        write(&left_in, packet).expect("write");
    }
    drop(left_in);

    // A child sits in a blocking read of one pipe and answers in the other.
    let (question_out, question_in) = pipe().expect("pipe");
    let (answer_out, answer_in) = pipe().expect("pipe");
    let child = kernel::own::child::fork(|| {
        let question = drain(&question_out, 3);
        i32::from(question != b"yes" || write(&answer_in, b"heard").is_err())
    })
    .expect("fork");
    write(&question_in, b"ye").expect("write");

    stage.wait();

    stage.same(
        "the short pipe",
        b"on its way".to_vec(),
        drain(&short_out, 10),
    );
    stage.same(
        "the wide pipe's size",
        Ok(size),
        fcntl(&wide_in, FcntlArg::F_GETPIPE_SZ),
    );
    let flags = OFlag::from_bits_retain(fcntl(&wide_out, FcntlArg::F_GETFL).expect("F_GETFL"));
    stage.holds(
        "the wide pipe does not block",
        flags.contains(OFlag::O_NONBLOCK),
    );
    stage.holds(
        "the wide pipe's bytes",
        drain(&wide_out, written) == wide[..written],
    );
    stage.same(
        "the wide pipe is empty then",
        Err(nix::errno::Errno::EAGAIN),
        read(&wide_out, &mut [0]),
    );
    stage.same(
        "the ending pipe",
        b"last words".to_vec(),
        drain(&ending_out, 10),
    );
    stage.same("its end", Ok(0), read(&ending_out, &mut [0]));
    for packet in [&b"one"[..], b"three", b"0"] {
        let mut space = [0; 64];
        let count = read(&packets_out, &mut space).expect("read a packet");
        stage.same("a packet", packet, &space[..count]);
    }
    for packet in [&b"first"[..], b"second", b""] {
        let mut space = [0; 64];
        let count = read(&left_out, &mut space).expect("read a packet");
        stage.same("a packet that was left", packet, &space[..count]);
    }
    write(&question_in, b"s").expect("write");
    stage.same("the answer", b"heard".to_vec(), drain(&answer_out, 5));
    let child = Pid::from_raw(child);
    stage.same(
        "the child",
        Ok(WaitStatus::Exited(child, 0)),
        waitpid(child, None),
    );
    stage.leave()
}
