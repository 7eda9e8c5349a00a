//! What an area maps: found out at the source, opened again at the target, where a file must still be the same.

use super::segments;
use super::shared::DELETED;
use crate::files::search;
use crate::namespaces::is_own;
use crate::namespaces::mount::{beginning, covered};
use crate::{Blocker, Error, Result};
use image::ids::MountId;
use image::memory::File;
use image::path::Name;
use kernel::Pid;
use kernel::elf;
use kernel::namespaces::Kind;
use kernel::open::Root;
use kernel::proc::{Proc, maps};
use nix::sys::stat::{FileStat, SFlag, fstat, lstat, stat};
use std::cell::OnceCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What lies behind an area at the source.
#[derive(Debug)]
pub(super) enum Mapped {
    /// Memory of its own.
    Anonymous,
    /// Memory of its own in pages of hugetlbfs.
    Hugetlb,
    /// A queue of asynchronous I/O.
    Ring,
    /// The kernel's code for programs.
    Vdso,
    /// The kernel's clock pages.
    Vvar,
    /// A file with a name: its path inside the container.
    File(PathBuf, Box<FileStat>),
    /// A shared memory segment of System V.
    Segment,
    /// Shared anonymous memory, a memory file, or a file without a name.
    Inode,
}

/// The container's files as its first process sees them.
#[derive(Debug)]
pub(super) struct Sight {
    root: Root,
    /// Whether its IPC namespace is its own.
    own_ipc: bool,
    /// Where its root lies in its mount namespace: `/`, or the mount given to chroot(2).
    top: PathBuf,
    /// Of a process in a mount namespace inside the container: what it may have mapped before it came there.
    outer: Option<Root>,
    /// The container's first process.
    first: Pid,
    /// Mounts over which others lie, once something was not found: where, which one, its root directory.
    covered: OnceCell<Vec<(PathBuf, MountId, Root)>>,
}

/// How a file is reached.
struct Way<'a> {
    root: &'a Root,
    path: PathBuf,
    outer: bool,
    covered: Option<MountId>,
}

impl Sight {
    /// That of process `pid`.
    pub fn of(pid: Pid) -> Result<Self> {
        Ok(Sight {
            root: beginning::root(pid)?,
            own_ipc: is_own(pid, Kind::Ipc)?,
            top: beginning::path(pid)?,
            outer: None,
            first: pid,
            covered: OnceCell::new(),
        })
    }

    /// That of a process whose mounts are not, or not all, the container's own.
    pub fn through(roots: super::Roots) -> Result<Self> {
        let mut sight = Sight::of(roots.own)?;
        if roots.own != roots.container {
            sight.outer = Some(beginning::root(roots.container)?);
            sight.first = roots.container;
        }
        Ok(sight)
    }

    /// Where the path leads to this very file: in its own mounts, in the container's, or beneath another mount.
    fn finds(&self, path: &Path, stat: &FileStat) -> Option<Way<'_>> {
        let is = |root: &Root, path: &Path| {
            let found = root.stat(path);
            found.is_ok_and(|found| (found.device, found.inode) == (stat.st_dev, stat.st_ino))
        };
        let roots = [
            Some((&self.root, false)),
            self.outer.as_ref().map(|root| (root, true)),
        ];
        if let Some((root, outer)) = roots.into_iter().flatten().find(|(root, _)| is(root, path)) {
            let path = path.to_path_buf();
            return Some(Way {
                root,
                path,
                outer,
                covered: None,
            });
        }
        self.covered().iter().find_map(|(place, id, root)| {
            let path = Path::new("/").join(path.strip_prefix(place).ok()?);
            let covered = Some(*id);
            is(root, &path).then_some(Way {
                root,
                path,
                outer: false,
                covered,
            })
        })
    }

    /// None, where they cannot be reached.
    fn covered(&self) -> &[(PathBuf, MountId, Root)] {
        self.covered
            .get_or_init(|| covered::roots(self.first).unwrap_or_default())
    }

    /// A path of the kernel's as that process would say it.
    pub fn inside(&self, path: &[u8]) -> PathBuf {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        match path.strip_prefix(&self.top) {
            Ok(rest) => PathBuf::from("/").join(rest),
            Err(_) => path,
        }
    }

    /// The name that is left of a shared file whose name in `/proc` is gone: others have it mapped by that. So are semaphores
    /// made by sem_open(3), under a name of the moment that is replaced by theirs.
    fn linked(&self, path: &Path, area: &maps::Area, stat: &FileStat) -> Option<PathBuf> {
        let bytes = path.as_os_str().as_bytes();
        let was = Name(bytes.strip_suffix(DELETED)?.to_vec());
        if !area.shared || stat.st_nlink == 0 {
            return None;
        }
        let left = search::other_name(&self.root, &was, stat.st_dev, stat.st_ino)?;
        Some(left.as_path().to_path_buf())
    }

    /// Whether the path leads to this very file.
    pub fn leads_to(&self, path: &Path, stat: &FileStat) -> bool {
        self.finds(path, stat).is_some()
    }
}

const THERE: &str = "end what uses it there, or close it, before checkpoint";

/// Finds out what an area maps, or what is in its way.
pub(super) fn named(
    pid: Pid,
    area: &maps::Area,
    sight: &Sight,
) -> Result<std::result::Result<Mapped, Blocker>> {
    let blocked = |what: String, remedy: &str| {
        Ok(Err(Blocker {
            pid,
            place: format!("{:#x}-{:#x}", area.start, area.end),
            what,
            remedy: remedy.into(),
        }))
    };
    let name = String::from_utf8_lossy(&area.name);
    if area.name == kernel::aio::NAME {
        return Ok(Ok(Mapped::Ring));
    } else if name == "[vdso]" {
        return Ok(Ok(Mapped::Vdso));
    } else if name.starts_with("[vvar") {
        return Ok(Ok(Mapped::Vvar));
    } else if area.has("ht") && name == "/anon_hugepage (deleted)" {
        return Ok(Ok(match area.shared {
            true => Mapped::Inode,
            false => Mapped::Hugetlb,
        }));
    } else if ["um", "uw", "ui"].iter().any(|flag| area.has(flag)) {
        return blocked("memory under a userfaultfd".into(), THERE);
    } else if area.has("ss") {
        let remedy =
            "run the program without shadow stacks (GLIBC_TUNABLES=glibc.cpu.x86_shstk=off)";
        return blocked("a shadow stack".into(), remedy);
    } else if name.starts_with("anon_inode:[perf_event]") {
        return blocked("a performance counter".into(), THERE);
    } else if area.has("io") || area.has("pf") {
        return blocked(format!("memory of a device, {name}"), THERE);
    }
    match &*name {
        "/secretmem (deleted)" => return blocked("secret memory (memfd_secret)".into(), THERE),
        _ if segments::is_segment(area) && sight.own_ipc => return Ok(Ok(Mapped::Segment)),
        _ if segments::is_segment(area) => {
            let what = format!(
                "System V shared memory {} of an ipc namespace that is the host's",
                area.inode
            );
            let remedy = "start the program in an ipc namespace of its own (unshare --ipc)";
            return blocked(what, remedy);
        }
        _ if name.starts_with("anon_inode:[io_uring]") => return blocked("io_uring".into(), THERE),
        _ => (),
    }
    if area.inode == 0 && area.device == 0 {
        let known = ["", "[heap]"].contains(&&*name);
        if known || name.starts_with("[stack") || name.starts_with("[anon:") {
            return Ok(Ok(Mapped::Anonymous));
        }
        return blocked(format!("a mapping of {name}"), THERE);
    }
    if name.starts_with("[anon_shmem:") {
        return Ok(Ok(Mapped::Inode));
    }
    if !name.starts_with('/') {
        return blocked(format!("a mapping of {name}"), THERE);
    }
    let link = Proc::process(pid).path(&area.link());
    let behind = stat(&link).map_err(|e| super::call(&format!("stat {}", link.display()), e))?;
    if SFlag::from_bits_truncate(behind.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return blocked(format!("a mapping of {name}, which is no file"), THERE);
    }
    let path = sight.inside(&area.name);
    if let Some(path) = sight.linked(&path, area, &behind) {
        return Ok(Ok(Mapped::File(path, Box::new(behind))));
    }
    match () {
        _ if sight.leads_to(&path, &behind) => Ok(Ok(Mapped::File(path, Box::new(behind)))),
        _ if area.name.ends_with(DELETED) => Ok(Ok(Mapped::Inode)),
        _ => blocked(
            format!(
                "a mapping of {name}, which is another file now or out of the container's sight"
            ),
            "restart what uses it, so that it maps the present one",
        ),
    }
}

/// Whether the area was mapped from a descriptor open for writing: the owner's write bit of its link (fs/proc/base.c,
/// `proc_map_files_instantiate`).
pub(super) fn writable(pid: Pid, area: &maps::Area) -> Result<bool> {
    let link = Proc::process(pid).path(&area.link());
    let link = lstat(&link).map_err(|e| super::call(&format!("stat {}", link.display()), e))?;
    Ok(link.st_mode & 0o200 != 0)
}

/// The files that areas of one space map, each once.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// As the record has them.
    pub list: Vec<File>,
    /// Their places in it, by device, inode and name.
    known: HashMap<(u64, u64, Name), u32>,
}

/// How much of a file is read in search of its build id.
const HEAD: usize = 4096;

impl Files {
    /// The place of a file in the list.
    pub fn place(&mut self, path: PathBuf, stat: &FileStat, sight: &Sight) -> Result<u32> {
        let key = (stat.st_dev, stat.st_ino, Name::from(path.as_path()));
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let way = sight.finds(&path, stat).unwrap_or(Way {
            root: &sight.root,
            path,
            outer: false,
            covered: None,
        });
        let fd = way
            .root
            .open(&way.path, libc::O_RDONLY | libc::O_NONBLOCK)?;
        self.known.insert(key, self.list.len() as u32);
        self.list.push(File {
            path: Name::from(way.path.as_path()),
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size as u64,
            mtime: stat.st_mtime,
            mtime_ns: stat.st_mtime_nsec as u32,
            build_id: build_id(&fd.into()).into(),
            outer: way.outer,
            covered: way.covered,
        });
        Ok(self.list.len() as u32 - 1)
    }
}

fn build_id(file: &std::fs::File) -> Vec<u8> {
    let mut head = vec![0; HEAD];
    let len = file.read_at(&mut head, 0).unwrap_or(0);
    head.truncate(len);
    elf::build_id(&head).unwrap_or_default()
}

/// Opens a file of the record beneath the target's root. `shared`: its contents are the program's to change, so that
/// only its presence counts; else it must be the same file as at the source.
pub(super) fn open(root: &Root, file: &File, shared: bool, writable: bool) -> Result<OwnedFd> {
    let path = file.path.as_path();
    let access = if writable {
        libc::O_RDWR
    } else {
        libc::O_RDONLY
    };
    let flags = access | libc::O_NONBLOCK | libc::O_NOCTTY;
    let blocked = |what: String, remedy: &str| {
        Error::Blocked(vec![Blocker {
            pid: 0,
            place: format!("mapped file {}", file.path),
            what,
            remedy: remedy.into(),
        }])
    };
    let fd = root.open(path, flags).map_err(|e| match e.raw() {
        Some(libc::ENOENT | libc::ENOTDIR) => blocked(
            "it is not there".into(),
            "install it there, or let the root file system travel in the image",
        ),
        _ => e.into(),
    })?;
    let stat = fstat(&fd).map_err(|e| super::call("stat of a mapped file", e))?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(blocked(
            "it is no regular file".into(),
            "put the right file there",
        ));
    }
    let dup = fd
        .try_clone()
        .map_err(|e| kernel::Error::io("duplicate a descriptor", &e))?;
    if !shared && !unchanged(file, &stat, || build_id(&dup.into())) {
        return Err(blocked(
            format!(
                "it differs from the one at the source (size {} there, {} here)",
                file.size, stat.st_size
            ),
            "install the same version, or let the root file system travel in the image",
        ));
    }
    Ok(fd)
}

/// The same size, and the same build id where the file had one, else the same modification time.
fn unchanged(file: &File, found: &FileStat, build_id: impl FnOnce() -> Vec<u8>) -> bool {
    let times = (found.st_mtime, found.st_mtime_nsec as u32) == (file.mtime, file.mtime_ns);
    found.st_size as u64 == file.size
        && (times || (!file.build_id.0.is_empty() && build_id() == file.build_id.0))
}
