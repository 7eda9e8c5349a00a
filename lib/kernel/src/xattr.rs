//! Extended attributes (xattr(7)) of a file held by descriptor, also one opened with O_PATH, also a symbolic link.

use crate::error::check;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// XATTR_SIZE_MAX, XATTR_LIST_MAX (include/uapi/linux/limits.h).
const MOST: usize = 65536;

/// What nearly all names of a file, and nearly all values, fit in.
const USUAL: usize = 512;

/// A descriptor opened with O_PATH takes no f*xattr call; the link in `/proc` leads to the very same inode.
fn link(fd: BorrowedFd) -> CString {
    let text = format!("/proc/self/fd/{}", fd.as_raw_fd());
    CString::new(text).unwrap_or_default()
}

fn c_string(name: &OsStr) -> Result<CString> {
    CString::new(name.as_bytes())
        .map_err(|_| Error::unreadable("extended attribute", "a NUL byte in its name"))
}

/// Calls with a small buffer, and where that is too small (ERANGE) with one of the largest size there is.
fn read(call: impl Fn(&mut [u8]) -> isize, what: impl Fn() -> String) -> Result<Vec<u8>> {
    let mut small = [0u8; USUAL];
    match check(call(&mut small) as i64, &what) {
        Ok(len) => Ok(small[..len as usize].to_vec()),
        Err(e) if e.raw() == Some(libc::ERANGE) => {
            let mut large = vec![0u8; MOST];
            let len = check(call(&mut large) as i64, &what)?;
            large.truncate(len as usize);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}

/// All attributes of a file; none where its file system has none.
pub fn all(fd: BorrowedFd) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let what = || "list extended attributes".to_string();
    // SAFETY: the buffer outlives the call, which writes at most as many bytes as it has.
    let direct = read(
        |buffer| unsafe {
            libc::flistxattr(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
        },
        what,
    );
    let names = match direct {
        Err(e) if e.raw() == Some(libc::EBADF) => {
            let path = link(fd);
            // SAFETY: path and buffer outlive the call, which writes at most as many bytes as the buffer has.
            read(
                |buffer| unsafe {
                    libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
                },
                what,
            )
        }
        listed => listed,
    };
    let names = match names {
        Err(e) if e.raw() == Some(libc::EOPNOTSUPP) => Vec::new(),
        names => names?,
    };
    let mut found = BTreeMap::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = OsString::from_vec(name.to_vec());
        if let Some(value) = get(&link(fd), &name)? {
            found.insert(name, value);
        }
    }
    Ok(found)
}

fn get(path: &CString, name: &OsStr) -> Result<Option<Vec<u8>>> {
    let c_name = c_string(name)?;
    // SAFETY: all three outlive the call, which writes at most as many bytes as the buffer has.
    let value = read(
        |buffer| unsafe {
            libc::getxattr(
                path.as_ptr(),
                c_name.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        },
        || format!("extended attribute {name:?}"),
    );
    match value {
        Ok(value) => Ok(Some(value)),
        // Gone since it was listed, or listed by a file system that does not give it out.
        Err(e) if matches!(e.raw(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Takes one attribute away, if it is there.
pub fn remove(fd: BorrowedFd, name: &OsStr) -> Result<()> {
    let (path, c_name) = (link(fd), c_string(name)?);
    // SAFETY: both strings outlive the call.
    let result = unsafe { libc::removexattr(path.as_ptr(), c_name.as_ptr()) };
    match check(result.into(), || {
        format!("remove extended attribute {name:?}")
    }) {
        Err(e) if e.raw() == Some(libc::ENODATA) => Ok(()),
        removed => removed.map(drop),
    }
}

/// Sets one attribute.
pub fn set(fd: BorrowedFd, name: &OsStr, value: &[u8]) -> Result<()> {
    let (path, c_name) = (link(fd), c_string(name)?);
    // SAFETY: all three outlive the call, which reads value.len() bytes.
    let result = unsafe {
        libc::setxattr(
            path.as_ptr(),
            c_name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    check(result.into(), || format!("set extended attribute {name:?}")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn attributes_are_set_and_found_also_by_a_mere_path_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let file = std::fs::File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(&path)
            .unwrap();
        assert!(all(file.as_fd()).unwrap().is_empty());
        set(file.as_fd(), "trusted.ferry".as_ref(), b"\0value").unwrap();
        let found = all(file.as_fd()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[OsStr::new("trusted.ferry")], b"\0value");
        let readable = std::fs::File::open(&path).unwrap();
        let long = vec![b'x'; 3000];
        set(readable.as_fd(), "trusted.long".as_ref(), &long).unwrap();
        assert_eq!(all(readable.as_fd()).unwrap().len(), 2);
        assert_eq!(all(file.as_fd()).unwrap()[OsStr::new("trusted.long")], long);
        remove(file.as_fd(), "trusted.ferry".as_ref()).unwrap();
        remove(file.as_fd(), "trusted.ferry".as_ref()).unwrap();
        assert_eq!(all(file.as_fd()).unwrap().len(), 1);
    }
}
