//! An area of our own memory, mapped and unmapped by us, read and written by copy.

use crate::error::check;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Memory mapped by [`Area::map`]; unmapped when dropped.
#[derive(Debug)]
pub struct Area {
    address: usize,
    length: usize,
}

impl Area {
    /// `mmap(2)` at an address of the kernel's choice: `protection` of `PROT_*`, `flags` of `MAP_*`, `file` with the
    /// offset in it in bytes. `MAP_FIXED` is refused: it would replace memory that others use.
    pub fn map(
        length: usize,
        protection: i32,
        flags: i32,
        file: Option<(BorrowedFd, i64)>,
    ) -> Result<Self> {
        if flags & libc::MAP_FIXED != 0 {
            return Err(Error::Unsupported {
                what: "an own area at a fixed address".into(),
            });
        }
        let (fd, offset) = file.map_or((-1, 0), |(fd, offset)| (fd.as_raw_fd(), offset));
        // SAFETY: a null address without MAP_FIXED: the kernel chooses a free range, so that no memory in use changes.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, offset) };
        if address == libc::MAP_FAILED {
            return Err(Error::last(format!("map {length} bytes")));
        }
        Ok(Area {
            address: address as usize,
            length,
        })
    }

    /// Private anonymous memory, readable and writable.
    pub fn private(length: usize) -> Result<Self> {
        Self::map(
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            None,
        )
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address as u64
    }

    /// Its length in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    fn within(&self, offset: usize, length: usize) -> Result<usize> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length => Ok(self.address + offset),
            _ => Err(Error::errno("reach beyond an own area", libc::EFAULT)),
        }
    }

    /// Reads `length` bytes at `offset`; `EFAULT` where the area permits no reading.
    pub fn read(&self, offset: usize, length: usize) -> Result<Vec<u8>> {
        let address = self.within(offset, length)?;
        let mut bytes = vec![0; length];
        crate::vm::read(std::process::id() as i32, address as u64, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes `bytes` at `offset`; `EFAULT` where the area permits no writing.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let address = self.within(offset, bytes.len())?;
        crate::vm::write(std::process::id() as i32, address as u64, bytes)
    }

    /// `mprotect(2)` on a part of it, both in bytes and of whole pages.
    pub fn protect(&self, offset: usize, length: usize, protection: i32) -> Result<()> {
        let address = self.within(offset, length)?;
        // SAFETY: the range lies in this area, which nobody has a reference into: it is read and written by copy only.
        let result = unsafe { libc::mprotect(address as *mut _, length, protection) };
        check(result.into(), || format!("mprotect {address:#x}")).map(|_| ())
    }

    /// `madvise(2)` on a part of it: `MADV_*`.
    pub fn advise(&self, offset: usize, length: usize, advice: i32) -> Result<()> {
        let address = self.within(offset, length)?;
        // SAFETY: the range lies in this area, which nobody has a reference into, so that its contents may change.
        let result = unsafe { libc::madvise(address as *mut _, length, advice) };
        check(result.into(), || format!("madvise {address:#x}")).map(|_| ())
    }

    /// `mlock(2)` on all of it.
    pub fn lock(&self) -> Result<()> {
        // SAFETY: mlock changes no contents; the range is this area.
        let result = unsafe { libc::mlock(self.address as *const _, self.length) };
        check(result.into(), || format!("mlock {:#x}", self.address)).map(|_| ())
    }

    /// `mseal(2)` on all of it: it stays as it is, also when dropped.
    pub fn seal(&self) -> Result<()> {
        const SYS_MSEAL: i64 = 462;
        // SAFETY: mseal changes no contents; the range is this area.
        let result = unsafe { libc::syscall(SYS_MSEAL, self.address, self.length, 0) };
        check(result, || format!("mseal {:#x}", self.address)).map(|_| ())
    }

    /// Two areas of it, cut at `offset` (a multiple of the page size); dropping one leaves a hole.
    pub fn split(self, offset: usize) -> Result<(Area, Area)> {
        let middle = self.within(offset, 0)?;
        let whole = std::mem::ManuallyDrop::new(self);
        Ok((
            Area {
                address: whole.address,
                length: offset,
            },
            Area {
                address: middle,
                length: whole.length - offset,
            },
        ))
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, is ours alone, and nobody has a reference into it.
        unsafe { libc::munmap(self.address as *mut _, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_beyond_the_end() {
        let area = Area::private(8192).unwrap();
        area.write(4095, b"across").unwrap();
        assert_eq!(area.read(4095, 6).unwrap(), b"across");
        assert!(area.read(8190, 4).is_err());
        area.protect(0, 4096, libc::PROT_NONE).unwrap();
        assert!(area.read(0, 1).is_err());
    }
}
