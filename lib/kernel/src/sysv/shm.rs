//! Shared memory segments (shmget(2), shmat(2), shmctl(2)).

use super::{Permissions, fill, make_as, rows, table};
use crate::error::{Named, check};
use crate::proc::maps;
use crate::{Error, Result};
use std::fs::File;

/// A segment that is to go with its last user (`SHM_DEST`), in [`Permissions::mode`].
pub const REMOVED: u32 = 0o1000;
/// A segment whose pages stay in memory (`SHM_LOCKED`), in [`Permissions::mode`].
pub const LOCKED: u32 = 0o2000;

/// A segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Numbers, owners, mode.
    pub permissions: Permissions,
    /// Size in bytes, as it was asked for.
    pub size: u64,
    /// How many areas of processes show it.
    pub attached: u64,
    /// Bytes of it that take memory.
    pub resident: u64,
}

/// All segments.
pub fn list() -> Result<Vec<Segment>> {
    parse(&table("shm")?)
}

/// From `/proc/sysvipc/shm`.
pub fn parse(text: &str) -> Result<Vec<Segment>> {
    rows(text)
        .map(|row| {
            Ok(Segment {
                permissions: row.permissions("shmid")?,
                size: row.number("size")?,
                attached: row.number("nattch")?,
                resident: row.number("rss")?,
            })
        })
        .collect()
}

/// Makes a segment that is not there yet, with whatever id comes next.
pub fn make(key: i32, size: u64, mode: i32) -> Result<i32> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | mode;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    // SAFETY: numbers only.
    let made = unsafe { libc::shmget(key, size, flags) };
    Ok(check(made.into(), || format!("make a segment of key {key:#x}"))? as i32)
}

/// `SHM_HUGETLB` with a size of pages, for [`make`].
pub fn huge(page: u64) -> i32 {
    libc::SHM_HUGETLB | (page.trailing_zeros() << libc::MAP_HUGE_SHIFT) as i32
}

/// Makes a segment with the id wanted, which everybody may use until [`set`]; of huge pages where their size is given.
pub fn create(wanted: &Permissions, size: u64, page: Option<u64>) -> Result<()> {
    let make = || make(wanted.key, size, 0o666 | page.map_or(0, huge));
    make_as("shm", wanted, make, |other| drop(remove(other)))
}

fn control(id: i32, command: i32, into: *mut libc::shmid_ds, what: &str) -> Result<()> {
    // SAFETY: `into` is null for commands that take nothing, else a struct of the caller's that outlives the call.
    let result = unsafe { libc::shmctl(id, command, into) };
    check(result.into(), || {
        format!("{what} shared memory segment {id}")
    })
    .map(drop)
}

/// Sets owner and permission bits.
pub fn set(wanted: &Permissions) -> Result<()> {
    // SAFETY: all fields are integers, for which zeros are a value.
    let mut now: libc::shmid_ds = unsafe { std::mem::zeroed() };
    control(wanted.id, libc::IPC_STAT, &mut now, "look at")?;
    fill(&mut now.shm_perm, wanted);
    control(wanted.id, libc::IPC_SET, &mut now, "set the owner of")
}

/// Keeps its pages in memory.
pub fn lock(id: i32) -> Result<()> {
    control(id, libc::SHM_LOCK, std::ptr::null_mut(), "lock")
}

/// Removes it, once nobody shows it any more.
pub fn remove(id: i32) -> Result<()> {
    control(id, libc::IPC_RMID, std::ptr::null_mut(), "remove")
}

/// A segment in our own memory, until dropped; from whichever namespace it is.
#[derive(Debug)]
pub struct Attached {
    id: i32,
    address: usize,
    length: u64,
}

impl Attached {
    /// Attaches a segment of the calling thread's namespace.
    pub fn attach(id: i32) -> Result<Self> {
        Self::attach_with(id, 0)
    }

    /// The same, only to be read.
    pub fn attach_read_only(id: i32) -> Result<Self> {
        Self::attach_with(id, libc::SHM_RDONLY)
    }

    fn attach_with(id: i32, flags: i32) -> Result<Self> {
        // SAFETY: without an address the kernel chooses a free range, so that no memory in use changes.
        let address = unsafe { libc::shmat(id, std::ptr::null(), flags) };
        if address as isize == -1 {
            return Err(Error::last(format!("attach shared memory segment {id}")));
        }
        let mut attached = Attached {
            id,
            address: address as usize,
            length: 0,
        };
        // In whole pages of whatever size.
        let text = std::fs::read("/proc/self/maps").named(|| "read /proc/self/maps".into())?;
        let areas = maps::parse(&text)?;
        let here = |area: &&maps::Area| area.start == attached.address();
        attached.length = areas.iter().find(here).map_or(0, |a| a.end - a.start);
        Ok(attached)
    }

    /// Its id.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Where it lies.
    pub fn address(&self) -> u64 {
        self.address as u64
    }

    /// Its length in bytes, in whole pages.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its contents as a file, also after this is dropped.
    pub fn open(&self) -> Result<File> {
        let (start, end) = (self.address, self.address as u64 + self.length);
        let path = format!("/proc/self/map_files/{start:x}-{end:x}");
        let file = File::options().read(true).write(true).open(&path);
        file.named(|| format!("open {path}"))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: the address came from shmat, and nobody has a reference into the memory there.
        unsafe { libc::shmdt(self.address as *const libc::c_void) };
    }
}
