//! Runs of pages: what a `pages/N` entry holds of a space or a memory object, and whether it may.

use super::{Shared, Space};
use serde::{Deserialize, Serialize};

/// Unit of everything in an address space, in bytes.
pub const PAGE: u64 = 4096;

/// A run of whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// First byte: an address in a space, an offset in a memory object.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Run {
    /// Whether it is one of whole pages and lies between these bounds.
    pub fn within(&self, start: u64, end: u64) -> bool {
        let Some(last) = self.start.checked_add(self.len) else {
            return false;
        };
        self.len > 0
            && self.start.is_multiple_of(PAGE)
            && self.len.is_multiple_of(PAGE)
            && self.start >= start
            && last <= end
    }
}

impl Space {
    /// Whether the run lies in private memory of areas that follow each other without a gap; else what is wrong.
    pub fn check_run(&self, run: Run) -> Result<(), String> {
        let wrong = || {
            format!(
                "the pages {:#x}+{:#x} lie in no private area of space {}",
                run.start, run.len, self.id.0
            )
        };
        if !run.within(0, u64::MAX) {
            return Err(wrong());
        }
        let (mut at, end) = (run.start, run.start.saturating_add(run.len));
        while at < end {
            let area = self.area(at).filter(|area| area.holds_pages());
            at = area.ok_or_else(wrong)?.end;
        }
        Ok(())
    }
}

impl Shared {
    /// Whether the run lies in the object; else what is wrong.
    pub fn check_run(&self, run: Run) -> Result<(), String> {
        if self.span().is_some_and(|span| run.within(0, span)) {
            return Ok(());
        }
        Err(format!(
            "the pages {:#x}+{:#x} lie outside memory object {}",
            run.start, run.len, self.id.0
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bytes;
    use crate::ids::{SharedId, SpaceId};
    use crate::memory::shared::Object;
    use crate::memory::{Area, Backing, Fields, Prot};

    fn area(start: u64, end: u64, backing: Backing) -> Area {
        Area {
            start,
            end,
            prot: Prot(Prot::READ),
            shared: false,
            backing,
            advice: Vec::new(),
            name: None,
            guards: Vec::new(),
            resident: 0,
            huge: 0,
            inherited: None,
        }
    }

    fn space() -> Space {
        Space {
            id: SpaceId(1),
            areas: vec![
                area(0x1000, 0x3000, Backing::Anonymous {}),
                area(0x3000, 0x5000, Backing::Anonymous {}),
                area(0x5000, 0x7000, Backing::Vdso {}),
                area(0x9000, 0xa000, Backing::Anonymous {}),
            ],
            files: Vec::new(),
            fields: Fields {
                start_code: 0,
                end_code: 0,
                start_data: 0,
                end_data: 0,
                start_brk: 0,
                brk: 0,
                start_stack: 0,
                arg_start: 0,
                arg_end: 0,
                env_start: 0,
                env_end: 0,
                auxv: Bytes::default(),
                exe: None,
            },
            vdso: Bytes::default(),
            coredump_filter: 0x33,
            thp_disabled: false,
            future_locks: None,
        }
    }

    #[test]
    fn pages_outside_private_areas_are_refused() {
        let space = space();
        assert_eq!(space.check(), Ok(()));
        for (start, len) in [(0x1000, 0x1000), (0x2000, 0x3000), (0x9000, 0x1000)] {
            assert_eq!(space.check_run(Run { start, len }), Ok(()), "{start:#x}");
        }
        for (start, len) in [
            (0, 0x1000),
            (0x1000, 0),
            (0x1001, 0x1000),
            (0x4000, 0x2000),
            (0x9000, 0x2000),
            (u64::MAX - 0xfff, 0x1000),
        ] {
            assert!(space.check_run(Run { start, len }).is_err(), "{start:#x}");
        }
    }

    #[test]
    fn areas_that_overlap_are_refused() {
        let mut space = space();
        space.areas.swap(0, 1);
        assert!(space.check().is_err());
    }

    #[test]
    fn pages_behind_a_memory_object_are_refused() {
        let object = Shared {
            id: SharedId(3),
            object: Object::Anonymous {},
            size: 5000,
        };
        let run = |start, len| object.check_run(Run { start, len });
        assert_eq!(run(0, 0x2000), Ok(()));
        assert!(run(0, 0x3000).is_err() && run(0x2000, 0x1000).is_err());
    }
}
