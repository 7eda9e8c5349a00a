//! Huge pages where the source was dense: filling them costs a third of filling small ones. They are filled at another
//! address, in an area that asks for them, and moved (`UFFDIO_MOVE`) to where they belong, so that the program's own
//! areas keep what was said of them; an area that once asked for huge pages cannot be made to forget it.

use super::free_above;
use crate::{Result, TargetProcess};
use image::memory::{Advice, Area, Backing, Prot, Space};
use kernel::pagemap::PageMap;
use kernel::remote::{Call, Caller};
use kernel::{userfault, vm};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Size of a huge page, in bytes (x86-64).
const HUGE: u64 = 2 << 20;
/// An area is worth it from this many bytes of pages on.
const WORTH: u64 = 2 * HUGE;
/// Where the other addresses begin: above what the stub and the vDSO are given.
const ABOVE: u64 = 1 << 32;
/// Moves asked for at once.
const AT_ONCE: usize = 256;

/// Where the pages of an area are filled in: at the same distance from a huge page's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shadow {
    /// The area itself.
    pub area: Range<u64>,
    /// Its protection while it is filled.
    pub prot: Prot,
    /// The address at which the area is filled.
    pub base: u64,
}

impl Shadow {
    fn len(&self) -> u64 {
        self.area.end - self.area.start
    }
}

/// The shadows of a space on this host: the same whenever asked.
pub(super) fn shadows(space: &Space) -> Result<Vec<Shadow>> {
    if space.thp_disabled || !userfault::available() || !userfault::huge_pages() {
        return Ok(Vec::new());
    }
    plan(space)
}

fn plan(space: &Space) -> Result<Vec<Shadow>> {
    let mut taken: Vec<Range<u64>> = space.areas.iter().map(|a| a.start..a.end).collect();
    let mut shadows = Vec::new();
    for area in space.areas.iter().filter(|area| is_worth(area)) {
        let at = free_above(ABOVE, taken.clone(), area.len() + 2 * HUGE)?;
        let base = at.next_multiple_of(HUGE) + area.start % HUGE;
        taken.push(at..at + area.len() + 2 * HUGE);
        shadows.push(Shadow {
            area: area.start..area.end,
            prot: Prot(area.prot.0 | Prot::READ | Prot::WRITE),
            base,
        });
    }
    Ok(shadows)
}

fn is_worth(area: &Area) -> bool {
    let otherwise = [
        Advice::GrowsDown,
        Advice::Droppable,
        Advice::NoHugePage,
        Advice::HugePage,
        Advice::Locked,
        Advice::LockedOnFault,
    ];
    area.backing == (Backing::Anonymous {})
        && area.resident >= WORTH
        && !otherwise.iter().any(|advice| area.has(*advice))
}

/// Maps the shadows.
pub(super) fn map(process: &mut TargetProcess, space: &Space) -> Result<()> {
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let mut calls = Vec::new();
    for shadow in shadows(space)? {
        let (at, len) = (shadow.base, shadow.len());
        let args = [at, len, shadow.prot.0.into(), flags as u64, u64::MAX, 0];
        calls.push(Call::new(libc::SYS_mmap, &args));
        let args = [at, len, libc::MADV_HUGEPAGE as u64];
        calls.push(Call::new(libc::SYS_madvise, &args));
    }
    process
        .leader
        .must_all(&calls, &|_| "prepare huge pages".into())?;
    Ok(())
}

/// Where the bytes of these ranges are placed: whole huge pages in the shadow of their area, the rest where they belong.
pub(super) fn place(shadows: &[Shadow], ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut placed = Vec::with_capacity(ranges.len());
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let next = shadows.iter().find(|shadow| shadow.area.end > at);
            let (inside, end) = match next {
                Some(shadow) if shadow.area.start <= at => {
                    (Some(shadow), shadow.area.end.min(range.end))
                }
                Some(shadow) => (None, shadow.area.start.min(range.end)),
                None => (None, range.end),
            };
            let (first, last) = (at.next_multiple_of(HUGE), end - end % HUGE);
            match inside.filter(|_| first < last) {
                Some(shadow) => {
                    let there = |address: u64| address - shadow.area.start + shadow.base;
                    let parts = [at..first, there(first)..there(last), last..end];
                    placed.extend(parts.into_iter().filter(|part| !part.is_empty()));
                }
                None => placed.push(at..end),
            }
            at = end;
        }
    }
    placed
}

/// Bytes decided on together.
pub(super) const PORTION: u64 = 4 * HUGE;

/// Cuts ranges so that none is longer than a portion, at whole huge pages.
pub(super) fn cut(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all = Vec::with_capacity(ranges.len());
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at - at % PORTION + PORTION);
            all.push(at..end);
            at = end;
        }
    }
    all
}

/// Whether all of these lie in shadows.
pub(super) fn is_in(shadows: &[Shadow], ranges: &[Range<u64>]) -> bool {
    ranges.iter().all(|range| {
        let over = |s: &Shadow| s.base <= range.start && range.end <= s.base + s.len();
        shadows.iter().any(over)
    })
}

/// What huge pages cost on this host at this time. In a virtual machine whose host takes free memory back, the large
/// free pieces are the ones that were taken back, and each costs many times what small pages do.
#[derive(Debug, Default)]
pub(super) struct Price {
    /// Mean of the last ones, nanoseconds of processor time for a MiB.
    mean: AtomicU64,
    /// Portions decided against since the last try.
    declined: AtomicU64,
}

/// What small pages cost: 380 to 550 on the machines measured.
const DEAR: u64 = 600_000;
/// After so many portions in small pages, huge ones are tried again.
const PATIENCE: u64 = 48;

impl Price {
    /// Tells what some bytes did cost.
    pub fn paid(&self, nanoseconds: u64, bytes: usize) {
        let one = nanoseconds.saturating_mul(1 << 20) / bytes.max(1) as u64;
        let before = self.mean.load(Relaxed);
        self.mean.store((3 * before + one) / 4, Relaxed);
    }

    /// Whether huge pages are worth it for the next portion.
    pub fn is_right(&self) -> bool {
        if self.mean.load(Relaxed) <= DEAR {
            return true;
        }
        if self.declined.fetch_add(1, Relaxed) + 1 < PATIENCE {
            return false;
        }
        self.declined.store(0, Relaxed);
        self.mean.store(DEAR / 2, Relaxed);
        true
    }
}

/// Processor time of this thread, nanoseconds: what others take of the machine does not count.
pub(super) fn spent() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(0, |t| {
        t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
    })
}

/// Moves all pages from the shadows to where they belong, and takes the shadows away.
pub(super) fn settle(process: &mut TargetProcess, space: &Space) -> Result<()> {
    let shadows = shadows(space)?;
    if shadows.is_empty() {
        return Ok(());
    }
    let mut map = PageMap::open(process.pid)?;
    let mut runs = Vec::new();
    for shadow in &shadows {
        for run in map.own(shadow.base..shadow.base + shadow.len())? {
            let to = run.start - shadow.base + shadow.area.start;
            runs.push((run.start, to, run.end - run.start));
        }
    }
    let left = relocate(process, &shadows, &runs)?;
    for (from, to, len) in left {
        copy(process, from, to, len)?;
    }
    let unmap: Vec<Call> = shadows
        .iter()
        .map(|shadow| Call::new(libc::SYS_munmap, &[shadow.base, shadow.len()]))
        .collect();
    process
        .leader
        .must_all(&unmap, &|_| "end with huge pages".into())?;
    Ok(())
}

/// From, to, length.
type Run = (u64, u64, u64);

/// Moves the runs; gives what of them the kernel would not move.
fn relocate(process: &mut TargetProcess, shadows: &[Shadow], runs: &[Run]) -> Result<Vec<Run>> {
    let task = &mut process.leader;
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let fd = task.call(userfault::open())?;
    if fd < 0 {
        return Ok(runs.to_vec());
    }
    let fd = fd as u64;
    let at = task.put(&userfault::api())?;
    let mut refused = task.call(userfault::agree(fd, at))? < 0;
    for shadow in shadows {
        let at = task.put(&userfault::area(shadow.area.start, shadow.len()))?;
        refused |= task.call(userfault::register(fd, at))? < 0;
    }
    let mut left = Vec::new();
    for runs in runs.chunks(AT_ONCE) {
        if refused {
            left.extend_from_slice(runs);
            continue;
        }
        let arguments = runs
            .iter()
            .map(|(from, to, len)| userfault::run(*from, *to, *len));
        let mut bytes: Vec<u8> = arguments.flatten().collect();
        let at = task.put(&bytes)?;
        let slots = (0..runs.len()).map(|i| at + (i * userfault::MOVE_LEN) as u64);
        let calls: Vec<Call> = slots.map(|slot| userfault::relocate(fd, slot)).collect();
        let results = task.batch(&calls)?;
        task.read(at, &mut bytes)?;
        let arguments = bytes.chunks_exact(userfault::MOVE_LEN);
        for ((run, result), argument) in runs.iter().zip(results).zip(arguments) {
            // The last word says how far it came.
            let moved = argument
                .last_chunk()
                .map_or(0, |w| i64::from_ne_bytes(*w))
                .max(0) as u64;
            if result < 0 {
                let (from, to, len) = *run;
                left.push((from + moved, to + moved, len - moved.min(len)));
            }
        }
    }
    task.must("close", Call::new(libc::SYS_close, &[fd]))?;
    Ok(left)
}

/// What the kernel would not move is copied.
fn copy(process: &TargetProcess, from: u64, to: u64, len: u64) -> Result<()> {
    let mut buffer = vec![0; HUGE.min(len) as usize];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(HUGE) as usize;
        let bytes = buffer.get_mut(..part).unwrap_or_default();
        vm::read(process.pid, from + done, bytes)?;
        vm::write(process.pid, to + done, bytes)?;
        done += part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::PAGE;

    fn shadow(start: u64, end: u64, base: u64) -> Shadow {
        Shadow {
            area: start..end,
            prot: Prot(3),
            base,
        }
    }

    #[test]
    fn dear_huge_pages_are_declined_and_tried_again() {
        let price = Price::default();
        assert!(price.is_right());
        (0..8).for_each(|_| price.paid(100_000, 1 << 20));
        assert!(price.is_right());
        (0..8).for_each(|_| price.paid(1_500_000, 1 << 19));
        let tries: Vec<bool> = (0..PATIENCE).map(|_| price.is_right()).collect();
        assert_eq!(tries.iter().filter(|right| **right).count(), 1);
        assert_eq!(tries.last(), Some(&true));
        (0..2).for_each(|_| price.paid(3_000_000, 1 << 20));
        assert!(!price.is_right());
    }

    #[test]
    fn portions_end_at_whole_huge_pages() {
        assert_eq!(
            cut(&[0..0, PAGE..2 * PORTION + PAGE]),
            [
                PAGE..PORTION,
                PORTION..2 * PORTION,
                2 * PORTION..2 * PORTION + PAGE
            ]
        );
    }

    #[test]
    fn only_whole_huge_pages_are_placed_elsewhere() {
        let shadows = [
            shadow(HUGE - PAGE, 4 * HUGE, 100 * HUGE - PAGE),
            shadow(5 * HUGE, 7 * HUGE, 200 * HUGE),
        ];
        let placed = |range| place(&shadows, &[range]);
        assert_eq!(placed(0..PAGE), vec![0..PAGE]);
        assert_eq!(placed(HUGE..2 * HUGE), vec![100 * HUGE..101 * HUGE]);
        let partly = HUGE - PAGE..3 * HUGE - PAGE;
        assert_eq!(
            placed(partly),
            [
                HUGE - PAGE..HUGE,
                100 * HUGE..101 * HUGE,
                2 * HUGE..3 * HUGE - PAGE
            ]
        );
        // Across areas, and behind the last.
        assert_eq!(
            placed(3 * HUGE..8 * HUGE),
            [
                102 * HUGE..103 * HUGE,
                4 * HUGE..5 * HUGE,
                200 * HUGE..202 * HUGE,
                7 * HUGE..8 * HUGE
            ]
        );
        let total = |ranges: &[Range<u64>]| ranges.iter().map(|r| r.end - r.start).sum::<u64>();
        assert_eq!(total(&placed(PAGE..9 * HUGE)), 9 * HUGE - PAGE);
    }
}
