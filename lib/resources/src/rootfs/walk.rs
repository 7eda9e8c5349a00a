//! Taking a tree: a walk that follows no link, enters no other mount, and reads each file once.

use super::{failed, link};
use crate::Result;
use image::rootfs::Tree;
use image::{Member, MemberKind, Segment, Writer};
use kernel::beneath::{self, Way};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, minor};
use nix::unistd::{Whence, lseek};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const CHUNK: usize = 1 << 20;
/// What a map of a sparse file is made of (image format: tar's 512 bytes).
const UNIT: u64 = 512;

/// Writes all members of the tree whose root directory this is.
pub(super) fn walk<W: Write>(top: &OwnedFd, tree: Tree, out: &mut Writer<W>) -> Result<()> {
    let mut walk = Walk {
        out,
        links: HashMap::new(),
        buffer: vec![0; CHUNK],
    };
    let path = PathBuf::from(tree.prefix());
    let stat = stat(top)?;
    walk.member(top, &stat, &path, MemberKind::Directory)?;
    walk.children(top, &path)
}

struct Walk<'a, W: Write> {
    out: &'a mut Writer<W>,
    /// Files with more than one name: device, inode, and where it was met first.
    links: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
}

fn stat(fd: &OwnedFd) -> Result<FileStat> {
    fstat(fd).map_err(|e| failed("fstat", e))
}

/// The names in a directory, in the order they travel in.
fn names(dir: &OwnedFd, path: &Path) -> Result<Vec<OsString>> {
    let fail = |e| failed(format!("list {}", path.display()), e);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = Dir::open(&*link(dir.as_fd()), flags, Mode::empty()).map_err(fail)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_os_string());
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl<W: Write> Walk<'_, W> {
    fn children(&mut self, dir: &OwnedFd, path: &Path) -> Result<()> {
        for name in names(dir, path)? {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
            let open = |way| beneath::open(dir.as_fd(), Path::new(&name), way, flags, 0);
            let path = path.join(&name);
            match open(Way::SameMount) {
                Ok(child) => self.child(&child, &path)?,
                // Another mount's: what lies under it is not seen, and nobody needs more of it than a place.
                Err(e) if e.raw() == Some(Errno::EXDEV as i32) => {
                    self.mount_point(&open(Way::Down)?, &path)?;
                }
                Err(e) if e.raw() == Some(Errno::ENOENT as i32) => {} // removed meanwhile
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn mount_point(&mut self, place: &OwnedFd, path: &Path) -> Result<()> {
        let stat = stat(place)?;
        let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => MemberKind::Directory,
            _ => MemberKind::Regular { size: 0 },
        };
        self.member(place, &stat, path, kind)
    }

    fn child(&mut self, file: &OwnedFd, path: &Path) -> Result<()> {
        let stat = stat(file)?;
        let format = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if stat.st_nlink > 1 && format != SFlag::S_IFDIR && format != SFlag::S_IFSOCK {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(target) = self.links.get(&id) {
                let target = target.clone();
                return self.member(file, &stat, path, MemberKind::HardLink { target });
            }
            self.links.insert(id, path.to_path_buf());
        }
        let (major, minor) = (major(stat.st_rdev) as u32, minor(stat.st_rdev) as u32);
        let kind = match format {
            SFlag::S_IFDIR => {
                self.member(file, &stat, path, MemberKind::Directory)?;
                return self.children(file, path);
            }
            SFlag::S_IFREG => return self.regular(file, &stat, path),
            SFlag::S_IFLNK => MemberKind::Symlink {
                target: read_link(file)
                    .map_err(|e| kernel::Error::io(format!("readlink {}", path.display()), &e))?,
            },
            SFlag::S_IFCHR => MemberKind::CharDevice { major, minor },
            SFlag::S_IFBLK => MemberKind::BlockDevice { major, minor },
            SFlag::S_IFIFO => MemberKind::Fifo,
            // A socket's name is made again by the socket that is bound to it; one that nobody is bound to is a leftover.
            _ => return Ok(()),
        };
        self.member(file, &stat, path, kind)
    }

    fn regular(&mut self, file: &OwnedFd, stat: &FileStat, path: &Path) -> Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let content = File::open(link(file.as_fd()))
            .map_err(|e| kernel::Error::io(format!("open {}", path.display()), &e))?;
        let segments = segments(&content, size)?;
        let kind = match &segments[..] {
            [one] if one.start == 0 && one.len == size => MemberKind::Regular { size },
            [] if size == 0 => MemberKind::Regular { size },
            many if many.len() > image::format::MAX_SEGMENTS => MemberKind::Regular { size },
            _ => MemberKind::Sparse {
                size,
                segments: segments.clone(),
            },
        };
        let parts = match kind {
            MemberKind::Sparse { .. } => segments,
            _ => vec![Segment {
                start: 0,
                len: size,
            }],
        };
        let member = self.describe(file, stat, path, kind)?;
        let mut entry = self.out.member(&member)?;
        for part in parts {
            let mut at = part.start;
            let end = part.start + part.len;
            while at < end {
                let want = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
                let chunk = &mut self.buffer[..want];
                let got = fill(&content, chunk, at)
                    .map_err(|e| kernel::Error::io(format!("read {}", path.display()), &e))?;
                // A file that has grown shorter meanwhile ends in zeros, as if it had been cut and grown again.
                chunk[got..].fill(0);
                entry.put(chunk)?;
                at += want as u64;
            }
        }
        Ok(entry.finish()?)
    }

    fn member(
        &mut self,
        file: &OwnedFd,
        stat: &FileStat,
        path: &Path,
        kind: MemberKind,
    ) -> Result<()> {
        let member = self.describe(file, stat, path, kind)?;
        Ok(self.out.member(&member)?.finish()?)
    }

    fn describe(
        &self,
        file: &OwnedFd,
        stat: &FileStat,
        path: &Path,
        kind: MemberKind,
    ) -> Result<Member> {
        let mut member = Member::new(path, kind);
        member.mode = stat.st_mode & 0o7777;
        member.uid = stat.st_uid;
        member.gid = stat.st_gid;
        member.mtime = stat.st_mtime;
        member.mtime_ns = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        if !matches!(member.kind, MemberKind::HardLink { .. }) {
            member.xattrs = kernel::xattr::all(file.as_fd())?;
        }
        Ok(member)
    }
}

/// readlinkat(2) with an empty path reads the link that a descriptor is of.
fn read_link(file: &OwnedFd) -> std::io::Result<PathBuf> {
    Ok(nix::fcntl::readlinkat(file, "")?.into())
}

fn fill(file: &File, chunk: &mut [u8], at: u64) -> std::io::Result<usize> {
    use std::os::unix::fs::FileExt;
    let mut done = 0;
    while let Some(rest) = chunk.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Where a file has data (lseek(2), SEEK_DATA): starts and ends made multiples of 512, except an end at the file's.
fn segments(file: &File, size: u64) -> Result<Vec<Segment>> {
    let mut found: Vec<Segment> = Vec::new();
    let mut at = 0u64;
    let seek = |at: u64, whence| lseek(file, at as i64, whence);
    while at < size {
        let start = match seek(at, Whence::SeekData) {
            Ok(start) => start as u64,
            Err(Errno::ENXIO) => break, // a hole to the end
            Err(_) => at,               // no such question to this file system: all is data
        };
        let end = seek(start, Whence::SeekHole).map_or(size, |end| end as u64);
        let start = start / UNIT * UNIT;
        let end = end.next_multiple_of(UNIT).min(size);
        if end <= start {
            break;
        }
        match found.last_mut() {
            Some(last) if last.start + last.len >= start => last.len = end - last.start,
            _ => found.push(Segment {
                start,
                len: end - start,
            }),
        }
        at = end;
    }
    Ok(found)
}
