//! Which pages of a process hold something of its own: `PAGEMAP_SCAN` where the kernel has it (6.7), else
//! `/proc/PID/pagemap` word by word (Documentation/admin-guide/mm/pagemap.rst).

use crate::error::{Named, check};
use crate::{Error, Pid, Result};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Unit of the map, in bytes.
pub const PAGE: u64 = 4096;

/// A range of addresses: the first, and the first behind it.
pub type Range = std::ops::Range<u64>;

/// A process's page map, open.
#[derive(Debug)]
pub struct PageMap {
    file: File,
    pid: Pid,
    scans: bool,
    guards: bool,
    /// What the kernel fills, kept from call to call.
    regions: Vec<Region>,
}

/// `struct pm_scan_arg` (include/uapi/linux/fs.h).
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_PFNZERO: u64 = 1 << 5;
/// Since 6.15.
const IS_GUARD: u64 = 1 << 8;
/// Regions asked for at once.
const REGIONS: usize = 4096;

/// Bits of a word of the map.
const WORD_PRESENT: u64 = 1 << 63;
const WORD_SWAPPED: u64 = 1 << 62;
const WORD_FILE: u64 = 1 << 61;
/// Mapped here only.
const WORD_EXCLUSIVE: u64 = 1 << 56;
const WORD_FRAME: u64 = (1 << 55) - 1;
/// Since 6.15.
const WORD_GUARD: u64 = 1 << 58;
/// Words read at once.
const WORDS: usize = 8192;

impl PageMap {
    /// Opens the map of a process and finds out what the kernel can tell of it.
    pub fn open(pid: Pid) -> Result<Self> {
        let path = format!("/proc/{pid}/pagemap");
        let file = File::open(&path).named(|| format!("open {path}"))?;
        let mut map = PageMap {
            file,
            pid,
            scans: true,
            guards: true,
            regions: vec![Region::default(); REGIONS],
        };
        // An empty range tells whether the categories are known, at no cost.
        map.guards = map.scan(0..PAGE, 0, IS_GUARD).is_ok();
        map.scans = map.guards || map.scan(0..PAGE, 0, IS_PRESENT).is_ok();
        Ok(map)
    }

    /// Whether guard pages (`MADV_GUARD_INSTALL`) are seen by this kernel's map.
    pub fn sees_guards(&self) -> bool {
        self.guards
    }

    /// The pages in the range that hold memory of the process's own, in order, neighbours in one: not those of files,
    /// not the zero page, not guard pages. Shared memory counts as a file.
    pub fn own(&mut self, range: Range) -> Result<Vec<Range>> {
        if !self.scans {
            return self.words(range, |word| {
                word & (WORD_PRESENT | WORD_SWAPPED) != 0 && word & (WORD_FILE | WORD_GUARD) == 0
            });
        }
        let mut none_of = IS_FILE | IS_PFNZERO;
        if self.guards {
            none_of |= IS_GUARD;
        }
        self.scan(range, none_of, IS_PRESENT | IS_SWAPPED)
    }

    /// The pages in the range that others have too, copy on write: address and page frame, which only a privileged reader
    /// is shown. The zero page is everybody's.
    pub fn common(&self, range: Range) -> Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        self.each_word(range, |at, word| {
            let frame = word & WORD_FRAME;
            let alone = word & (WORD_EXCLUSIVE | WORD_FILE) != 0;
            if word & WORD_PRESENT != 0 && !alone && frame != 0 {
                found.push((at, frame));
            }
        })?;
        Ok(found)
    }

    /// The guard pages in the range; nothing where the kernel does not tell.
    pub fn guards(&mut self, range: Range) -> Result<Vec<Range>> {
        match (self.guards, self.scans) {
            (true, _) => self.scan(range, 0, IS_GUARD),
            (false, true) => Ok(Vec::new()),
            (false, false) => self.words(range, |word| word & WORD_GUARD != 0),
        }
    }

    fn scan(&mut self, range: Range, none_of: u64, any_of: u64) -> Result<Vec<Range>> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                flags: 0,
                start: at,
                end: range.end,
                walk_end: 0,
                vec: self.regions.as_mut_ptr() as u64,
                vec_len: self.regions.len() as u64,
                max_pages: 0,
                category_inverted: none_of,
                category_mask: none_of,
                category_anyof_mask: any_of,
                // One that no page found has: so that neighbours of different kinds come as one region.
                return_mask: if none_of == 0 { any_of } else { IS_FILE },
            };
            // SAFETY: the argument is the request's struct, and `vec` points to `vec_len` regions that outlive the call.
            let count = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &mut arg) };
            let count = check(count.into(), || {
                format!("scan pages of process {}", self.pid)
            })?;
            for region in self.regions.iter().take(count as usize) {
                join(&mut found, region.start..region.end);
            }
            if arg.walk_end <= at {
                break;
            }
            at = arg.walk_end;
        }
        Ok(found)
    }

    fn words(&self, range: Range, wanted: impl Fn(u64) -> bool) -> Result<Vec<Range>> {
        let mut found = Vec::new();
        self.each_word(range, |at, word| {
            if wanted(word) {
                join(&mut found, at..at + PAGE);
            }
        })?;
        Ok(found)
    }

    fn each_word(&self, range: Range, mut see: impl FnMut(u64, u64)) -> Result<()> {
        let mut bytes = vec![0; WORDS * 8];
        let mut at = range.start;
        while at < range.end {
            let count = ((range.end - at) / PAGE).clamp(1, WORDS as u64) as usize;
            let chunk = bytes
                .get_mut(..count * 8)
                .ok_or_else(|| Error::unreadable("pagemap", "its own buffer"))?;
            self.file
                .read_exact_at(chunk, at / PAGE * 8)
                .named(|| format!("read the page map of process {} at {at:#x}", self.pid))?;
            for word in chunk.chunks_exact(8) {
                see(at, u64::from_ne_bytes(word.try_into().unwrap_or_default()));
                at += PAGE;
            }
        }
        Ok(())
    }
}

fn join(found: &mut Vec<Range>, next: Range) {
    match found.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => found.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own::Area;

    const ME: fn() -> Pid = || std::process::id() as Pid;

    /// Sixteen pages: 2, 3 and 7 written, 5 read (zero page), 9 a guard page.
    fn prepared() -> Area {
        let area = Area::private(16 * PAGE as usize).unwrap();
        for page in [2, 3, 7] {
            area.write(page * PAGE as usize, b"x").unwrap();
        }
        area.read(5 * PAGE as usize, 1).unwrap();
        area
    }

    fn relative(area: &Area, found: Vec<Range>) -> Vec<Range> {
        let base = area.address();
        let page = |address: u64| (address - base) / PAGE;
        found
            .into_iter()
            .map(|r| page(r.start)..page(r.end))
            .collect()
    }

    fn whole(area: &Area) -> Range {
        area.address()..area.address() + area.length() as u64
    }

    #[test]
    fn only_pages_that_were_written_are_the_process_s_own() {
        let area = prepared();
        let mut map = PageMap::open(ME()).unwrap();
        let found = relative(&area, map.own(whole(&area)).unwrap());
        assert_eq!(found, [2..4, 7..8]);
    }

    #[test]
    fn an_old_kernel_s_map_tells_the_same_but_for_the_zero_page() {
        let area = prepared();
        let mut map = PageMap::open(ME()).unwrap();
        (map.scans, map.guards) = (false, false);
        let found = relative(&area, map.own(whole(&area)).unwrap());
        assert_eq!(found, [2..4, 5..6, 7..8]);
    }

    #[test]
    fn guard_pages_are_seen_where_the_kernel_tells_of_them() {
        let area = prepared();
        let mut map = PageMap::open(ME()).unwrap();
        const MADV_GUARD_INSTALL: i32 = 102;
        if !map.sees_guards() {
            assert!(map.guards(whole(&area)).unwrap().is_empty());
            return;
        }
        area.advise(9 * PAGE as usize, PAGE as usize, MADV_GUARD_INSTALL)
            .unwrap();
        assert_eq!(
            relative(&area, map.guards(whole(&area)).unwrap()),
            vec![9..10]
        );
        assert_eq!(
            relative(&area, map.own(whole(&area)).unwrap()),
            [2..4, 7..8]
        );
    }

    #[test]
    fn pages_of_files_and_of_shared_memory_are_not_ours_until_changed() {
        let file = File::open("/proc/self/exe").unwrap();
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        use std::os::fd::AsFd;
        let private = Area::map(
            4 * PAGE as usize,
            prot,
            libc::MAP_PRIVATE,
            Some((file.as_fd(), 0)),
        )
        .unwrap();
        private.read(0, 4 * PAGE as usize).unwrap();
        private.write(PAGE as usize, b"x").unwrap();
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let shared = Area::map(4 * PAGE as usize, prot, flags, None).unwrap();
        shared.write(0, b"x").unwrap();
        let mut map = PageMap::open(ME()).unwrap();
        assert_eq!(
            relative(&private, map.own(whole(&private)).unwrap()),
            vec![1..2]
        );
        assert!(map.own(whole(&shared)).unwrap().is_empty());
    }

    #[test]
    fn pages_are_common_until_one_of_two_writes_to_them() {
        let area = prepared();
        let map = PageMap::open(ME()).unwrap();
        let zero = map.common(whole(&area)).unwrap();
        assert_eq!(zero.len(), 1);
        let (told, tell) = nix::unistd::pipe().unwrap();
        // SAFETY: the child makes two system calls, which are safe after fork in a program with threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: one byte is read into a buffer of one byte.
            unsafe {
                let mut byte = 0u8;
                libc::close(tell.as_raw_fd());
                libc::read(told.as_raw_fd(), (&raw mut byte).cast(), 1);
                libc::_exit(0);
            }
        }
        area.write(3 * PAGE as usize, b"y").unwrap();
        let base = area.address();
        let pages = |pid| {
            let map = PageMap::open(pid).unwrap();
            let found = map.common(whole(&area)).unwrap();
            found
                .into_iter()
                .map(|(at, frame)| ((at - base) / PAGE, frame))
                .collect::<Vec<_>>()
        };
        let (own, theirs) = (pages(ME()), pages(child));
        drop(tell);
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).unwrap();
        assert_eq!(
            own.iter().map(|(page, _)| *page).collect::<Vec<_>>(),
            [2, 5, 7]
        );
        assert_eq!(own, theirs);
    }

    #[test]
    fn more_regions_than_one_call_gives_are_all_found() {
        let pages = 2 * REGIONS + 10;
        let area = Area::private(2 * pages * PAGE as usize).unwrap();
        area.advise(0, area.length(), libc::MADV_NOHUGEPAGE)
            .unwrap();
        for page in 0..pages {
            area.write(2 * page * PAGE as usize, b"x").unwrap();
        }
        let mut map = PageMap::open(ME()).unwrap();
        assert_eq!(map.own(whole(&area)).unwrap().len(), pages);
    }
}
