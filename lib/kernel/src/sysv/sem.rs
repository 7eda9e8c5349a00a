//! Semaphore sets (semget(2), semop(2), semctl(2)).

use super::{Permissions, fill, make_as, rows, table};
use crate::error::check;
use crate::{Pid, Result};

/// A set of semaphores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// Numbers, owners, mode.
    pub permissions: Permissions,
    /// How many there are in it.
    pub count: u32,
    /// Whether semop(2) has ever changed one of them (`sem_otime`): programs take it for the sign that they are ready.
    pub used: bool,
}

/// All sets.
pub fn list() -> Result<Vec<Set>> {
    parse(&table("sem")?)
}

/// From `/proc/sysvipc/sem`.
pub fn parse(text: &str) -> Result<Vec<Set>> {
    rows(text)
        .map(|row| {
            Ok(Set {
                permissions: row.permissions("semid")?,
                count: row.number("nsems")?,
                used: row.number::<i64>("otime")? != 0,
            })
        })
        .collect()
}

/// Makes a set that is not there yet, with whatever id comes next.
pub fn make(key: i32, count: u32, mode: i32) -> Result<i32> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | mode;
    // SAFETY: numbers only.
    let made = unsafe { libc::semget(key, count as i32, flags) };
    Ok(check(made.into(), || {
        format!("make a semaphore set of key {key:#x}")
    })? as i32)
}

/// Makes a set with the id wanted, which everybody may use until [`set`].
pub fn create(wanted: &Permissions, count: u32) -> Result<()> {
    let make = || make(wanted.key, count, 0o666);
    make_as("sem", wanted, make, |other| drop(remove(other)))
}

/// Removes it at once.
pub fn remove(id: i32) -> Result<()> {
    // SAFETY: numbers only.
    let result = unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
    check(result.into(), || format!("remove semaphore set {id}")).map(drop)
}

/// Sets owner and permission bits.
pub fn set(wanted: &Permissions) -> Result<()> {
    let what = || format!("set the owner of semaphore set {}", wanted.id);
    // SAFETY: all fields are integers, for which zeros are a value.
    let mut now: libc::semid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the struct outlives the call, which fills it.
    let result = unsafe { libc::semctl(wanted.id, 0, libc::IPC_STAT, &mut now) };
    check(result.into(), what)?;
    fill(&mut now.sem_perm, wanted);
    // SAFETY: the struct outlives the call, which reads it.
    let result = unsafe { libc::semctl(wanted.id, 0, libc::IPC_SET, &mut now) };
    check(result.into(), what).map(drop)
}

const GETALL: i32 = 13;
const SETALL: i32 = 17;
const GETPID: i32 = 11;

/// The values of a set of `count`.
pub fn values(id: i32, count: u32) -> Result<Vec<u16>> {
    let mut values = vec![0u16; count as usize];
    // The set may have been replaced by one of another size: never believe in it.
    let now = list()?.into_iter().find(|set| set.permissions.id == id);
    if now.map(|set| set.count) != Some(count) {
        return Err(crate::Error::errno(
            format!("look at semaphore set {id}"),
            libc::EIDRM,
        ));
    }
    // SAFETY: the array has as many values as the set has semaphores, which the call fills.
    let result = unsafe { libc::semctl(id, 0, GETALL, values.as_mut_ptr()) };
    check(result.into(), || format!("values of semaphore set {id}"))?;
    Ok(values)
}

/// Sets the values of a set of as many semaphores. All adjustments for it (`SEM_UNDO`) are gone.
pub fn set_values(id: i32, values: &[u16]) -> Result<()> {
    // SAFETY: the array has as many values as the set, which the caller has made, has semaphores.
    let result = unsafe { libc::semctl(id, 0, SETALL, values.as_ptr()) };
    check(result.into(), || format!("set semaphore set {id}")).map(drop)
}

/// Who changed a semaphore last (`sempid`), in our pid namespace; 0 for one that is not in it.
pub fn last_pid(id: i32, number: u32) -> Result<Pid> {
    // SAFETY: numbers only.
    let pid = unsafe { libc::semctl(id, number as i32, GETPID) };
    Ok(check(pid.into(), || {
        format!("last user of semaphore {number} of set {id}")
    })? as Pid)
}

/// One operation on one semaphore, `struct sembuf`, which never waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    number: u16,
    change: i16,
    undo: bool,
}

impl Operation {
    /// Adds `change`; 0: fails unless the value is 0.
    pub fn new(number: u16, change: i16) -> Self {
        Operation {
            number,
            change,
            undo: false,
        }
    }

    /// The same, taken back when the process ends (`SEM_UNDO`).
    pub fn undone(self) -> Self {
        Operation { undo: true, ..self }
    }

    fn buffer(self) -> libc::sembuf {
        let undo = if self.undo { libc::SEM_UNDO } else { 0 };
        libc::sembuf {
            sem_num: self.number,
            sem_op: self.change,
            sem_flg: (undo | libc::IPC_NOWAIT) as i16,
        }
    }

    /// As a task's memory holds it.
    pub fn bytes(self) -> [u8; 6] {
        let buffer = self.buffer();
        let [n0, n1] = buffer.sem_num.to_ne_bytes();
        let [c0, c1] = buffer.sem_op.to_ne_bytes();
        let [f0, f1] = buffer.sem_flg.to_ne_bytes();
        [n0, n1, c0, c1, f0, f1]
    }
}

/// Does all operations at once, or none.
pub fn operate(id: i32, operations: &[Operation]) -> Result<()> {
    let mut buffers: Vec<libc::sembuf> = operations.iter().map(|o| o.buffer()).collect();
    // SAFETY: the array has as many operations as are said, and outlives the call.
    let result = unsafe { libc::semop(id, buffers.as_mut_ptr(), buffers.len()) };
    check(result.into(), || format!("semop on set {id}")).map(drop)
}
