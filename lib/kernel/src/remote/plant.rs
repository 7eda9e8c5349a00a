//! Descriptors of ours placed into a task's table at chosen numbers: a socket pair made in the task, one end of it
//! borrowed, descriptors passed over it (unix(7), SCM_RIGHTS), then `dup3` in the task.

use super::{Call, Caller};
use crate::error::Named;
use crate::{Error, Result, pidfd::PidFd};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// One descriptor to place.
#[derive(Debug, Clone, Copy)]
pub struct Plant<'a> {
    /// Ours.
    pub fd: BorrowedFd<'a>,
    /// Its number in the task.
    pub number: RawFd,
    /// `FD_CLOEXEC` there.
    pub close_on_exec: bool,
}

/// `SCM_MAX_FD` (include/net/scm.h).
const AT_ONCE: usize = 253;
const MESSAGE: u64 = 0; // struct msghdr, 56 bytes
const VECTOR: u64 = 64; // struct iovec
const BYTE: u64 = 96;
const PAIR: u64 = 104;
const CONTROL: u64 = 128;
const CONTROL_LEN: u64 = 16 + 4 * AT_ONCE as u64 + 4;

/// Places descriptors into the task's table. What stood at those numbers is closed; the rest of the table is as it was.
/// `pidfd` is of the process the task belongs to.
pub fn plant(task: &mut dyn Caller, pidfd: &PidFd, plants: &[Plant]) -> Result<()> {
    if plants.is_empty() {
        return Ok(());
    }
    let (base, _) = task.scratch()?;
    let (unix, dgram) = (libc::AF_UNIX as u64, libc::SOCK_DGRAM as u64);
    task.must(
        "socketpair",
        Call::new(libc::SYS_socketpair, &[unix, dgram, 0, base + PAIR]),
    )?;
    let mut pair = [0; 8];
    task.read(base + PAIR, &mut pair)?;
    let [theirs, ours] = [0, 4].map(|at| {
        let mut number = [0; 4];
        number.copy_from_slice(&pair[at..at + 4]);
        i32::from_ne_bytes(number)
    });
    let borrowed = pidfd.borrow(ours)?;
    task.must("close", Call::new(libc::SYS_close, &[ours as u64]))?;
    // Above all numbers wanted, and away from them: nothing is overwritten before it is placed.
    let high = plants
        .iter()
        .map(|p| p.number + 1)
        .max()
        .unwrap_or(0)
        .max(theirs + 1);
    let dup = |from: RawFd, least: RawFd| {
        let command = libc::F_DUPFD_CLOEXEC as u64;
        Call::new(libc::SYS_fcntl, &[from as u64, command, least as u64])
    };
    let socket = task.must("fcntl", dup(theirs, high))?;
    task.must("close", Call::new(libc::SYS_close, &[theirs as u64]))?;
    for chunk in plants.chunks(AT_ONCE) {
        send(borrowed.as_raw_fd(), chunk)?;
        let received = receive(task, base, socket, chunk.len())?;
        place(task, chunk, &received, socket as RawFd + 1, &dup)?;
    }
    task.must("close", Call::new(libc::SYS_close, &[socket]))?;
    Ok(())
}

fn send(socket: RawFd, chunk: &[Plant]) -> Result<()> {
    let numbers: Vec<RawFd> = chunk.iter().map(|p| p.fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    sendmsg::<()>(
        socket,
        &[IoSlice::new(b"x")],
        &control,
        MsgFlags::MSG_DONTWAIT,
        None,
    )
    .named(|| format!("pass {} descriptors", numbers.len()))
    .map(drop)
}

fn receive(task: &mut dyn Caller, base: u64, socket: u64, count: usize) -> Result<Vec<RawFd>> {
    // struct msghdr (recvmsg(2)): name, namelen, iov, iovlen, control, controllen, flags.
    let header = [0, 0, base + VECTOR, 1, base + CONTROL, CONTROL_LEN, 0];
    let vector = [base + BYTE, 1];
    let words = |words: &[u64]| {
        words
            .iter()
            .flat_map(|w| w.to_ne_bytes())
            .collect::<Vec<u8>>()
    };
    task.write(base + MESSAGE, &words(&header))?;
    task.write(base + VECTOR, &words(&vector))?;
    let flags = (libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) as u64;
    task.must(
        "receive descriptors",
        Call::new(libc::SYS_recvmsg, &[socket, base + MESSAGE, flags]),
    )?;
    let mut control = vec![0; 16 + 4 * count];
    task.read(base + CONTROL, &mut control)?;
    let mut len = [0; 8];
    len.copy_from_slice(&control[..8]);
    if u64::from_ne_bytes(len) != control.len() as u64 {
        // The kernel passes what fits the limit of open files and drops the rest (net/core/scm.c).
        return Err(Error::Unsupported {
            what: format!(
                "task {} may not open {count} more descriptors: raise the limit of open files (ulimit -n)",
                task.tid()
            ),
        });
    }
    Ok(control[16..]
        .chunks_exact(4)
        .map(|n| i32::from_ne_bytes([n[0], n[1], n[2], n[3]]))
        .collect())
}

/// Moves what was received out of the way, then to its numbers.
fn place(
    task: &mut dyn Caller,
    chunk: &[Plant],
    received: &[RawFd],
    high: RawFd,
    dup: &dyn Fn(RawFd, RawFd) -> Call,
) -> Result<()> {
    let away: Vec<Call> = received.iter().map(|fd| dup(*fd, high)).collect();
    let away = task.must_all(&away, &|i| format!("move descriptor {}", chunk[i].number))?;
    let close: Vec<Call> = received
        .iter()
        .map(|fd| Call::new(libc::SYS_close, &[*fd as u64]))
        .collect();
    task.must_all(&close, &|_| "close".into())?;
    let mut calls = Vec::with_capacity(2 * chunk.len());
    for (plant, from) in chunk.iter().zip(away) {
        let flags = if plant.close_on_exec {
            libc::O_CLOEXEC
        } else {
            0
        };
        calls.push(Call::new(
            libc::SYS_dup3,
            &[from, plant.number as u64, flags as u64],
        ));
        calls.push(Call::new(libc::SYS_close, &[from]));
    }
    task.must_all(&calls, &|i| {
        format!("place descriptor {}", chunk[i / 2].number)
    })?;
    Ok(())
}
