//! Taking a tree: a walk that follows no link, enters no other mount, and reads each file once.
//!
//! What was changed in an overlay is taken from its upper directory, as it lies there; only where that speaks of what lies
//! below (a renamed directory, a file whose attributes alone have changed) it is taken as the container sees it.

use super::overlay::{self, Marks, OPAQUE, Overlay};
use super::{failed, link};
use crate::{Error, Result};
use image::rootfs::Tree;
use image::{Member, MemberKind, Segment, Writer};
use kernel::beneath::{self, Way};
use nix::dir::{Dir, Type};
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
/// What stands for something removed.
const WHITEOUT: MemberKind = MemberKind::CharDevice { major: 0, minor: 0 };
/// What a map of a sparse file is made of (image format: tar's 512 bytes).
const UNIT: u64 = 512;

/// Writes all members of the tree whose root directory this is.
pub(super) fn walk<W: Write>(top: &OwnedFd, tree: Tree, out: &mut Writer<W>) -> Result<()> {
    Walk::new(tree, None, out).all(top, tree)
}

/// Writes what was changed in an overlay; `root` is its root directory as the container sees it.
pub(super) fn changes<W: Write>(
    overlay: &Overlay,
    root: &OwnedFd,
    out: &mut Writer<W>,
) -> Result<()> {
    let upper = overlay.upper(root)?;
    Walk::new(Tree::Changes, Some(overlay), out).all(&upper, Tree::Changes)
}

struct Walk<'a, W: Write> {
    out: &'a mut Writer<W>,
    /// Where the tree begins in the image.
    prefix: PathBuf,
    /// The overlay whose upper directory is walked; none for a tree that is what it shows.
    overlay: Option<&'a Overlay>,
    /// Its merged view, once it was needed.
    merged: Option<OwnedFd>,
    /// Files with more than one name: device, inode, and where it was met first.
    links: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
}

fn stat(fd: &OwnedFd) -> Result<FileStat> {
    fstat(fd).map_err(|e| failed("fstat", e))
}

/// The names in a directory, in the order they travel in, and whether each is a regular file's.
pub(super) fn names(dir: &OwnedFd, path: &Path) -> Result<Vec<(OsString, bool)>> {
    let fail = |e| failed(format!("list {}", path.display()), e);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = Dir::open(&*link(dir.as_fd()), flags, Mode::empty()).map_err(fail)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let is_file = entry.file_type() == Some(Type::File);
            names.push((OsStr::from_bytes(name).to_os_string(), is_file));
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl<'a, W: Write> Walk<'a, W> {
    fn new(tree: Tree, overlay: Option<&'a Overlay>, out: &'a mut Writer<W>) -> Self {
        Walk {
            out,
            prefix: tree.prefix().into(),
            overlay,
            merged: None,
            links: HashMap::new(),
            buffer: vec![0; CHUNK],
        }
    }

    fn all(mut self, top: &OwnedFd, tree: Tree) -> Result<()> {
        let stat = stat(top)?;
        self.directory(top, &stat, &PathBuf::from(tree.prefix()))
    }

    fn directory(&mut self, dir: &OwnedFd, stat: &FileStat, path: &Path) -> Result<()> {
        let (mut member, marks) = self.describe(dir, stat, path, MemberKind::Directory)?;
        if !marks.redirect {
            self.out.member(&member)?.finish()?;
            return self.children(dir, path);
        }
        // Renamed, with what lies below its old place: all of it travels, as the container sees it.
        member.xattrs.insert(OPAQUE.into(), b"y".to_vec());
        self.out.member(&member)?.finish()?;
        let dir = self.merged(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let overlay = self.overlay.take();
        let taken = self.children(&dir, path);
        self.overlay = overlay;
        taken
    }

    fn children(&mut self, dir: &OwnedFd, path: &Path) -> Result<()> {
        for (name, is_file) in names(dir, path)? {
            // A file is opened at once to be read; of others only a place is taken, for opening some does something.
            let flags = match is_file {
                true => OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOATIME,
                false => OFlag::O_PATH,
            };
            let flags = flags | OFlag::O_NOFOLLOW;
            let open = |way, flags| beneath::open(dir.as_fd(), Path::new(&name), way, flags, 0);
            let path = path.join(&name);
            match open(Way::SameMount, flags) {
                Ok(child) => self.child(child, is_file, &path)?,
                // Another mount's: what lies under it is not seen, and nobody needs more of it than a place.
                Err(e) if e.raw() == Some(Errno::EXDEV as i32) => {
                    let place = OFlag::O_PATH | OFlag::O_NOFOLLOW;
                    self.mount_point(&open(Way::Down, place)?, &path)?;
                }
                Err(e) if e.raw() == Some(Errno::ENOENT as i32) => {} // removed meanwhile
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// A file as the container sees it, by its path in the image.
    fn merged(&mut self, path: &Path, flags: OFlag) -> Result<OwnedFd> {
        if self.merged.is_none() {
            self.merged = match self.overlay {
                Some(overlay) => overlay.merged()?,
                None => None,
            };
        }
        let below = path.strip_prefix(&self.prefix).unwrap_or(path);
        match &self.merged {
            Some(merged) => overlay::beneath(merged, below, flags),
            None => Err(Error::Refused(format!(
                "/{} lies partly in a lower layer of the container's root file system (redirect_dir, metacopy), and that \
                 is not mounted here; run checkpoint where the engine that made it runs",
                below.display()
            ))),
        }
    }

    fn mount_point(&mut self, place: &OwnedFd, path: &Path) -> Result<()> {
        let stat = stat(place)?;
        let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => MemberKind::Directory,
            _ => MemberKind::Regular { size: 0 },
        };
        self.member(place, &stat, path, kind)
    }

    /// `readable`: it was opened to be read, because it is a regular file.
    fn child(&mut self, file: OwnedFd, readable: bool, path: &Path) -> Result<()> {
        let stat = stat(&file)?;
        let format = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let (major, minor) = (major(stat.st_rdev) as u32, minor(stat.st_rdev) as u32);
        // An overlay gives the same device to all that was removed, one more name each.
        let removed =
            self.overlay.is_some() && format == SFlag::S_IFCHR && (major, minor) == (0, 0);
        if removed {
            return self.member(&file, &stat, path, WHITEOUT);
        }
        if stat.st_nlink > 1 && format != SFlag::S_IFDIR && format != SFlag::S_IFSOCK {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(target) = self.links.get(&id) {
                let target = target.clone();
                return self.member(&file, &stat, path, MemberKind::HardLink { target });
            }
            self.links.insert(id, path.to_path_buf());
        }
        let kind = match format {
            SFlag::S_IFDIR => return self.directory(&file, &stat, path),
            SFlag::S_IFREG if readable => return self.regular(File::from(file), &stat, path),
            SFlag::S_IFREG => {
                let content = File::open(link(file.as_fd()))
                    .map_err(|e| kernel::Error::io(format!("open {}", path.display()), &e))?;
                return self.regular(content, &stat, path);
            }
            SFlag::S_IFLNK => MemberKind::Symlink {
                target: read_link(&file)
                    .map_err(|e| kernel::Error::io(format!("readlink {}", path.display()), &e))?,
            },
            SFlag::S_IFCHR => MemberKind::CharDevice { major, minor },
            SFlag::S_IFBLK => MemberKind::BlockDevice { major, minor },
            SFlag::S_IFIFO => MemberKind::Fifo,
            // As below, and nothing else is to show at its place.
            _ if self.overlay.is_some() => WHITEOUT,
            // A socket's name is made again by the socket that is bound to it; one that nobody is bound to is a leftover.
            _ => return Ok(()),
        };
        self.member(&file, &stat, path, kind)
    }

    fn regular(&mut self, content: File, stat: &FileStat, path: &Path) -> Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let empty = MemberKind::Regular { size };
        let (mut member, marks) = self.describe(&content, stat, path, empty)?;
        if marks.whiteout {
            member.kind = WHITEOUT;
            return Ok(self.out.member(&member)?.finish()?);
        }
        let (content, blocks) = if marks.metacopy {
            (self.merged(path, OFlag::O_RDONLY)?.into(), 0)
        } else {
            (content, stat.st_blocks)
        };
        let whole = || Segment {
            start: 0,
            len: size,
        };
        // With a block for each of its bytes it has no holes, or none worth a question.
        let segments = if size > 0 && blocks as u64 * UNIT >= size {
            vec![whole()]
        } else {
            segments(&content, size)?
        };
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
            _ => vec![whole()],
        };
        member.kind = kind;
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
        let (member, _) = self.describe(file, stat, path, kind)?;
        Ok(self.out.member(&member)?.finish()?)
    }

    fn describe(
        &self,
        file: &impl AsFd,
        stat: &FileStat,
        path: &Path,
        kind: MemberKind,
    ) -> Result<(Member, Marks)> {
        let mut member = Member::new(path, kind);
        let mut marks = Marks::default();
        member.mode = stat.st_mode & 0o7777;
        member.uid = stat.st_uid;
        member.gid = stat.st_gid;
        member.mtime = stat.st_mtime;
        member.mtime_ns = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        if !matches!(member.kind, MemberKind::HardLink { .. }) {
            member.xattrs = kernel::xattr::all(file.as_fd())?;
        }
        if let Some(overlay) = self.overlay {
            marks = Marks::take(&mut member.xattrs, overlay.options.user_marks);
            if marks.opaque {
                member.xattrs.insert(OPAQUE.into(), b"y".to_vec());
            }
        }
        Ok((member, marks))
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
