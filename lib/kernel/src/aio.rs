//! Queues of asynchronous I/O (io_setup(2)): the ring that each is in the memory of its process, where the kernel puts an
//! event for each request that has ended (fs/aio.c, `struct aio_ring`).

use crate::error::Named;
use crate::remote::{Call, Caller, named};
use crate::{Error, Result};

/// What `/proc/PID/maps` calls the memory of one.
pub const NAME: &[u8] = b"/[aio] (deleted)";
/// Bytes of an event (`struct io_event`), and of what stands before the first one.
pub const EVENT: usize = 32;
/// Where in the ring it says which event is the next to be read: the program's to change.
pub const HEAD: u64 = 8;
const MAGIC: u32 = 0xa10a_10a1;
const PAGE: u64 = 4096;

/// The head of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// Places for events.
    pub slots: u32,
    /// The place of the next event to be read.
    pub head: u32,
    /// The place of the next event to be written; where both are the same, there is none to be read.
    pub tail: u32,
}

impl Ring {
    /// Reads the head of a ring of so many bytes; `None` where it is none.
    pub fn parse(bytes: &[u8; EVENT], length: u64) -> Option<Self> {
        let word = |at: usize| {
            let word = bytes.get(at..at + 4)?;
            Some(u32::from_ne_bytes(word.try_into().ok()?))
        };
        let slots = word(4).filter(|slots| slots_of(length) == Some(*slots))?;
        // The program may write what it likes; the kernel reads it so.
        let (head, tail) = (word(8)? % slots, word(12)? % slots);
        (word(16)? == MAGIC).then_some(Ring { slots, head, tail })
    }

    /// How many events were not read yet.
    pub fn unread(&self) -> u32 {
        (self.tail + self.slots - self.head) % self.slots
    }

    /// Where in the ring the event at this place is; places go round.
    pub fn at(&self, place: u32) -> u64 {
        (u64::from(place % self.slots) + 1) * EVENT as u64
    }
}

/// How many events a ring of so many bytes has a place for; `None` where none has that length.
pub fn slots_of(length: u64) -> Option<u32> {
    let whole = length > 0 && length.is_multiple_of(PAGE);
    let slots = (length / EVENT as u64).checked_sub(1)?;
    u32::try_from(slots).ok().filter(|_| whole)
}

/// The least to ask io_setup(2) for to get a ring of so many bytes, as far as it does not depend on the host: the kernel
/// doubles the number and adds two.
pub fn requests(length: u64) -> u64 {
    match length / PAGE {
        0 | 1 => 1,
        pages => (pages - 1) * (PAGE / EVENT as u64 / 2) - 1,
    }
}

/// How many requests may be on their way or have their event unread at once, on this host: the kernel hands out permits in
/// batches, and what does not fill one stays with it (fs/aio.c, `get_reqs_available`).
pub fn permits(slots: u32, processors: u32) -> u32 {
    let all = slots.saturating_sub(1);
    let batch = (all / processors.max(1).saturating_mul(4)).max(1);
    all - all % batch
}

/// How many processors this host may ever have.
pub fn possible_processors() -> Result<u32> {
    let path = "/sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string(path).named(|| format!("read {path}"))?;
    count(text.trim()).ok_or_else(|| Error::unreadable(path, text))
}

/// `0-3,8`: five.
fn count(list: &str) -> Option<u32> {
    list.split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
            last.checked_sub(first)?.checked_add(1)
        })
        .sum()
}

/// Whether there is any queue on this host.
pub fn any() -> Result<bool> {
    let path = "/proc/sys/fs/aio-nr";
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim() != "0"),
        // A kernel without them.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(format!("read {path}"), &e)),
    }
}

/// Makes a queue in the task; gives the address of its ring.
pub fn setup(task: &mut dyn Caller, requests: u64) -> Result<u64> {
    let at = task.put(&[0; 8])?;
    task.must("io_setup", Call::new(libc::SYS_io_setup, &[requests, at]))?;
    let mut address = [0; 8];
    task.read(at, &mut address)?;
    Ok(u64::from_ne_bytes(address))
}

/// Whether a ring at this address is a queue of the task's: after a fork(2) the child has the memory, and no queue.
pub fn is_queue(task: &mut dyn Caller, ring: u64) -> Result<bool> {
    let look = Call::new(libc::SYS_io_getevents, &[ring]);
    match task.call(look)? {
        result if result == -i64::from(libc::EINVAL) => Ok(false),
        result => named(task.tid(), "io_getevents", result).map(|_| true),
    }
}

/// Requests that do nothing, made in a task: each reads nothing from an empty memory file, and has ended when the call returns.
#[derive(Debug)]
pub struct Requests {
    file: u64,
    /// Where the request is, followed by as many pointers to it as are passed at once.
    at: u64,
    most: u32,
}

/// What tells the events of these requests from all others, together with where the request was.
const MARK: [u8; 8] = *b"\xfeferryio";
/// `struct iocb` (include/uapi/linux/aio_abi.h).
const REQUEST: usize = 64;

impl Requests {
    /// Prepares them in the memory of the task that is ours; nothing else may be put there until [`Self::close`].
    pub fn prepare(task: &mut dyn Caller) -> Result<Self> {
        let (at, length) = task.scratch()?;
        let most = ((length - REQUEST) / 8).min(512);
        task.write(at, &[0])?;
        let flags = libc::MFD_CLOEXEC.into();
        let make = Call::new(libc::SYS_memfd_create, &[at, flags]);
        let file = task.must("memfd_create", make)?;
        let mut bytes = vec![0; REQUEST];
        // aio_data; aio_lio_opcode is 0, IOCB_CMD_PREAD; aio_fildes.
        bytes.splice(0..8, MARK);
        bytes.splice(20..24, (file as u32).to_ne_bytes());
        bytes.extend(at.to_ne_bytes().repeat(most));
        task.write(at, &bytes)?;
        Ok(Requests {
            file,
            at,
            most: most as u32,
        })
    }

    /// Makes at most `count`; says how many there were permits for.
    pub fn make(&self, task: &mut dyn Caller, ring: u64, count: u32) -> Result<u32> {
        let mut made = 0;
        while made < count {
            let now = u64::from(self.most.min(count - made));
            let pointers = self.at + REQUEST as u64;
            let call = Call::new(libc::SYS_io_submit, &[ring, now, pointers]);
            match task.call(call)? {
                result if result == -i64::from(libc::EAGAIN) => break,
                result => match named(task.tid(), "io_submit", result)? as u32 {
                    0 => break,
                    some => made += some,
                },
            }
        }
        Ok(made)
    }

    /// Whether an event is of one of these.
    pub fn made(&self, event: &[u8]) -> bool {
        event.get(..8) == Some(&MARK) && event.get(8..16) == Some(&self.at.to_ne_bytes())
    }

    /// Closes the file.
    pub fn close(self, task: &mut dyn Caller) -> Result<()> {
        let close = Call::new(libc::SYS_close, &[self.file]);
        task.must("close", close).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_known_by_its_length_and_its_mark() {
        let mut bytes = [0; EVENT];
        for (at, word) in [(4, 127), (8, 120), (12, 127 + 3), (16, MAGIC)] {
            bytes[at..at + 4].copy_from_slice(&u32::to_ne_bytes(word));
        }
        let ring = Ring::parse(&bytes, 4096).unwrap();
        assert_eq!((ring.head, ring.tail, ring.unread()), (120, 3, 10));
        assert_eq!((ring.at(0), ring.at(126), ring.at(127)), (32, 4064, 32));
        assert_eq!(Ring::parse(&bytes, 8192), None);
        bytes[16] = 0;
        assert_eq!(Ring::parse(&bytes, 4096), None);
        assert_eq!(slots_of(0), None);
    }

    #[test]
    fn what_is_asked_for_gives_that_length_and_no_other() {
        for pages in 1..40 {
            let asked = requests(pages * PAGE);
            let bytes = |asked: u64| 32 + 32 * (2 * asked + 2);
            assert_eq!(bytes(asked).div_ceil(PAGE), pages);
            assert!(pages == 1 || bytes(asked - 1).div_ceil(PAGE) == pages - 1);
        }
    }

    #[test]
    fn permits_come_in_batches() {
        assert_eq!(permits(127, 2), 120);
        assert_eq!(permits(127, 64), 126);
        assert_eq!(count("0-1"), Some(2));
        assert_eq!(count("0-3,8"), Some(5));
        assert_eq!(count("x"), None);
    }
}
