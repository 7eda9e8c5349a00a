//! `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use crate::error::Named;
use crate::{Error, Pid, Result};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// One line of it; names are bytes as the kernel has them, the octal escapes undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Id of the mount.
    pub id: u32,
    /// Id of the mount it is mounted on.
    pub parent: u32,
    /// Device number of the file system, `major:minor`.
    pub device: String,
    /// The directory of the file system that it shows.
    pub root: Vec<u8>,
    /// Where, seen from the reader's or the process's root.
    pub mountpoint: Vec<u8>,
    /// Options of the mount.
    pub options: Vec<String>,
    /// `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
    pub tags: Vec<String>,
    /// Type of the file system.
    pub fstype: String,
    /// Source of the file system.
    pub source: Vec<u8>,
    /// Options of the file system.
    pub super_options: Vec<String>,
}

/// Reads the text.
pub fn parse(text: &[u8]) -> Result<Vec<Mount>> {
    text.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                Error::unreadable("mountinfo", String::from_utf8_lossy(line).into_owned())
            })
        })
        .collect()
}

/// Reads the file of a process: its mount namespace, as far as its root reaches.
pub fn read(pid: Pid) -> Result<Vec<Mount>> {
    parse(&super::Proc::process(pid).bytes("mountinfo")?)
}

/// Reads all of the mount namespace of a process, also where it did chroot(2).
pub fn of_namespace(pid: Pid) -> Result<Vec<Mount>> {
    if super::Proc::process(pid).link("root")? == Path::new("/") {
        return read(pid);
    }
    let what = || format!("read the mounts of the namespace of process {pid}");
    // Inside, no path leads to what the kernel says of us.
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let proc = nix::fcntl::open("/proc", flags, Mode::empty()).named(what)?;
    let file = crate::within(pid, &[crate::Namespace::Mount], || {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        nix::fcntl::openat(&proc, "thread-self/mountinfo", flags, Mode::empty())
    })?;
    let mut text = Vec::new();
    let read = File::from(file.named(what)?).read_to_end(&mut text);
    read.map_err(|e| Error::io(what(), &e))?;
    parse(&text)
}

/// Reads that of the calling thread.
pub fn read_own() -> Result<Vec<Mount>> {
    let path = "/proc/thread-self/mountinfo";
    parse(&std::fs::read(path).map_err(|e| Error::io(format!("read {path}"), &e))?)
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = text(fields.next()?);
    let root = unescape(fields.next()?);
    let mountpoint = unescape(fields.next()?);
    let options = list(fields.next()?);
    let mut tags = Vec::new();
    loop {
        match fields.next()? {
            b"-" => break,
            tag => tags.push(text(tag)),
        }
    }
    Some(Mount {
        id,
        parent,
        device,
        root,
        mountpoint,
        options,
        tags,
        fstype: text(fields.next()?),
        source: unescape(fields.next()?),
        super_options: list(fields.next()?),
    })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn list(field: &[u8]) -> Vec<String> {
    field.split(|b| *b == b',').map(text).collect()
}

/// Space, tab, newline and backslash are written as `\ooo` (fs/proc_namespace.c, mangle()).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_tags_are_read() {
        let text = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            36 35 98:0 /mnt1 /mnt2 ro,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue\n\
            40 27 0:26 /a\\040b /mnt/new\\012line rw shared:7 - tmpfs none\\134 rw,size=4k\n";
        let mounts = parse(text).unwrap();
        assert_eq!(mounts.len(), 3);
        assert_eq!((mounts[0].id, mounts[0].parent), (27, 1));
        assert_eq!(mounts[0].fstype, "ext4");
        assert!(mounts[0].tags.is_empty());
        assert_eq!(mounts[1].tags, ["master:1", "propagate_from:2"]);
        assert_eq!(mounts[1].root, b"/mnt1");
        assert_eq!(mounts[2].root, b"/a b");
        assert_eq!(mounts[2].mountpoint, b"/mnt/new\nline");
        assert_eq!(mounts[2].source, b"none\\");
        assert_eq!(mounts[2].super_options, ["rw", "size=4k"]);
    }

    #[test]
    fn half_a_line_is_an_error() {
        assert!(parse(b"27 1 254:0 / / rw,relatime\n").is_err());
        assert!(parse(b"x 1 254:0 / / rw - ext4 a b\n").is_err());
    }

    #[test]
    fn our_own_mounts_have_a_root() {
        let mounts = read_own().unwrap();
        assert!(mounts.iter().any(|m| m.mountpoint == b"/"));
    }
}
