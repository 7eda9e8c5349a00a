//! What is on its way through a terminal. The kernel has no way to look without taking it out, so it is taken out and put
//! back: on the source, whose processes all stand still, as on the target.

use crate::Result;
use image::bytes::Bytes;
use image::files::tty::Input;
use kernel::tty::{self, Termios};
use std::os::fd::BorrowedFd;

/// What is in a terminal.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub input: Input,
    /// For the master.
    pub output: Vec<u8>,
    pub stopped: bool,
}

/// The most that the line discipline holds (`N_TTY_BUF_SIZE` - 1, drivers/tty/n_tty.c); what comes after it waits before
/// it.
const HELD: usize = 4095;

/// Ends a line where nothing that is seen does. No line has it in it.
const NEWLINE: u8 = b'\n';

/// Takes what is there, by a slave that does not block, and puts it back. Without a master, only what was typed.
pub(super) fn take(
    slave: BorrowedFd,
    master: Option<BorrowedFd>,
    termios: &Termios,
) -> Result<Contents> {
    let mut contents = Contents::default();
    if let Some(master) = master {
        let packets = tty::has_packets(master)?;
        if packets {
            tty::set_packets(master, false)?;
        }
        let drained = drain(master);
        if packets {
            tty::set_packets(master, true)?;
        }
        contents.output = drained?.concat();
        // Nothing is under way, and yet there is no room.
        contents.stopped = !tty::ready(slave)?.writable;
    }
    let taken = input(slave, termios);
    tty::set_termios(slave, termios)?;
    contents.input = taken?;
    put(slave, master, termios, &contents)?;
    Ok(contents)
}

fn drain(side: BorrowedFd) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while let Some(bytes) = tty::take(side)? {
        all.push(bytes);
    }
    Ok(all)
}

fn input(slave: BorrowedFd, termios: &Termios) -> Result<Input> {
    let mut input = Input::default();
    tty::set_termios(slave, &termios.quiet(0, 0))?;
    if termios.is_canonical() {
        input.lines = drain(slave)?.into_iter().map(Bytes).collect();
        tty::set_termios(slave, &termios.raw())?;
    }
    input.rest = Bytes(drain(slave)?.concat());
    Ok(input)
}

/// Puts it in; afterwards the settings are `termios`.
pub(super) fn put(
    slave: BorrowedFd,
    master: Option<BorrowedFd>,
    termios: &Termios,
    contents: &Contents,
) -> Result<()> {
    let Input { lines, rest } = &contents.input;
    if !(contents.output.is_empty() && lines.is_empty() && rest.0.is_empty()) {
        let filled = fill(slave, master, termios, contents);
        tty::set_termios(slave, termios)?;
        filled?;
    }
    if contents.stopped {
        stop(slave, termios)?;
    }
    Ok(())
}

fn fill(
    slave: BorrowedFd,
    master: Option<BorrowedFd>,
    termios: &Termios,
    contents: &Contents,
) -> Result<()> {
    let Input { lines, rest } = &contents.input;
    let all = || lines.iter().chain([rest]).flat_map(|line| &line.0);
    let end = (1..=u8::MAX).find(|byte| !all().any(|other| other == byte) && *byte != NEWLINE);
    let end = end.unwrap_or(u8::MAX);
    tty::set_termios(slave, &termios.quiet(end, 0))?;
    tty::put(slave, &contents.output)?;
    let mut room = HELD;
    for line in lines {
        let last = line.0.last().copied();
        let by_line = last.filter(|last| ends_lines(termios, *last));
        tty::set_termios(slave, &termios.quiet(end, by_line.unwrap_or(0)))?;
        type_in(slave, master, &line.0, &mut room)?;
        if last != Some(NEWLINE) && by_line.is_none() {
            type_in(slave, master, &[end], &mut room)?;
        }
    }
    tty::set_termios(slave, &termios.quiet(0, 0))?;
    type_in(slave, master, &rest.0, &mut room)
}

/// Whether a byte is one of the two characters that end a line besides newline.
fn ends_lines(termios: &Termios, byte: u8) -> bool {
    let both = [libc::VEOL, libc::VEOL2].map(|at| termios.characters[at]);
    byte != 0 && byte != NEWLINE && both.contains(&byte)
}

fn type_in(
    slave: BorrowedFd,
    master: Option<BorrowedFd>,
    bytes: &[u8],
    room: &mut usize,
) -> Result<()> {
    let (now, later) = bytes.split_at(bytes.len().min(*room));
    for byte in now {
        tty::type_in(slave, *byte)?;
    }
    *room -= now.len();
    match master {
        Some(master) => Ok(tty::put(master, later)?),
        None => Ok(()),
    }
}

fn stop(slave: BorrowedFd, termios: &Termios) -> Result<()> {
    let character = termios.characters[libc::VSTOP];
    if termios.input & libc::IXON != 0 && character != 0 {
        return Ok(tty::type_in(slave, character)?);
    }
    Ok(tty::stop(slave)?)
}
