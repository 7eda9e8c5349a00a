//! File locks: seen in fdinfo, which shows each descriptor's own, and taken again in the process that held them.

use crate::files::borrowed::Seen;
use crate::files::table;
use crate::target::TargetTask;
use crate::{Error, Result};
use image::files::table::{Descriptor, Table};
use image::locks::{Class, Lock};
use kernel::remote::{Call, Caller, named};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long others may hold a lock yet: the processes it was taken from, on this same host, that are about to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes those of one descriptor table.
pub(crate) fn dump(seen: &[Seen], descriptors: &[Descriptor]) -> Result<Vec<Lock>> {
    let mut found = Vec::new();
    let mut known = HashSet::new();
    for (file, descriptor) in seen.iter().zip(descriptors) {
        for lock in &file.fdinfo.locks {
            let class = match lock.class.as_str() {
                "POSIX" => Class::Posix,
                "OFDLCK" => Class::Ofd,
                "FLOCK" => Class::Flock,
                "LEASE" if lock.state == "ACTIVE" => Class::Lease,
                other => {
                    return Err(Error::Refused(format!(
                        "{}: a lock of kind {other} {} on {}; release it first",
                        file.holder, lock.state, file.link
                    )));
                }
            };
            // Duplicates of a descriptor show the same lock.
            if known.insert((
                descriptor.file,
                class,
                lock.kind.clone(),
                lock.start,
                lock.end,
            )) {
                found.push(Lock {
                    number: descriptor.number,
                    class,
                    exclusive: lock.kind == "WRITE",
                    start: lock.start,
                    end: lock.end,
                });
            }
        }
    }
    Ok(found)
}

const F_SETLK: u64 = 6;
const F_OFD_SETLK: u64 = 37;
const F_SETLEASE: u64 = 1024;
const F_RDLCK: u16 = 0;
const F_WRLCK: u16 = 1;
const LOCK_SH: u64 = 1;
const LOCK_EX: u64 = 2;
const LOCK_NB: u64 = 4;

/// Takes them again.
pub(crate) fn resume(table: &Table, task: &mut TargetTask) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for lock in &table.locks {
        let number = table::number(lock.number)? as u64;
        let kind = if lock.exclusive { F_WRLCK } else { F_RDLCK };
        let call = match lock.class {
            Class::Flock => {
                let how = if lock.exclusive { LOCK_EX } else { LOCK_SH };
                Call::new(libc::SYS_flock, &[number, how | LOCK_NB])
            }
            Class::Lease => Call::new(libc::SYS_fcntl, &[number, F_SETLEASE, kind.into()]),
            Class::Posix | Class::Ofd => {
                let at = task.stub.put(&flock(kind, lock)?)?;
                let command = match lock.class {
                    Class::Ofd => F_OFD_SETLK,
                    _ => F_SETLK,
                };
                Call::new(libc::SYS_fcntl, &[number, command, at])
            }
        };
        let what = format!(
            "lock descriptor {number} of process {} again (somebody else here may hold that lock)",
            task.inside
        );
        let mut result = task.stub.call(call)?;
        while result == -i64::from(libc::EAGAIN) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            result = task.stub.call(call)?;
        }
        named(task.stub.tid(), &what, result)?;
    }
    Ok(())
}

/// `struct flock` (include/uapi/asm-generic/fcntl.h), from the start of the file.
fn flock(kind: u16, lock: &Lock) -> Result<Vec<u8>> {
    let wrong = || {
        Error::Refused(format!(
            "a lock of descriptor {} ends before it starts",
            lock.number
        ))
    };
    let length = match lock.end {
        None => 0,
        Some(end) => end
            .checked_sub(lock.start)
            .and_then(|n| n.checked_add(1))
            .ok_or_else(wrong)?,
    };
    let mut bytes = Vec::with_capacity(32);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&lock.start.to_ne_bytes());
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(start: u64, end: Option<u64>) -> Lock {
        Lock {
            number: 3,
            class: Class::Posix,
            exclusive: true,
            start,
            end,
        }
    }

    #[test]
    fn a_lock_to_the_end_has_length_0() {
        let length = |lock| flock(F_WRLCK, &lock).unwrap()[16..24].to_vec();
        assert_eq!(length(lock(1, Some(3))), 3u64.to_ne_bytes());
        assert_eq!(length(lock(10, None)), 0u64.to_ne_bytes());
        assert!(flock(F_WRLCK, &lock(4, Some(3))).is_err());
        assert!(flock(F_WRLCK, &lock(0, Some(u64::MAX))).is_err());
    }
}
