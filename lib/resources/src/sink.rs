//! Bytes put into a file, whatever file system it lies in: hugetlbfs knows no writing, only mappings, and has no pages to
//! spare for zeros.

use crate::{Blocker, Error, Result};
use kernel::descriptor;
use kernel::own::Area;
use std::os::fd::BorrowedFd;

/// A file of our own, open for reading and writing, that is being filled.
pub(crate) struct Sink<'a> {
    fd: BorrowedFd<'a>,
    huge: Option<Huge>,
}

struct Huge {
    page: u64,
    mapped: Area,
    /// How many pages, from the beginning, were looked at.
    reached: u64,
}

impl<'a> Sink<'a> {
    /// A file that will be so many bytes long.
    pub fn new(fd: BorrowedFd<'a>, size: u64) -> Result<Self> {
        let huge = match descriptor::huge_page(fd)?.filter(|_| size > 0) {
            None => None,
            Some(page) => {
                descriptor::truncate(fd, size)?;
                let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
                let access = libc::PROT_READ | libc::PROT_WRITE;
                let mapped = Area::map(size as usize, access, flags, Some((fd, 0)))?;
                Some(Huge {
                    page,
                    mapped,
                    reached: 0,
                })
            }
        };
        Ok(Sink { fd, huge })
    }

    /// Puts bytes at this offset; later ones come later.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(huge) = &mut self.huge else {
            return Ok(descriptor::write_at(self.fd, offset, bytes)?);
        };
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = (at - at % huge.page) + huge.page;
            let (now, behind) = rest.split_at(((end - at) as usize).min(rest.len()));
            if now.iter().any(|byte| *byte != 0) {
                if huge.reached < end {
                    // Asked for beforehand: a page that is not there would be a fault.
                    match descriptor::allocate(self.fd, end - huge.page, huge.page) {
                        Err(e) if matches!(e.raw(), Some(libc::ENOSPC | libc::ENOMEM)) => {
                            return Err(too_few());
                        }
                        allocated => allocated?,
                    }
                    huge.reached = end;
                }
                huge.mapped.write(at as usize, now)?;
            }
            at += now.len() as u64;
            rest = behind;
        }
        Ok(())
    }
}

/// What is said where hugetlbfs has no pages left.
pub(crate) fn too_few() -> Error {
    Error::Blocked(vec![Blocker {
        pid: 0,
        place: "this host".into(),
        what: "there are not enough free huge pages of hugetlbfs".into(),
        remedy: "write more to /proc/sys/vm/nr_hugepages".into(),
    }])
}
