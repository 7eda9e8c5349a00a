//! Extended attributes (xattr(7)) of a file held by descriptor, also one opened with O_PATH, also a symbolic link.

use crate::error::check;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// XATTR_SIZE_MAX, XATTR_LIST_MAX (include/uapi/linux/limits.h).
const MOST: usize = 65536;

/// A descriptor opened with O_PATH takes no f*xattr call; the link in `/proc` leads to the very same inode.
fn link(fd: BorrowedFd) -> CString {
    let text = format!("/proc/self/fd/{}", fd.as_raw_fd());
    CString::new(text).unwrap_or_default()
}

fn c_string(name: &OsStr) -> Result<CString> {
    CString::new(name.as_bytes())
        .map_err(|_| Error::unreadable("extended attribute", "a NUL byte in its name"))
}

/// All attributes of a file; none where its file system has none.
pub fn all(fd: BorrowedFd) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let path = link(fd);
    let mut names = vec![0u8; MOST];
    // SAFETY: path and names outlive the call, which writes at most names.len() bytes.
    let len = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let len = match check(len as i64, || "list extended attributes".into()) {
        Ok(len) => len as usize,
        Err(e) if e.raw() == Some(libc::EOPNOTSUPP) => 0,
        Err(e) => return Err(e),
    };
    let mut found = BTreeMap::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = OsString::from_vec(name.to_vec());
        if let Some(value) = get(&path, &name)? {
            found.insert(name, value);
        }
    }
    Ok(found)
}

fn get(path: &CString, name: &OsStr) -> Result<Option<Vec<u8>>> {
    let c_name = c_string(name)?;
    let mut value = vec![0u8; MOST];
    // SAFETY: all three outlive the call, which writes at most value.len() bytes.
    let len = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c_name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    match check(len as i64, || format!("extended attribute {name:?}")) {
        Ok(len) => {
            value.truncate(len as usize);
            Ok(Some(value))
        }
        // Gone since it was listed, or listed by a file system that does not give it out.
        Err(e) if matches!(e.raw(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
        Err(e) => Err(e),
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
    }
}
