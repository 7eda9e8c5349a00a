//! Message queues (msgget(2), msgop(2), msgctl(2)).

use super::{Permissions, fill, make_as, rows, table};
use crate::Result;
use crate::error::check;

/// A queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Numbers, owners, mode.
    pub permissions: Permissions,
    /// Bytes of all messages in it.
    pub bytes: u64,
    /// Messages in it.
    pub messages: u64,
}

/// All queues.
pub fn list() -> Result<Vec<Queue>> {
    parse(&table("msg")?)
}

/// From `/proc/sysvipc/msg`.
pub fn parse(text: &str) -> Result<Vec<Queue>> {
    rows(text)
        .map(|row| {
            Ok(Queue {
                permissions: row.permissions("msqid")?,
                bytes: row.number("cbytes")?,
                messages: row.number("qnum")?,
            })
        })
        .collect()
}

/// Makes a queue that is not there yet, with whatever id comes next.
pub fn make(key: i32, mode: i32) -> Result<i32> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | mode;
    // SAFETY: numbers only.
    let made = unsafe { libc::msgget(key, flags) };
    Ok(check(made.into(), || {
        format!("make a message queue of key {key:#x}")
    })? as i32)
}

/// Makes a queue with the id wanted.
pub fn create(wanted: &Permissions) -> Result<()> {
    let make = || make(wanted.key, 0o600);
    make_as("msg", wanted, make, |other| drop(remove(other)))
}

/// Removes it at once.
pub fn remove(id: i32) -> Result<()> {
    // SAFETY: numbers only.
    let result = unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    check(result.into(), || format!("remove message queue {id}")).map(drop)
}

fn stat(id: i32) -> Result<libc::msqid_ds> {
    // SAFETY: all fields are integers, for which zeros are a value.
    let mut now: libc::msqid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the struct outlives the call, which fills it.
    let result = unsafe { libc::msgctl(id, libc::IPC_STAT, &mut now) };
    check(result.into(), || format!("look at message queue {id}"))?;
    Ok(now)
}

/// Most bytes it takes (`msg_qbytes`).
pub fn limit(id: i32) -> Result<u64> {
    Ok(stat(id)?.msg_qbytes)
}

/// Sets owner, permission bits and most bytes.
pub fn set(wanted: &Permissions, limit: u64) -> Result<()> {
    let mut now = stat(wanted.id)?;
    fill(&mut now.msg_perm, wanted);
    now.msg_qbytes = limit;
    // SAFETY: the struct outlives the call, which reads it.
    let result = unsafe { libc::msgctl(wanted.id, libc::IPC_SET, &mut now) };
    check(result.into(), || format!("set message queue {}", wanted.id)).map(drop)
}

const MSG_COPY: i32 = 0o40000;
/// Before the text of a message: its type.
const TYPE: usize = size_of::<libc::c_long>();

/// The message at a place in a queue, of at most `longest` bytes, with its type: it stays there. None behind the last.
pub fn peek(id: i32, at: u64, longest: usize) -> Result<Option<(i64, Vec<u8>)>> {
    let mut buffer = vec![0u8; TYPE + longest];
    let flags = MSG_COPY | libc::IPC_NOWAIT;
    // SAFETY: the buffer has room for the type and as many bytes of text as are said, and outlives the call.
    let length = unsafe { libc::msgrcv(id, buffer.as_mut_ptr().cast(), longest, at as i64, flags) };
    match check(length as i64, || {
        format!("look at message {at} of queue {id}")
    }) {
        Ok(length) => {
            buffer.truncate(TYPE + length as usize);
            let text = buffer.split_off(TYPE);
            let kind = <[u8; TYPE]>::try_from(buffer).map_or(0, i64::from_ne_bytes);
            Ok(Some((kind, text)))
        }
        Err(e) if e.raw() == Some(libc::ENOMSG) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts a message at a queue's end; fails where the queue is full.
pub fn send(id: i32, kind: i64, text: &[u8]) -> Result<()> {
    let message = [&kind.to_ne_bytes()[..], text].concat();
    // SAFETY: the buffer holds the type and as many bytes of text as are said, and outlives the call.
    let result = unsafe { libc::msgsnd(id, message.as_ptr().cast(), text.len(), libc::IPC_NOWAIT) };
    check(result.into(), || format!("send to message queue {id}")).map(drop)
}
