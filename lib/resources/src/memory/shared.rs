//! Memory that mappings share and no path leads to: shared anonymous memory, and memory files and files without a name
//! that nobody has a descriptor of any more. What has a descriptor travels with the files.

use super::rings::Rings;
use super::segments::{self, Segments};
use crate::sink::too_few;
use crate::{Error, Result, Target};
use image::format::{Pages, Range, Space};
use image::ids::SharedId;
use image::memory::areas::is_huge;
use image::memory::shared::{Object, Objects, Shared};
use image::path::Name;
use kernel::descriptor::{self, Stat};
use kernel::open::Root;
use kernel::own::Area;
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// All of a container's, while it is being taken.
#[derive(Debug, Default)]
pub struct Inodes {
    known: HashMap<(u64, u64), SharedId>,
    /// Queues of asynchronous I/O.
    pub(super) rings: Rings,
    /// Segments of System V.
    pub(super) segments: Segments,
    /// This room's, each held open for reading.
    pub(super) own: Vec<(Shared, OwnedFd)>,
}

/// What the kernel appends to the name of a file that has none any more (fs/d_path.c).
pub(super) const DELETED: &[u8] = b" (deleted)";

impl Inodes {
    /// Those that have a descriptor, and so travel with the files, by device and inode: [`crate::Source::objects`].
    pub fn beside(files: &HashMap<(u64, u64), SharedId>) -> Self {
        Inodes {
            known: files.clone(),
            ..Inodes::default()
        }
    }

    /// With the queues of asynchronous I/O that were found.
    pub fn with(mut self, rings: Rings) -> Self {
        self.rings = rings;
        self
    }

    /// The id of the inode that `fd`, ours, is open on; where it was not met before, this room takes it.
    pub(super) fn take(&mut self, fd: OwnedFd) -> Result<SharedId> {
        let stat = descriptor::stat(fd.as_fd())?;
        let key = (stat.device, stat.inode);
        if let Some(id) = self.known.get(&key) {
            return Ok(*id);
        }
        let id = self.next();
        let shared = Shared {
            id,
            object: object(fd.as_fd(), &stat)?,
            size: stat.size,
        };
        self.known.insert(key, id);
        self.own.push((shared, fd));
        Ok(id)
    }

    /// The next id that is free.
    pub(super) fn next(&self) -> SharedId {
        let met = self.known.values().copied().chain(self.met());
        SharedId(met.map(|id| id.0 + 1).max().unwrap_or(1))
    }

    /// The record, to be written before any address space.
    pub fn dump(&self) -> Objects {
        Objects {
            objects: self.own.iter().map(|(shared, _)| shared.clone()).collect(),
        }
    }

    /// Writes the contents, holes left out: right behind the record.
    pub fn write_pages<W: Write>(&self, writer: &mut image::Writer<W>) -> Result<()> {
        for (shared, fd) in &self.own {
            // Extents need not be whole pages; two may meet in one.
            let mut ranges: Vec<Range> = Vec::new();
            let length = shared.length().unwrap_or(shared.size);
            for (start, len) in descriptor::extents(fd.as_fd(), length)? {
                let end = (start + len).next_multiple_of(super::PAGE);
                let start = start - start % super::PAGE;
                match ranges.last_mut() {
                    Some(last) if last.start + last.len >= start => last.len = end - last.start,
                    _ => ranges.push(Range {
                        start,
                        len: end - start,
                    }),
                }
            }
            for chunk in ranges.chunks(super::pages::RANGES) {
                let mut entry = writer.pages(&Pages {
                    space: Space::Shared(shared.id),
                    ranges: chunk.to_vec(),
                })?;
                copy(fd.as_fd(), length, chunk, |bytes| Ok(entry.put(bytes)?))?;
                entry.finish()?;
            }
        }
        Ok(())
    }
}

fn object(fd: BorrowedFd, stat: &Stat) -> Result<Object> {
    let name = kernel::proc::name_of(fd)?;
    let name = name.as_os_str().as_bytes();
    let name = name.strip_suffix(DELETED).unwrap_or(name);
    let (mode, uid, gid) = (stat.permissions(), stat.uid, stat.gid);
    Ok(match name {
        // mm/shmem.c, shmem_zero_setup.
        b"/dev/zero" => Object::Anonymous {},
        // fs/hugetlbfs/inode.c, hugetlb_file_setup.
        b"/anon_hugepage" => Object::Hugetlb {
            page: descriptor::huge_page(fd)?.unwrap_or(super::PAGE),
        },
        _ => match name.strip_prefix(b"/memfd:") {
            Some(name) => Object::Memfd {
                name: Name(name.to_vec()),
                seals: descriptor::seals(fd)? as u32,
                mode,
                uid,
                gid,
                page: descriptor::huge_page(fd)?,
            },
            None => Object::Deleted {
                path: Name(name.to_vec()),
                mode,
                uid,
                gid,
            },
        },
    })
}

fn copy(
    fd: BorrowedFd,
    size: u64,
    ranges: &[Range],
    mut put: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; super::pages::CHUNK];
    for range in ranges {
        let mut at = range.start;
        while at < range.start + range.len {
            let len = (range.start + range.len - at).min(buffer.len() as u64);
            let part = buffer.get_mut(..len as usize).unwrap_or_default();
            // The object may end within its last page.
            let there = (size.saturating_sub(at)).min(len) as usize;
            let (bytes, beyond) = part.split_at_mut(there);
            descriptor::read_at(fd, at, bytes)?;
            beyond.fill(0);
            put(part)?;
            at += len;
        }
    }
    Ok(())
}

/// Makes the objects on our side, without contents: as the kernel makes them, so that their mappings read as before.
pub fn restore(objects: &Objects, target: &mut Target) -> Result<()> {
    let root = Root::of(target.root_pid)?;
    for shared in &objects.objects {
        if shared.size > MAX_SIZE {
            return Err(Error::Refused(format!(
                "memory object {} has {} bytes, more than there can be",
                shared.id.0, shared.size
            )));
        }
        let fd = match &shared.object {
            Object::Anonymous {} => anonymous(shared, libc::MAP_NORESERVE)?,
            Object::Hugetlb { page } => hugetlb(shared, *page)?,
            Object::Memfd {
                name,
                mode,
                uid,
                gid,
                page,
                ..
            } => {
                let name = CString::new(name.0.clone()).map_err(|_| {
                    Error::Refused(format!(
                        "memory object {} has a NUL in its name",
                        shared.id.0
                    ))
                })?;
                let fd = descriptor::memfd_of(&name, *page)?;
                own(&fd, shared.size, *mode, *uid, *gid)?;
                fd
            }
            Object::Segment {
                of,
                permissions,
                page,
                ..
            } => {
                let there = target.queues_of(*of)?;
                let made = segments::restore(there, permissions, shared.size, *page)?;
                target.segments.insert(shared.id, made.0);
                made.1
            }
            Object::Deleted {
                path,
                mode,
                uid,
                gid,
            } => {
                let fd = nameless(&root, path.as_path())?;
                own(&fd, shared.size, *mode, *uid, *gid)?;
                fd
            }
        };
        if target.objects.insert(shared.id, fd).is_some() {
            return Err(Error::Refused(format!(
                "memory object {} is in the image twice",
                shared.id.0
            )));
        }
    }
    Ok(())
}

/// More than any machine shares (46 bits of addresses).
const MAX_SIZE: u64 = 1 << 46;

fn own(fd: &OwnedFd, size: u64, mode: u32, uid: u32, gid: u32) -> Result<()> {
    descriptor::truncate(fd.as_fd(), size)?;
    descriptor::chown(fd.as_fd(), uid, gid)?;
    Ok(descriptor::chmod(fd.as_fd(), mode)?)
}

/// `MAP_HUGETLB` with a size of pages (mmap(2)).
pub(super) fn huge_flags(page: u64) -> i32 {
    libc::MAP_HUGETLB | (page.trailing_zeros() << libc::MAP_HUGE_SHIFT) as i32
}

fn hugetlb(shared: &Shared, page: u64) -> Result<OwnedFd> {
    if !is_huge(page) || !shared.size.is_multiple_of(page) {
        return Err(Error::Refused(format!(
            "memory object {} is not one of whole huge pages",
            shared.id.0
        )));
    }
    anonymous(shared, huge_flags(page)).map_err(|error| match error {
        Error::Kernel(error) if error.raw() == Some(libc::ENOMEM) => too_few(),
        error => error,
    })
}

fn anonymous(shared: &Shared, flags: i32) -> Result<OwnedFd> {
    let span = shared
        .span()
        .filter(|span| *span > 0)
        .ok_or_else(|| Error::Refused(format!("memory object {} has no size", shared.id.0)))?;
    let area = Area::map(
        span as usize,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS | flags,
        None,
    )?;
    let (start, end) = (area.address(), area.address() + span);
    let path = format!("/proc/self/map_files/{start:x}-{end:x}");
    let file = File::options().read(true).write(true).open(&path);
    Ok(file
        .map_err(|e| kernel::Error::io(format!("open {path}"), &e))?
        .into())
}

/// A file that had this name and has it no more. Where another has it now, one that never had a name.
fn nameless(root: &Root, path: &Path) -> Result<OwnedFd> {
    match root.create(path, libc::O_RDWR, 0o600) {
        Ok(fd) => {
            root.remove(path, false)?;
            Ok(fd)
        }
        Err(e) if e.raw() == Some(libc::EEXIST) => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            Ok(root.nameless(parent, 0o600)?)
        }
        Err(e) => Err(e.into()),
    }
}

/// Seals memory files: once their contents are there, and before anything is mapped, which the seals may forbid.
pub fn seal(objects: &Objects, made: &HashMap<SharedId, OwnedFd>) -> Result<()> {
    for shared in &objects.objects {
        let (Object::Memfd { seals, .. }, Some(fd)) = (&shared.object, made.get(&shared.id)) else {
            continue;
        };
        let missing = *seals as i32 & !descriptor::seals(fd.as_fd())?;
        if missing != 0 {
            descriptor::add_seals(fd.as_fd(), missing)?;
        }
    }
    Ok(())
}
