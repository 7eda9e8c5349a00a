//! Address spaces: areas, pages, mm fields, vDSO, and memory that several spaces share.
//!
//! Taking: [`blockers`] before the freeze; then [`dump`] for each space, [`Inodes::write_pages`] and [`write_pages`].
//! Giving back, in this order: [`shared::restore`], the objects' pages by [`pages::object`], [`shared::seal`]; for each
//! space [`clear`], [`fields()`], [`map`]; its pages by a [`Filler`], as they arrive; after the last one [`protect`].

use crate::{Blocker, Error, Result, SourceProcess};
use image::ids::SpaceId;
use image::memory::Space;
use kernel::Pid;
use kernel::pagemap::PageMap;
use kernel::proc::{Proc, maps, status};
use kernel::remote::STUB_LEN;
use std::ops::Range;

pub mod areas;
mod executable;
pub mod family;
pub mod fields;
mod huge;
mod locks;
pub mod mapped;
pub mod pages;
pub mod rings;
pub mod segments;
pub mod shared;
pub mod vdso;

pub use areas::{map, protect};
pub use fields::restore as fields;
pub use pages::{Filler, write as write_pages};
pub use shared::Inodes;
pub use vdso::clear;
pub(crate) use vdso::empty;

/// Unit of everything here, in bytes.
const PAGE: u64 = image::memory::pages::PAGE;
/// The lowest address a process may map (`/proc/sys/vm/mmap_min_addr` as distributions set it).
const LOWEST: u64 = 0x10000;
/// The first address behind a program's on x86-64 with four-level page tables, less one page (arch/x86/include/asm/page_64_types.h).
const TOP: u64 = (1 << 47) - PAGE;

/// What is not written down of a space, but needed until its pages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The process, in our pid namespace.
    pub pid: Pid,
    /// Its space.
    pub space: SpaceId,
    /// All areas.
    pub areas: Vec<Range<u64>>,
    /// Pages that travel, in order.
    pub pages: Vec<Range<u64>>,
}

/// Processes beneath whose root directories the files are found that a process maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roots {
    /// One in the same mount namespace.
    pub own: Pid,
    /// The container's first.
    pub container: Pid,
}

impl From<Pid> for Roots {
    fn from(container: Pid) -> Self {
        let own = container;
        Roots { own, container }
    }
}

/// What in a process's memory cannot travel. For a process that runs.
pub fn blockers(pid: Pid, roots: impl Into<Roots>) -> Result<Vec<Blocker>> {
    let sight = mapped::Sight::through(roots.into())?;
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for area in maps::read_all(pid)? {
        // One word for each thing, not for each area of it.
        let key = (area.device, area.inode, area.name.clone());
        if area.inode != 0 && seen.contains(&key) {
            continue;
        }
        seen.push(key);
        if let Err(blocker) = mapped::named(pid, &area, &sight)? {
            found.push(blocker);
        }
    }
    Ok(found)
}

/// Takes the space of a stopped process; what is in its pages is read later, as its layout says. Inodes without a name that it maps are added to `inodes`.
pub fn dump(
    process: &mut SourceProcess,
    id: SpaceId,
    roots: impl Into<Roots>,
    inodes: &mut Inodes,
) -> Result<(Space, Layout)> {
    let pid = process.pid;
    let shown = maps::read_all(pid)?;
    let mut map = PageMap::open(pid)?;
    let sight = mapped::Sight::through(roots.into())?;
    let (areas, mut files, pages) = areas::dump(pid, &shown, &sight, inodes, &mut map)?;
    let fields = fields::dump(process, &shown, &sight, &mut files, inodes)?;
    let layout = Layout {
        pid,
        space: id,
        areas: areas.iter().map(|area| area.start..area.end).collect(),
        pages,
    };
    let space = Space {
        id,
        areas,
        files: files.list,
        fields,
        vdso: vdso::dump(pid, &shown)?.into(),
        coredump_filter: coredump_filter(&process.proc)?,
        thp_disabled: thp_disabled(pid)?,
        future_locks: locks::dump(process)?,
    };
    Ok((space, layout))
}

fn coredump_filter(proc: &Proc) -> Result<u32> {
    let text = proc.text("coredump_filter")?;
    u32::from_str_radix(text.trim(), 16)
        .map_err(|_| kernel::Error::unreadable("coredump_filter", text).into())
}

/// `THP_enabled` of `/proc/PID/status`; kernels before 5.0 do not tell, and it is rare.
fn thp_disabled(pid: Pid) -> Result<bool> {
    let status = status::parse(&Proc::process(pid).text("status")?);
    Ok(status.get("THP_enabled") == Some("0"))
}

/// An address at which a stub is free in all of these layouts, and a page on each side of it.
pub fn free_everywhere<'a>(layouts: impl IntoIterator<Item = &'a Layout>) -> Result<u64> {
    let taken = layouts
        .into_iter()
        .flat_map(|layout| layout.areas.iter().cloned());
    free(taken.collect(), STUB_LEN + 2 * PAGE).map(|at| at + PAGE)
}

/// The lowest address at which `len` bytes are free, given what is taken.
fn free(taken: Vec<Range<u64>>, len: u64) -> Result<u64> {
    free_above(LOWEST, taken, len)
}

fn free_above(lowest: u64, mut taken: Vec<Range<u64>>, len: u64) -> Result<u64> {
    taken.sort_unstable_by_key(|range| range.start);
    let mut at = lowest;
    for range in taken {
        if range.start >= at.saturating_add(len) {
            break;
        }
        at = at.max(range.end);
    }
    if at.saturating_add(len) > TOP {
        return Err(Error::Refused(format!(
            "no {len} bytes of address space are free in all processes at once"
        )));
    }
    Ok(at)
}

fn call(what: &str, errno: nix::errno::Errno) -> Error {
    kernel::Error::errno(what, errno as i32).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(areas: &[Range<u64>]) -> Layout {
        Layout {
            pid: 1,
            space: SpaceId(1),
            areas: areas.to_vec(),
            pages: Vec::new(),
        }
    }

    #[test]
    fn the_stub_s_place_is_free_in_every_layout() {
        let first = layout(&[0x400000..0x500000, 0x10000..0x20000]);
        assert_eq!(free_everywhere([&first]).unwrap(), 0x21000);
        let second = layout(&[0x20000..0x200000, 0x200000..0x300000]);
        assert_eq!(free_everywhere([&first, &second]).unwrap(), 0x301000);
        assert_eq!(free_everywhere([]).unwrap(), LOWEST + PAGE);
        assert!(free_everywhere([&layout(&[0..LOWEST, LOWEST..TOP])]).is_err());
    }
}
