//! Memory that processes have in common since fork(2), copy on write. The kernel lets only a fork share such pages, so those
//! of a family are placed in the process that the others are forked from, before it forks; each then keeps what is still
//! the family's, and gets the rest as any other.

use super::{Layout, PAGE, huge};
use crate::tree::{Step, plan};
use crate::{Error, Result, Target, TargetProcess};
use image::ids::{Pid, SpaceId};
use image::memory::{Advice, Area, Backing, Executable, Family, Inherited, Prot, Run, Space};
use image::namespaces::nested::Content;
use image::process::Process;
use image::tree::Tree;
use kernel::pagemap::PageMap;
use kernel::proc::maps;
use kernel::remote::Call;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// A family is worth its while from so many bytes on that are there once instead of several times.
const WORTH: u64 = 256 << 10;

/// A family with the layouts its pages are read by: each page from a process that has it.
pub type Taken = (Family, Vec<Layout>);

/// Finds the families of a tree, in the order in which they are wanted when it grows again, and takes out of the records
/// and layouts of its processes what they have in common.
pub fn dump(tree: &Tree, processes: &mut [Process], layouts: &mut [Layout]) -> Result<Vec<Taken>> {
    // A tree that cannot grow again is told so there.
    let Ok(steps) = plan(tree, tree.root, &|_| false) else {
        return Ok(Vec::new());
    };
    let mut taken = Vec::new();
    // Who has left the container's mounts maps files that are not there yet when the tree grows.
    let is_mount = |content: &Content| matches!(content, Content::Mount { .. });
    let elsewhere = |pid| tree.nested.of(pid, is_mount).is_some();
    for (root, members) in kinship(&steps, processes, &elsewhere) {
        let id = SpaceId((processes.len() + taken.len()) as u32);
        let found = Common::of(&members, processes, layouts)?;
        let Some(space) = found.space(id, root, processes) else {
            continue;
        };
        let pid = processes[root].pid;
        let read = found.give(&members, processes, layouts, id);
        taken.push((Family { pid, space }, read));
    }
    Ok(taken)
}

/// Processes by the first of those they were forked from that had the same executable: the places of each, in the order
/// in which the first of them forks.
fn kinship(
    steps: &[Step],
    processes: &[Process],
    elsewhere: &dyn Fn(Pid) -> bool,
) -> Vec<(usize, Vec<usize>)> {
    let places: HashMap<Pid, usize> = processes
        .iter()
        .enumerate()
        .filter(|(_, process)| process.memory.is_some() && !elsewhere(process.pid))
        .map(|(i, process)| (process.pid, i))
        .collect();
    let mut creators: HashMap<Pid, Pid> = HashMap::new();
    let mut first_of: HashMap<usize, usize> = HashMap::new();
    let mut families: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut order = Vec::new();
    for step in steps {
        let Step::Fork { creator, child, .. } = step else {
            continue;
        };
        creators.insert(*child, *creator);
        if let Some(place) = places.get(creator)
            && !order.contains(place)
        {
            order.push(*place);
        }
        let Some(own) = places.get(child) else {
            continue;
        };
        // Stand-ins are nobody's memory but their creator's.
        let mut above = *creator;
        while !places.contains_key(&above)
            && let Some(next) = creators.get(&above)
        {
            above = *next;
        }
        let Some(parent) = places.get(&above) else {
            continue;
        };
        let exe = executable(&processes[*own]);
        if exe.is_none() || exe != executable(&processes[*parent]) {
            continue;
        }
        let first = *first_of.get(parent).unwrap_or(parent);
        first_of.insert(*own, first);
        families
            .entry(first)
            .or_insert_with(|| vec![first])
            .push(*own);
    }
    let found = order.into_iter();
    found
        .filter_map(|place| Some((place, families.remove(&place)?)))
        .collect()
}

/// Device and inode; nothing for one without a name, which is not there yet when a tree grows.
fn executable(process: &Process) -> Option<(u64, u64)> {
    let space = process.memory.as_ref()?;
    match space.fields.exe? {
        Executable::File { file } => {
            let file = space.files.get(file as usize)?;
            Some((file.device, file.inode))
        }
        Executable::Shared { .. } => None,
    }
}

/// What the members of a family have in common, area by area.
#[derive(Debug, Default)]
struct Common {
    areas: Vec<Part>,
}

/// An area that several have.
#[derive(Debug)]
struct Part {
    range: Range<u64>,
    no_reserve: bool,
    /// By member: the pages it has of those in common.
    kept: Vec<Vec<Range<u64>>>,
    /// By member: the pages that are read from it.
    read: Vec<Vec<Range<u64>>>,
}

fn is_common(area: &Area) -> bool {
    let otherwise = [Advice::GrowsDown, Advice::Droppable];
    !area.shared
        && area.backing == (Backing::Anonymous {})
        && area.resident > 0
        && !otherwise.iter().any(|advice| area.has(*advice))
}

fn areas(process: &Process) -> impl Iterator<Item = &Area> {
    process.memory.iter().flat_map(|space| &space.areas)
}

/// The place of a process's layout: they are in the order of their spaces.
fn slot(process: &Process, layouts: &[Layout]) -> Option<usize> {
    let id = process.memory.as_ref()?.id;
    let found = layouts.binary_search_by_key(&id.0, |layout| layout.space.0);
    found.ok()
}

fn length(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

impl Common {
    fn of(members: &[usize], processes: &[Process], layouts: &[Layout]) -> Result<Self> {
        // By start: the first that has the area, and how many do.
        let mut found: BTreeMap<u64, (&Area, usize)> = BTreeMap::new();
        for member in members {
            for area in areas(&processes[*member]).filter(|area| is_common(area)) {
                found.entry(area.start).or_insert((area, 0)).1 += 1;
            }
        }
        let mut common = Common::default();
        let mut end = 0;
        for (area, count) in found.into_values() {
            if count < 2 || area.start < end {
                continue;
            }
            let part = Part::of(area, members, processes, layouts)?;
            if part.kept.iter().any(|kept| !kept.is_empty()) {
                end = area.end;
                common.areas.push(part);
            }
        }
        Ok(common)
    }

    /// The space as the first of the family has it before it forks; nothing where it is not worth it.
    fn space(&self, id: SpaceId, root: usize, processes: &[Process]) -> Option<Space> {
        let once: u64 = self
            .areas
            .iter()
            .flat_map(|part| &part.read)
            .map(|r| length(r))
            .sum();
        let in_all: u64 = self
            .areas
            .iter()
            .flat_map(|part| &part.kept)
            .map(|r| length(r))
            .sum();
        if in_all < once + WORTH {
            return None;
        }
        let own = processes[root].memory.as_ref()?;
        let of_kernel = |area: &&Area| matches!(area.backing, Backing::Vdso {} | Backing::Vvar {});
        let mut areas: Vec<Area> = self.areas.iter().map(Part::area).collect();
        areas.extend(own.areas.iter().filter(of_kernel).cloned());
        areas.sort_by_key(|area| area.start);
        let space = Space {
            id,
            areas,
            files: own.files.clone(),
            fields: own.fields.clone(),
            vdso: own.vdso.clone(),
            coredump_filter: own.coredump_filter,
            thp_disabled: own.thp_disabled,
            future_locks: None,
        };
        space.check().is_ok().then_some(space)
    }

    /// Gives each member what it inherits.
    fn give(
        self,
        members: &[usize],
        processes: &mut [Process],
        layouts: &mut [Layout],
        id: SpaceId,
    ) -> Vec<Layout> {
        let mut read = Vec::new();
        for (nth, member) in members.iter().enumerate() {
            let mut pages = Vec::new();
            let mut inherited = Vec::new();
            for part in &self.areas {
                pages.extend(part.read[nth].iter().cloned());
                let mut area = processes[*member]
                    .memory
                    .iter_mut()
                    .flat_map(|space| &mut space.areas);
                let area = area.find(|area| area.start == part.range.start);
                if let Some(area) = area.filter(|_| !part.kept[nth].is_empty()) {
                    let kept = &part.kept[nth];
                    area.resident -= length(kept);
                    area.huge = area.huge.min(area.resident);
                    area.inherited = Some(Inherited {
                        end: part.range.end,
                        runs: kept.iter().map(run).collect(),
                    });
                    inherited.extend(kept.iter().cloned());
                }
            }
            let Some(place) = slot(&processes[*member], layouts) else {
                continue;
            };
            let layout = &mut layouts[place];
            layout.pages = without(&layout.pages, &inherited);
            if !pages.is_empty() {
                read.push(Layout {
                    pid: layout.pid,
                    space: id,
                    areas: Vec::new(),
                    pages,
                });
            }
        }
        read
    }
}

fn run(range: &Range<u64>) -> Run {
    Run {
        start: range.start,
        len: range.end - range.start,
    }
}

/// A page in common: its frame, how far it is ahead of others at the same address, and whether somebody has given it.
#[derive(Debug, Default)]
struct Page {
    frame: u64,
    ahead: u32,
    given: bool,
}

impl Part {
    fn of(
        area: &Area,
        members: &[usize],
        processes: &[Process],
        layouts: &[Layout],
    ) -> Result<Self> {
        let range = area.start..area.end;
        let mut pages: HashMap<u64, Page> = HashMap::new();
        // First which frame most of them have at an address, then who has just that one.
        each(&range, members, processes, layouts, |_, at, frame| {
            let page = pages.entry(at).or_default();
            match (page.frame == frame, page.ahead) {
                (true, _) => page.ahead += 1,
                (false, 0) => {
                    *page = Page {
                        frame,
                        ahead: 1,
                        given: false,
                    }
                }
                (false, _) => page.ahead -= 1,
            }
        })?;
        let mut part = Part {
            range: range.clone(),
            no_reserve: area.has(Advice::NoReserve),
            kept: vec![Vec::new(); members.len()],
            read: vec![Vec::new(); members.len()],
        };
        each(&range, members, processes, layouts, |nth, at, frame| {
            let Some(page) = pages.get_mut(&at).filter(|page| page.frame == frame) else {
                return;
            };
            join(&mut part.kept[nth], at);
            if !page.given {
                page.given = true;
                join(&mut part.read[nth], at);
            }
        })?;
        Ok(part)
    }

    /// As the first of the family has it.
    fn area(&self) -> Area {
        Area {
            start: self.range.start,
            end: self.range.end,
            prot: Prot(Prot::READ | Prot::WRITE),
            shared: false,
            backing: Backing::Anonymous {},
            advice: self
                .no_reserve
                .then_some(Advice::NoReserve)
                .into_iter()
                .collect(),
            name: None,
            guards: Vec::new(),
            resident: self.read.iter().map(|read| length(read)).sum(),
            huge: 0,
            inherited: None,
        }
    }
}

/// Shows every page in the range that a member has from before a fork, or that was forked from it: which member, where,
/// and which frame.
fn each(
    range: &Range<u64>,
    members: &[usize],
    processes: &[Process],
    layouts: &[Layout],
    mut see: impl FnMut(usize, u64, u64),
) -> Result<()> {
    for (nth, member) in members.iter().enumerate() {
        let mut own = areas(&processes[*member]);
        let Some(area) = own.find(|area| area.start == range.start && is_common(area)) else {
            continue;
        };
        let Some(place) = slot(&processes[*member], layouts) else {
            continue;
        };
        let layout = &layouts[place];
        let map = PageMap::open(layout.pid)?;
        let end = area.end.min(range.end);
        let from = layout
            .pages
            .partition_point(|pages| pages.end <= range.start);
        let pages = layout
            .pages
            .iter()
            .skip(from)
            .take_while(|pages| pages.start < end);
        for pages in pages {
            let part = pages.start.max(range.start)..pages.end.min(end);
            for (at, frame) in map.common(part)? {
                see(nth, at, frame);
            }
        }
    }
    Ok(())
}

fn join(ranges: &mut Vec<Range<u64>>, at: u64) {
    match ranges.last_mut() {
        Some(last) if last.end == at => last.end += PAGE,
        _ => ranges.push(at..at + PAGE),
    }
}

/// Ranges without others, both in order.
fn without(ranges: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::with_capacity(ranges.len());
    let mut others = others.iter().peekable();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            while others.next_if(|other| other.end <= at).is_some() {}
            match others.peek().filter(|other| other.start < range.end) {
                Some(other) => {
                    if at < other.start {
                        left.push(at..other.start);
                    }
                    at = other.end;
                }
                None => {
                    left.push(at..range.end);
                    break;
                }
            }
        }
    }
    left
}

/// Makes a process that is about to fork have its family's areas, empty.
pub fn prepare(target: &mut Target, family: &Family) -> Result<()> {
    super::clear(target, family.pid, &family.space)?;
    super::map(target, family.pid, &family.space)
}

/// After the last of the family's pages.
pub fn settle(process: &mut TargetProcess, family: &Family) -> Result<()> {
    huge::settle(process, &family.space)
}

/// What of the memory a process has from before stays, as its record says; it must be there.
pub(super) fn kept(space: &Space, shown: &[maps::Area]) -> Result<Vec<Range<u64>>> {
    let mut kept = Vec::new();
    for area in &space.areas {
        let Some(inherited) = &area.inherited else {
            continue;
        };
        let mut at = area.start;
        for there in shown {
            let plain = !there.shared && there.inode == 0 && there.device == 0;
            if there.start <= at && at < there.end && plain {
                at = there.end;
            }
        }
        if at < inherited.end {
            return Err(Error::Refused(format!(
                "the area at {:#x} of space {} was to be inherited, and is not there",
                area.start, space.id.0
            )));
        }
        kept.push(area.start..inherited.end);
    }
    Ok(kept)
}

/// What of these areas, in order, is to be unmapped.
pub(super) fn unmapped(shown: &[Range<u64>], kept: &[Range<u64>]) -> Vec<Call> {
    let calls = without(shown, kept).into_iter();
    calls
        .map(|range| Call::new(libc::SYS_munmap, &[range.start, range.end - range.start]))
        .collect()
}

/// What makes the area that was inherited the one it is to be, without the pages that are the process's own.
pub(super) fn adapt(area: &Area, inherited: &Inherited, prot: Prot) -> Vec<Call> {
    let (start, len, had) = (area.start, area.len(), inherited.end - area.start);
    let mut calls = Vec::new();
    if had > len {
        calls.push(Call::new(libc::SYS_munmap, &[area.end, had - len]));
    } else if had < len {
        calls.push(Call::new(libc::SYS_mremap, &[start, had, len, 0]));
    }
    let whole = start..area.end.min(inherited.end);
    let kept: Vec<Range<u64>> = inherited
        .runs
        .iter()
        .map(|run| run.start..run.start + run.len)
        .collect();
    let drop = |range: Range<u64>| {
        let args = [
            range.start,
            range.end - range.start,
            libc::MADV_DONTNEED as u64,
        ];
        Call::new(libc::SYS_madvise, &args)
    };
    calls.extend(without(&[whole], &kept).into_iter().map(drop));
    calls.push(Call::new(libc::SYS_mprotect, &[start, len, prot.0.into()]));
    let dump = match area.has(Advice::DontDump) {
        true => libc::MADV_DONTDUMP,
        // Said of it in the family where it had to be told from its neighbour.
        false => libc::MADV_DODUMP,
    };
    calls.push(Call::new(libc::SYS_madvise, &[start, len, dump as u64]));
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_common_is_left_out_of_what_is_ones_own() {
        let all = [0..10, 20..30, 40..50];
        let left = |others: &[Range<u64>]| without(&all, others);
        assert_eq!(left(&[]), all);
        assert_eq!(left(&[0..10, 20..30, 40..50]), Vec::<Range<u64>>::new());
        assert_eq!(left(&[2..4, 25..45]), [0..2, 4..10, 20..25, 45..50]);
        assert_eq!(left(&[0..1, 9..21, 49..99]), [1..9, 21..30, 40..49]);
    }
}
