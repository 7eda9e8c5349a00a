//! Names looked for by inode, where the kernel does not tell them.

use image::path::Name;
use kernel::descriptor::O_DIRECTORY;
use kernel::open::Root;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;

/// How many names are looked at before the search is given up.
const PATIENCE: usize = 200_000;

/// Another name of a file that was unlinked under one: in the same directory, else anywhere on that mount's device.
pub(crate) fn other_name(root: &Root, was: &Name, device: u64, inode: u64) -> Option<Name> {
    let parent = was.as_path().parent()?;
    let mut patience = PATIENCE;
    in_directory(root, parent, device, inode, &mut patience, &mut |_| ())
        .or_else(|| anywhere(root, Path::new("/"), device, inode))
}

/// Breadth first from a directory; other devices are entered too, for mounts lie anywhere.
pub(crate) fn anywhere(root: &Root, from: &Path, device: u64, inode: u64) -> Option<Name> {
    let mut patience = PATIENCE;
    let mut queue = VecDeque::from([from.to_path_buf()]);
    while let Some(directory) = queue.pop_front() {
        // Made up by the kernel: endless, and not what anybody watches by inode.
        if directory == Path::new("/proc") || directory == Path::new("/sys") {
            continue;
        }
        let mut enter = |name: &Path| queue.push_back(name.to_path_buf());
        let found = in_directory(root, &directory, device, inode, &mut patience, &mut enter);
        if found.is_some() || patience == 0 {
            return found;
        }
    }
    None
}

fn in_directory(
    root: &Root,
    directory: &Path,
    device: u64,
    inode: u64,
    patience: &mut usize,
    enter: &mut dyn FnMut(&Path),
) -> Option<Name> {
    let opened: OwnedFd = root.open(directory, O_DIRECTORY).ok()?;
    let listed = format!("/proc/thread-self/fd/{}", opened.as_raw_fd());
    for entry in std::fs::read_dir(listed).ok()? {
        let entry = entry.ok()?;
        *patience = patience.checked_sub(1)?;
        let path = directory.join(entry.file_name());
        let is_directory = entry.file_type().is_ok_and(|t| t.is_dir());
        if is_directory {
            enter(&path);
        }
        // On a mount point the entry's own inode is that of what is covered.
        if entry.ino() != inode && !is_directory {
            continue;
        }
        let found = root.stat(&path).ok();
        if found.is_some_and(|f| (f.device, f.inode) == (device, inode)) {
            return Some(Name(path.as_os_str().as_bytes().to_vec()));
        }
    }
    None
}
