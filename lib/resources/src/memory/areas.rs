//! Areas: taken from `/proc/PID/smaps`, mapped again by calls in the process being rebuilt.

use super::family;
use super::huge;
use super::locks;
use super::mapped::{self, Files, Mapped, Sight};
use super::rings;
use super::segments;
use super::shared::{self, Inodes};

use crate::files::CoveredRoots;
use crate::sink::too_few;
use crate::{Error, Result, Target};
use image::ids::{Pid, SharedId};
use image::memory::{Advice, Area, Backing, Prot, Run, Space};
use image::path::Name;
use kernel::open::Root;
use kernel::pagemap::PageMap;
use kernel::proc::{Proc, maps};
use kernel::remote::{Call, Caller, Plant, STUB_LEN, plant};
use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd, RawFd};

/// `VmFlags` that matter (fs/proc/task_mmu.c, `show_smap_vma_flags`).
const FLAGS: [(&str, Advice); 14] = [
    ("gd", Advice::GrowsDown),
    ("nr", Advice::NoReserve),
    ("lo", Advice::Locked),
    ("lf", Advice::LockedOnFault),
    ("sr", Advice::Sequential),
    ("rr", Advice::Random),
    ("dd", Advice::DontDump),
    ("dc", Advice::DontFork),
    ("wf", Advice::WipeOnFork),
    ("mg", Advice::Mergeable),
    ("hg", Advice::HugePage),
    ("nh", Advice::NoHugePage),
    ("dp", Advice::Droppable),
    ("sl", Advice::Sealed),
];

type Taken = (Vec<Area>, Files, Vec<Range<u64>>);

/// Takes the areas, the files they map, and which pages travel.
pub(super) fn dump(
    pid: kernel::Pid,
    shown: &[maps::Area],
    sight: &Sight,
    inodes: &mut Inodes,
    map: &mut PageMap,
) -> Result<Taken> {
    let mut files = Files::default();
    let mut pages = Vec::new();
    let mut areas = Vec::with_capacity(shown.len());
    for shown in shown {
        let mapped = mapped::named(pid, shown, sight)?;
        let mapped = mapped.map_err(|blocker| Error::Blocked(vec![blocker]))?;
        let backing = backing(pid, shown, mapped, sight, &mut files, inodes)?;
        // The ring of a queue that is another process's: memory that the kernel writes nothing to any more.
        let dead = shown.name == kernel::aio::NAME && backing == Backing::Anonymous {};
        let mut area = Area {
            start: shown.start,
            end: shown.end,
            prot: Prot(shown.prot),
            shared: shown.shared && !dead,
            backing,
            advice: advice(shown),
            name: given_name(&shown.name),
            guards: Vec::new(),
            resident: 0,
            huge: shown.huge,
            inherited: None,
        };
        let range = area.start..area.end;
        if shown.has("gu") {
            let run = |r: Range<u64>| Run {
                start: r.start,
                len: r.end - r.start,
            };
            area.guards = map.guards(range.clone())?.into_iter().map(run).collect();
        }
        // Pages of hugetlbfs are counted apart.
        let empty = shown.resident + shown.swapped == 0 && !shown.has("ht");
        if area.holds_pages() && !area.has(Advice::Droppable) && !empty && !dead {
            let own = map.own(range)?;
            area.resident = own.iter().map(|r| r.end - r.start).sum();
            pages.extend(own);
        }
        areas.push(area);
    }
    Ok((areas, files, pages))
}

fn backing(
    pid: kernel::Pid,
    shown: &maps::Area,
    mapped: Mapped,
    sight: &Sight,
    files: &mut Files,
    inodes: &mut Inodes,
) -> Result<Backing> {
    Ok(match mapped {
        Mapped::Anonymous => Backing::Anonymous {},
        Mapped::Hugetlb => Backing::Hugetlb { page: shown.page },
        Mapped::Ring if inodes.rings.contains(&(pid, shown.start)) => rings::dump(pid, shown)?,
        Mapped::Ring => Backing::Anonymous {},
        Mapped::Vdso => Backing::Vdso {},
        Mapped::Vvar => Backing::Vvar {},
        Mapped::File(path, stat) => Backing::File {
            file: files.place(path, &stat, sight)?,
            offset: shown.offset,
            writable: shown.shared && mapped::writable(pid, shown)?,
        },
        Mapped::Segment => Backing::Shared {
            id: inodes.segments.take(pid, shown)?,
            offset: shown.offset,
            writable: mapped::writable(pid, shown)?,
        },
        Mapped::Inode => {
            let link = Proc::process(pid).path(&shown.link());
            let fd = std::fs::File::open(&link)
                .map_err(|e| kernel::Error::io(format!("open {}", link.display()), &e))?;
            Backing::Shared {
                id: inodes.take(fd.into())?,
                offset: shown.offset,
                writable: shown.shared && mapped::writable(pid, shown)?,
            }
        }
    })
}

fn advice(shown: &maps::Area) -> Vec<Advice> {
    let all = FLAGS.iter().filter(|(flag, _)| shown.has(flag));
    all.map(|(_, advice)| *advice).collect()
}

/// `[anon:NAME]` and `[anon_shmem:NAME]`: `PR_SET_VMA_ANON_NAME` (prctl(2)).
fn given_name(shown: &[u8]) -> Option<Name> {
    let name = [&b"[anon:"[..], b"[anon_shmem:"]
        .iter()
        .find_map(|p| shown.strip_prefix(*p))?;
    Some(Name(name.strip_suffix(b"]")?.to_vec()))
}

/// Whether the area is mapped writable first, so that its pages can be filled in.
fn writable_first(area: &Area) -> bool {
    area.resident > 0 && !area.prot.writable()
}

/// Its protection until [`protect`].
fn prot_first(area: &Area) -> Prot {
    match writable_first(area) {
        true => Prot(area.prot.0 | Prot::WRITE | Prot::READ),
        false => area.prot,
    }
}

/// What an area maps, by a descriptor that stands in the process while it is mapped: which, and open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    File(u32, bool),
    Shared(SharedId, bool),
}

fn key(area: &Area) -> Option<Key> {
    match area.backing {
        Backing::File { file, writable, .. } => Some(Key::File(file, writable && area.shared)),
        Backing::Shared { id, writable, .. } => Some(Key::Shared(id, writable && area.shared)),
        Backing::Anonymous {}
        | Backing::Hugetlb { .. }
        | Backing::Ring { .. }
        | Backing::Vdso {}
        | Backing::Vvar {} => None,
    }
}

/// Maps all areas but the kernel's own, empty, with what the program told the kernel of them. Those that get pages are
/// writable until [`protect`].
pub fn map(target: &mut Target, inside: Pid, space: &Space) -> Result<()> {
    let opened = open_all(target, inside, space)?;
    let stub = target.process(inside)?.leader.base();
    let attached = segments::attach_calls(space, &target.segments, stub)?;
    let is_segment = |area: &Area| segments::shown(area, &target.segments).is_some();
    let by_themselves: Vec<bool> = space.areas.iter().map(is_segment).collect();
    let process = target.process(inside)?;
    if let Some(area) = space
        .areas
        .iter()
        .find(|a| a.start < stub + STUB_LEN && a.end > stub)
    {
        return Err(Error::Refused(format!(
            "the area at {:#x} of process {inside} lies over the place kept for its rebuilding",
            area.start
        )));
    }
    let first = process
        .proc
        .numbers("fd")?
        .last()
        .map_or(0, |last| last + 1);
    let plants: Vec<Plant> = opened
        .iter()
        .zip(first..)
        .map(|((_, fd), number)| Plant {
            fd: fd.as_fd(),
            number,
            close_on_exec: true,
        })
        .collect();
    plant(&mut process.leader, &process.pidfd, &plants)?;
    let numbers: HashMap<Key, RawFd> = opened.iter().map(|(key, _)| *key).zip(first..).collect();
    let mut asked = attached;
    let apart = set_apart(&space.areas).into_iter().zip(by_themselves);
    for (area, (apart, there)) in space.areas.iter().zip(apart) {
        let fd = key(area).and_then(|key| numbers.get(&key).copied());
        let map = match &area.inherited {
            Some(inherited) => family::adapt(area, inherited, prot_first(area)),
            None => map_call(area, fd).filter(|_| !there).into_iter().collect(),
        };
        // The kernel makes a ring by itself, when all else is there.
        let advice = match area.backing {
            Backing::Ring { .. } => Vec::new(),
            _ => advise_calls(area),
        };
        let calls = map.into_iter().chain(advice);
        let calls = calls.chain(apart.then(|| dump_call(area, !area.has(Advice::DontDump))));
        asked.extend(calls.map(|call| (area, call)));
    }
    let calls: Vec<Call> = asked.iter().map(|(_, call)| *call).collect();
    let close = numbers
        .values()
        .map(|fd| Call::new(libc::SYS_close, &[*fd as u64]));
    let results = process.leader.batch(&calls)?;
    process.leader.batch(&close.collect::<Vec<_>>())?;
    let of_hugetlbfs =
        |fd: &OwnedFd| kernel::descriptor::huge_page(fd.as_fd()).is_ok_and(|p| p.is_some());
    let huge = opened.iter().filter(|(_, fd)| of_hugetlbfs(fd));
    let huge: Vec<Key> = huge.map(|(key, _)| *key).collect();
    done(inside, asked, &results, &huge)?;
    huge::map(process, space)?;
    rings::restore(process, space)?;
    give_names(&mut process.leader, space)
}

/// Gives the first call that failed its name; `huge` are of hugetlbfs.
fn done(inside: Pid, asked: Vec<(&Area, Call)>, results: &[i64], huge: &[Key]) -> Result<()> {
    for ((area, call), result) in asked.into_iter().zip(results) {
        if (-4095..0).contains(result) && !cosmetic(&call) {
            let (start, end) = (area.start, area.end);
            let huge = matches!(area.backing, Backing::Hugetlb { .. })
                || key(area).is_some_and(|key| huge.contains(&key));
            if huge && *result == -i64::from(libc::ENOMEM) {
                return Err(too_few());
            }
            let what = format!("{} {start:#x}-{end:#x} in process {inside}", name(&call));
            return Err(kernel::Error::errno(what, -*result as i32).into());
        }
    }
    Ok(())
}

/// Opens everything that the areas map, each once for each kind of access.
fn open_all(target: &Target, inside: Pid, space: &Space) -> Result<Vec<(Key, OwnedFd)>> {
    let roots = [target.root_of(inside), target.root_pid];
    let [root, outer] = [Root::of(roots[0])?, Root::of(roots[1])?];
    let covered = CoveredRoots::of(&target.covered)?;
    let mut opened: Vec<(Key, OwnedFd)> = Vec::new();
    let mut checked = Vec::new();
    let mut blocked = Vec::new();
    for area in &space.areas {
        let segment = segments::shown(area, &target.segments).is_some();
        let new = |key: &Key| !segment && opened.iter().all(|(k, _)| k != key);
        let Some(key) = key(area).filter(new) else {
            continue;
        };
        let fd = match key {
            Key::File(file, writable) => {
                let place = file;
                let file = space.files.get(file as usize).ok_or_else(|| {
                    Error::Refused(format!("mapped file {file} is not in the image"))
                })?;
                let shared_only = !space.areas.iter().any(|a| {
                    !a.shared && matches!(a.backing, Backing::File { file: f, .. } if f == place)
                });
                let root = if file.outer { &outer } else { &root };
                match mapped::open(covered.at(file.covered, root)?, file, shared_only, writable) {
                    Ok(fd) => fd,
                    // All at once, each file once.
                    Err(Error::Blocked(more)) => {
                        if !checked.contains(&place) {
                            blocked.extend(more);
                            checked.push(place);
                        }
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            }
            Key::Shared(id, writable) => {
                let fd = target.objects.get(&id).ok_or_else(|| {
                    Error::Refused(format!("memory object {} is not in the image", id.0))
                })?;
                {
                    let access = if writable {
                        libc::O_RDWR
                    } else {
                        libc::O_RDONLY
                    };
                    kernel::descriptor::reopen(fd.as_fd(), access)?
                }
            }
        };
        opened.push((key, fd));
    }
    if blocked.is_empty() {
        Ok(opened)
    } else {
        Err(Error::Blocked(blocked))
    }
}

/// `MAP_DROPPABLE` (include/uapi/linux/mman.h): a type, as shared and private are.
const MAP_DROPPABLE: i32 = 0x08;

fn map_call(area: &Area, fd: Option<RawFd>) -> Option<Call> {
    let offset = match area.backing {
        Backing::Vdso {} | Backing::Vvar {} | Backing::Ring { .. } => return None,
        Backing::Anonymous {} | Backing::Hugetlb { .. } => 0,
        Backing::File { offset, .. } | Backing::Shared { offset, .. } => offset,
    };
    let mut flags = libc::MAP_FIXED_NOREPLACE;
    flags |= match area.shared {
        true => libc::MAP_SHARED,
        false if area.has(Advice::Droppable) => MAP_DROPPABLE,
        false => libc::MAP_PRIVATE,
    };
    if fd.is_none() {
        flags |= libc::MAP_ANONYMOUS;
    }
    if let Backing::Hugetlb { page } = area.backing {
        flags |= shared::huge_flags(page);
    }
    for (advice, flag) in [
        (Advice::GrowsDown, libc::MAP_GROWSDOWN),
        (Advice::NoReserve, libc::MAP_NORESERVE),
    ] {
        if area.has(advice) {
            flags |= flag;
        }
    }
    let prot = prot_first(area);
    let fd = fd.map_or(u64::MAX, |fd| fd as u64);
    let len = area.len();
    Some(Call::new(
        libc::SYS_mmap,
        &[area.start, len, prot.0.into(), flags as u64, fd, offset],
    ))
}

/// What sets an area apart from its neighbours is said at once: the kernel would make one area of two that are alike, and
/// what is said of a part later stays with both.
pub(super) fn advise_calls(area: &Area) -> Vec<Call> {
    let (start, len) = (area.start, area.len());
    if area.has(Advice::Droppable) || matches!(area.backing, Backing::Vdso {} | Backing::Vvar {}) {
        return Vec::new();
    }
    let mut calls: Vec<Call> = ADVISED
        .iter()
        .filter(|(flag, _)| area.has(*flag))
        .map(|(_, advice)| Call::new(libc::SYS_madvise, &[start, len, *advice as u64]))
        .collect();
    if locked(area) && area.guards.is_empty() {
        // Its pages come by themselves; those that do not are fetched by the last lock.
        calls.push(Call::new(
            libc::SYS_mlock2,
            &[start, len, libc::MLOCK_ONFAULT.into()],
        ));
    }
    calls
}

/// What `madvise(2)` says of an area before its pages are there.
const ADVISED: [(Advice, i32); 7] = [
    (Advice::Sequential, libc::MADV_SEQUENTIAL),
    (Advice::Random, libc::MADV_RANDOM),
    (Advice::DontDump, libc::MADV_DONTDUMP),
    (Advice::DontFork, libc::MADV_DONTFORK),
    (Advice::WipeOnFork, libc::MADV_WIPEONFORK),
    (Advice::HugePage, libc::MADV_HUGEPAGE),
    (Advice::NoHugePage, libc::MADV_NOHUGEPAGE),
];

/// Areas that lie behind one just like them, which the kernel would make one. At the source it did not, because pages
/// of both were there when they met (mm/vma.c, `is_mergeable_anon_vma`); so they are told apart until their pages are.
fn set_apart(areas: &[Area]) -> Vec<bool> {
    let mut last: Option<(&Area, bool)> = None;
    let mut all = Vec::with_capacity(areas.len());
    for area in areas {
        let apart = last.is_some_and(|(before, apart)| !apart && alike(before, area));
        last = Some((area, apart));
        all.push(apart);
    }
    all
}

fn alike(first: &Area, second: &Area) -> bool {
    let follows = match (&first.backing, &second.backing) {
        (Backing::Anonymous {}, Backing::Anonymous {}) => true,
        (
            Backing::File { file, offset, .. },
            Backing::File {
                file: other,
                offset: at,
                ..
            },
        ) => file == other && offset.checked_add(first.len()) == Some(*at),
        (
            Backing::Shared { id, offset, .. },
            Backing::Shared {
                id: other,
                offset: at,
                ..
            },
        ) => id == other && offset.checked_add(first.len()) == Some(*at),
        _ => false,
    };
    let said = |area: &Area| {
        (
            area.prot,
            area.shared,
            area.advice.clone(),
            area.name.clone(),
        )
    };
    follows && first.end == second.start && !first.shared && said(first) == said(second)
}

/// Takes an area out of core dumps, or in again.
fn dump_call(area: &Area, out: bool) -> Call {
    let advice = if out {
        libc::MADV_DONTDUMP
    } else {
        libc::MADV_DODUMP
    };
    Call::new(libc::SYS_madvise, &[area.start, area.len(), advice as u64])
}

fn locked(area: &Area) -> bool {
    area.has(Advice::Locked) || area.has(Advice::LockedOnFault)
}

/// Whether a program can do without the call having succeeded: huge pages, which the kernel may not have.
fn cosmetic(call: &Call) -> bool {
    let huge = [
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_MERGEABLE,
    ];
    call.nr == libc::SYS_madvise && huge.iter().any(|a| *a as u64 == call.args[2])
}

fn name(call: &Call) -> &'static str {
    match call.nr {
        libc::SYS_mmap => "map",
        libc::SYS_shmat => "attach the segment of",
        libc::SYS_mremap => "move",
        libc::SYS_mprotect => "protect",
        libc::SYS_mlock2 => "lock",
        SYS_MSEAL => "seal",
        _ => "advise on",
    }
}

/// Names of anonymous areas; a kernel without them (`CONFIG_ANON_VMA_NAME`) leaves them out.
fn give_names(task: &mut dyn Caller, space: &Space) -> Result<()> {
    for area in &space.areas {
        let Some(name) = &area.name else { continue };
        let mut bytes = name.0.clone();
        bytes.push(0);
        let at = task.put(&bytes)?;
        let (option, field) = (libc::PR_SET_VMA as u64, libc::PR_SET_VMA_ANON_NAME as u64);
        let call = Call::new(
            libc::SYS_prctl,
            &[option, field, area.start, area.len(), at],
        );
        task.call(call)?;
    }
    Ok(())
}

const SYS_MSEAL: i64 = 462;
const MADV_GUARD_INSTALL: u64 = 102;

/// After the last page: the protections of areas that were writable meanwhile, locks, seals.
pub fn protect(target: &mut Target, inside: Pid, space: &Space) -> Result<()> {
    let process = target.process(inside)?;
    huge::settle(process, space)?;
    let apart = space.areas.iter().zip(set_apart(&space.areas));
    let mut last: Vec<(&Area, Call)> = apart
        .filter(|(_, apart)| *apart)
        .map(|(area, _)| (area, dump_call(area, area.has(Advice::DontDump))))
        .collect();
    last.extend(last_calls(&space.areas));
    let calls: Vec<Call> = last.iter().map(|(_, call)| *call).collect();
    let results = process.leader.batch(&calls)?;
    done(inside, last, &results, &[])?;
    let filter = format!("{:#x}", space.coredump_filter);
    let path = process.proc.path("coredump_filter");
    std::fs::write(&path, filter)
        .map_err(|e| kernel::Error::io(format!("write {}", path.display()), &e))?;
    if space.thp_disabled {
        let disable = Call::new(libc::SYS_prctl, &[libc::PR_SET_THP_DISABLE as u64, 1]);
        process.leader.must("turn huge pages off", disable)?;
    }
    locks::restore(process, space.future_locks)?;
    Ok(())
}

/// Step by step over all areas, for the same reason as [`advise_calls`]: a guard page marks the whole area it is in for
/// ever (`VM_MAYBE_GUARD`), so no neighbour may look like it by then, which a seal sees to; and locked areas take none.
fn last_calls(areas: &[Area]) -> Vec<(&Area, Call)> {
    let steps: [fn(&Area) -> Vec<Call>; 5] = [
        protect_calls,
        |area| seal_calls(area, false),
        guard_calls,
        lock_calls,
        |area| seal_calls(area, true),
    ];
    let of = |step: fn(&Area) -> Vec<Call>| {
        let calls = areas.iter().map(move |area| (area, step(area)));
        calls.flat_map(|(area, calls)| calls.into_iter().map(move |call| (area, call)))
    };
    steps.into_iter().flat_map(of).collect()
}

fn protect_calls(area: &Area) -> Vec<Call> {
    let (start, len) = (area.start, area.len());
    let mut calls = Vec::new();
    if writable_first(area) {
        let args = [start, len, area.prot.0.into()];
        calls.push(Call::new(libc::SYS_mprotect, &args));
    }
    if area.has(Advice::Mergeable) {
        let args = [start, len, libc::MADV_MERGEABLE as u64];
        calls.push(Call::new(libc::SYS_madvise, &args));
    }
    calls
}

fn guard_calls(area: &Area) -> Vec<Call> {
    let install =
        |run: &Run| Call::new(libc::SYS_madvise, &[run.start, run.len, MADV_GUARD_INSTALL]);
    area.guards.iter().map(install).collect()
}

fn lock_calls(area: &Area) -> Vec<Call> {
    let on_fault = area.has(Advice::LockedOnFault) || area.prot.0 == 0;
    let flags = if on_fault {
        libc::MLOCK_ONFAULT.into()
    } else {
        0
    };
    let lock = Call::new(libc::SYS_mlock2, &[area.start, area.len(), flags]);
    locked(area).then_some(lock).into_iter().collect()
}

/// Those of areas with guard pages, or without: sealed ones may take none.
fn seal_calls(area: &Area, guarded: bool) -> Vec<Call> {
    let seal = Call::new(SYS_MSEAL, &[area.start, area.len()]);
    let of_ours = !matches!(area.backing, Backing::Vdso {} | Backing::Vvar {});
    (area.has(Advice::Sealed) && of_ours && area.guards.is_empty() != guarded)
        .then_some(seal)
        .into_iter()
        .collect()
}
