//! Shared memory segments of System V (shmget(2)): memory objects with a number, which may be there without being mapped.

use super::shared::Inodes;
use crate::namespaces::is_own;
use crate::namespaces::nested::Sights;
use crate::sink::too_few;
use crate::{Blocker, Error, Result, Target};
use image::ids::{NsId, SharedId};
use image::ipc::sysv::Permissions;
use image::memory::shared::{Object, Objects, Shared};
use image::memory::{Area, Backing, Space};
use kernel::descriptor;
use kernel::namespaces::{Kind, identity};
use kernel::proc::{Proc, maps};
use kernel::remote::{Call, STUB_LEN};
use kernel::sysv::shm::{self, Attached, Segment};
use kernel::{Namespace, Pid, within};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

/// Whether the kernel would call an area of a segment this. Programs can give a file such a name, too: on another device.
pub(super) fn is_segment(area: &maps::Area) -> bool {
    let number = area.name.strip_prefix(b"/SYSV");
    let number = number.and_then(|rest| rest.strip_suffix(super::shared::DELETED));
    number.is_some_and(|number| number.len() == 8 && number.iter().all(u8::is_ascii_hexdigit))
        && devices().contains(&area.device)
}

/// Those of the kernel's own tmpfs, where segments, memory files and shared anonymous memory lie (mm/shmem.c), and of its own
/// hugetlbfs, one for each size of pages.
fn devices() -> Vec<u64> {
    let device = |page: &Option<u64>| {
        let file = descriptor::memfd_of(c"device", *page).ok()?;
        Some(descriptor::stat(file.as_fd()).ok()?.device)
    };
    // Those there are on x86-64; a size that this host does not have is no segment's.
    let sizes = [None, Some(2 << 20), Some(1 << 30)];
    sizes.iter().filter_map(device).collect()
}

fn list(root: Pid) -> Result<Vec<Segment>> {
    Ok(within(root, &[Namespace::Ipc], shm::list)??)
}

/// The numbers in the way of the kernel's own types (include/linux/ipc.h).
pub(crate) fn record(found: &kernel::sysv::Permissions) -> Permissions {
    Permissions {
        id: found.id,
        key: found.key,
        mode: found.mode & 0o777,
        uid: found.uid,
        gid: found.gid,
        creator_uid: found.creator_uid,
        creator_gid: found.creator_gid,
    }
}

/// And back.
pub(crate) fn wanted(record: &Permissions) -> kernel::sysv::Permissions {
    kernel::sysv::Permissions {
        id: record.id,
        key: record.key,
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        creator_uid: record.creator_uid,
        creator_gid: record.creator_gid,
    }
}

/// The segments of a container while it is being taken, by namespace and number; each with its contents, once found.
#[derive(Debug, Default)]
pub(super) struct Segments {
    known: BTreeMap<(Option<NsId>, i32), (Shared, Option<OwnedFd>)>,
    /// Who is in an ipc namespace inside the container.
    inner: HashMap<Pid, NsId>,
}

impl Segments {
    /// The id of a segment that an area shows.
    pub fn take(&mut self, pid: Pid, area: &maps::Area) -> Result<SharedId> {
        let gone = || {
            Error::Refused(format!(
                "process {pid} maps shared memory segment {}, which its ipc namespace does not list",
                area.inode
            ))
        };
        let number = i32::try_from(area.inode).map_err(|_| gone())?;
        let key = (self.inner.get(&pid).copied(), number);
        let (shared, fd) = self.known.get_mut(&key).ok_or_else(gone)?;
        if fd.is_none() {
            let link = Proc::process(pid).path(&area.link());
            let file = File::open(&link)
                .map_err(|e| kernel::Error::io(format!("open {}", link.display()), &e))?;
            *fd = Some(file.into());
        }
        Ok(shared.id)
    }
}

impl Inodes {
    /// Those of the namespace of the container with this root process, where that is its own, and of those inside it.
    pub fn segments(&mut self, root: Pid, sights: &Sights) -> Result<()> {
        if is_own(root, Kind::Ipc)? {
            self.segments_of(None, root)?;
        }
        for (id, there, members) in &sights.queues {
            self.segments_of(Some(*id), *there)?;
            let members = members.iter().map(|pid| (*pid, *id));
            self.segments.inner.extend(members);
        }
        Ok(())
    }

    fn segments_of(&mut self, of: Option<NsId>, there: Pid) -> Result<()> {
        for found in list(there)? {
            let mode = found.permissions.mode;
            let shared = Shared {
                id: self.next(),
                object: Object::Segment {
                    of,
                    permissions: record(&found.permissions),
                    locked: mode & shm::LOCKED != 0,
                    removed: mode & shm::REMOVED != 0,
                    page: None,
                },
                size: found.size,
            };
            let number = found.permissions.id;
            self.segments.known.insert((of, number), (shared, None));
        }
        Ok(())
    }

    /// Once all areas were met: the contents of segments that nobody shows, and all segments among the objects.
    pub fn settle(&mut self, root: Pid, sights: &Sights) -> Result<()> {
        let there = |of: Option<NsId>| {
            let mut all = sights.queues.iter();
            let found = all.find(|(id, ..)| Some(*id) == of);
            found.map_or(root, |(_, there, _)| *there)
        };
        for ((of, number), (mut shared, fd)) in std::mem::take(&mut self.segments.known) {
            let fd = match fd {
                Some(fd) => fd,
                None => {
                    let attach = || Attached::attach(number);
                    let attached = within(there(of), &[Namespace::Ipc], attach)??;
                    attached.open()?.into()
                }
            };
            if let Object::Segment { page, .. } = &mut shared.object {
                *page = descriptor::huge_page(fd.as_fd())?;
            }
            self.own.push((shared, fd));
        }
        Ok(())
    }

    /// How many segments there are.
    pub(super) fn met(&self) -> impl Iterator<Item = SharedId> {
        self.segments.known.values().map(|(shared, _)| shared.id)
    }
}

/// Makes a segment in the target's namespace, in our own memory until [`settle`].
pub(super) fn restore(
    root: Pid,
    record: &Permissions,
    size: u64,
    page: Option<u64>,
) -> Result<(Attached, OwnedFd)> {
    let wanted = wanted(record);
    let make = || {
        shm::create(&wanted, size, page)?;
        Attached::attach(wanted.id)
    };
    let attached = match within(root, &[Namespace::Ipc], make)? {
        Err(e) if e.raw() == Some(libc::ENOMEM) && page.is_some() => return Err(too_few()),
        made => made?,
    };
    let file = attached.open()?;
    Ok((attached, file.into()))
}

/// The number of the segment that an area shows.
pub(super) fn shown(area: &Area, segments: &HashMap<SharedId, Attached>) -> Option<SharedId> {
    match area.backing {
        Backing::Shared { id, .. } if segments.contains_key(&id) => Some(id),
        _ => None,
    }
}

/// Of the largest pages, as a power of two.
const HUGEST: u32 = 30;
const MREMAP: u64 = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;

/// The calls that map all segments of a space. What was one call of shmat(2) at the source is one again, or shmdt(2) would
/// not find all of it: the whole segment is attached where nothing is, and its areas are moved from there.
pub(super) fn attach_calls<'a>(
    space: &'a Space,
    segments: &HashMap<SharedId, Attached>,
    stub: u64,
) -> Result<Vec<(&'a Area, Call)>> {
    type Parts<'a> = Vec<(&'a Area, u64)>;
    let mut groups: BTreeMap<(SharedId, bool, u64), Parts> = BTreeMap::new();
    for area in &space.areas {
        let Backing::Shared {
            id,
            offset,
            writable,
        } = area.backing
        else {
            continue;
        };
        let Some(segment) = segments.get(&id) else {
            continue;
        };
        let end = offset.checked_add(area.len());
        if end.is_none_or(|end| end > segment.length()) || !area.shared {
            return Err(Error::Refused(format!(
                "the area at {:#x} shows more of shared memory segment {} than there is",
                area.start,
                segment.id()
            )));
        }
        let key = (id, writable, area.start.wrapping_sub(offset));
        groups.entry(key).or_default().push((area, offset));
    }
    let mut taken: Vec<Range<u64>> = space.areas.iter().map(|a| a.start..a.end).collect();
    taken.push(stub..stub + STUB_LEN);
    let mut calls = Vec::new();
    for ((id, writable, _), areas) in groups {
        let (Some(segment), Some((first, _))) = (segments.get(&id), areas.first()) else {
            continue;
        };
        let (number, length) = (segment.id() as u64, segment.length());
        // Huge pages lie at addresses that are multiples of their size.
        let align = 1 << length.trailing_zeros().min(HUGEST);
        let at = super::free(taken.clone(), length + align)?.next_multiple_of(align);
        let flags = if writable { 0 } else { libc::SHM_RDONLY as u64 };
        calls.push((*first, Call::new(libc::SYS_shmat, &[number, at, flags])));
        for (area, offset) in &areas {
            let (start, len) = (area.start, area.len());
            let args = [at + offset, len, len, MREMAP, start];
            calls.push((*area, Call::new(libc::SYS_mremap, &args)));
            let args = [start, len, area.prot.0.into()];
            calls.push((*area, Call::new(libc::SYS_mprotect, &args)));
        }
        calls.push((*first, Call::new(libc::SYS_munmap, &[at, length])));
    }
    Ok(calls)
}

/// Once everything is mapped: who may use the segments, and which go with their last user.
pub fn settle(objects: &Objects, target: &mut Target) -> Result<()> {
    let _attached = std::mem::take(&mut target.segments);
    for shared in &objects.objects {
        let Object::Segment {
            of,
            permissions,
            locked,
            removed,
            ..
        } = &shared.object
        else {
            continue;
        };
        let work = || {
            shm::set(&wanted(permissions))?;
            if *locked {
                shm::lock(permissions.id)?;
            }
            if *removed {
                shm::remove(permissions.id)?;
            }
            Ok::<_, kernel::Error>(())
        };
        within(target.queues_of(*of)?, &[Namespace::Ipc], work)??;
    }
    Ok(())
}

/// Segments, in the ipc namespace of process `root`, that somebody outside the container uses too, or that would go while
/// nobody shows them.
pub fn blockers(root: Pid, processes: &[Pid]) -> Result<Vec<Blocker>> {
    let segments = list(root)?;
    if segments.is_empty() {
        return Ok(Vec::new());
    }
    let mut shown: HashMap<u64, u64> = HashMap::new();
    let own = identity(root, Kind::Ipc)?;
    let is_there = |pid: &&Pid| identity(**pid, Kind::Ipc).is_ok_and(|found| found == own);
    let has_process = processes.iter().any(|pid| is_there(&pid));
    for pid in processes.iter().filter(is_there) {
        // One that ends meanwhile shows none.
        for area in maps::read(*pid).unwrap_or_default() {
            if is_segment(&area) {
                *shown.entry(area.inode).or_default() += 1;
            }
        }
    }
    let forced = within(root, &[Namespace::Ipc], || {
        std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")
    })?;
    let forced = forced.is_ok_and(|text| text.trim() != "0");
    let blocked = |segment: &Segment| {
        let inside = shown.get(&(segment.permissions.id as u64)).copied();
        let what = if segment.attached > inside.unwrap_or(0) && !has_process {
            "attached in an ipc namespace that no process is in, but a thread alone"
        } else if segment.attached > inside.unwrap_or(0) {
            "a process outside the container has it attached, too"
        } else if forced && segment.attached == 0 {
            "nobody has it attached, and kernel.shm_rmid_forced would remove it"
        } else {
            return None;
        };
        Some(Blocker {
            pid: root,
            place: format!("System V shared memory {}", segment.permissions.id),
            what: what.into(),
            remedy: "detach it there, or remove it with ipcrm".into(),
        })
    };
    Ok(segments.iter().filter_map(blocked).collect())
}
