//! Memory that processes have in common since fork(2), copy on write: `family/PID.json`. Its pages follow right behind the
//! record, and come once for all; they are placed before the first of the family forks, so that they are shared again.

use super::pages::{PAGE, Run};
use super::{Area, Backing, Space};
use crate::ids::Pid;
use serde::{Deserialize, Serialize};

/// What a process and those forked from it have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// The process that all others of the family are forked from, directly or not.
    pub pid: Pid,
    /// The areas as the process has them before it forks, its vDSO among them; file list and fields are its own. Its id is
    /// no process's.
    pub space: Space,
}

/// An area that a process has from its family, in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inherited {
    /// The first address behind the area in the family; it starts where the process's does.
    pub end: u64,
    /// The pages that are still those of the family.
    pub runs: Vec<Run>,
}

impl Inherited {
    /// What is wrong with it, as part of this area, if anything is.
    pub(super) fn check(&self, area: &Area) -> Option<&'static str> {
        let private = !area.shared && area.backing == (Backing::Anonymous {});
        let end = area.end.min(self.end);
        if !private
            || self.end <= area.start
            || !self.end.is_multiple_of(PAGE)
            || self.end > super::areas::TOP
        {
            return Some("cannot be inherited");
        }
        let mut from = area.start;
        for run in &self.runs {
            if !run.within(from, end) {
                return Some("has pages of its family elsewhere, or out of order");
            }
            from = run.start + run.len;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::areas::tests::anonymous;

    #[test]
    fn inherited_pages_lie_in_both_areas_and_in_order() {
        let area = |inherited| Area {
            inherited: Some(inherited),
            ..anonymous(0x4000, 0x8000)
        };
        let run = |start, len| Run { start, len };
        let check = |end, runs: &[Run]| {
            let runs = runs.to_vec();
            area(Inherited { end, runs }).check(0)
        };
        assert_eq!(
            check(0x6000, &[run(0x4000, 0x1000), run(0x5000, 0x1000)]),
            Ok(())
        );
        assert_eq!(check(0x9000, &[run(0x7000, 0x1000)]), Ok(()));
        assert!(check(0x6000, &[run(0x6000, 0x1000)]).is_err());
        assert!(check(0x9000, &[run(0x8000, 0x1000)]).is_err());
        assert!(check(0x8000, &[run(0x5000, 0x1000), run(0x4000, 0x1000)]).is_err());
        assert!(check(0x8001, &[]).is_err());
        assert!(check(0x4000, &[]).is_err());
        assert!(check(u64::MAX - 0xfff, &[]).is_err());
        let mut shared = area(Inherited {
            end: 0x8000,
            runs: Vec::new(),
        });
        shared.shared = true;
        assert!(shared.check(0).is_err());
    }
}
