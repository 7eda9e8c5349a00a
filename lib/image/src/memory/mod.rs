//! An address space, and the memory objects that several spaces share. The pages themselves are entries `pages/N`.

use crate::bytes::Bytes;
use crate::ids::SpaceId;
use serde::{Deserialize, Serialize};

pub mod areas;
pub mod family;
pub mod fields;
pub mod mapped;
pub mod pages;
pub mod shared;

pub use areas::{Advice, Area, Prot};
pub use family::{Family, Inherited};
pub use fields::{Executable, Fields};
pub use mapped::{Backing, File};
pub use pages::Run;
pub use shared::Shared;

/// An address space (`struct mm_struct`): part of `process/PID.json` of the first process that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// What `tree.json` and the `pages/N` entries call it.
    pub id: SpaceId,
    /// All areas, in order of address, none over another.
    pub areas: Vec<Area>,
    /// The files that areas map, by their place in this list.
    pub files: Vec<File>,
    /// Where code, data, heap, stack, arguments and environment lie; auxiliary vector and executable.
    pub fields: Fields,
    /// The bytes of `[vdso]`: a host whose own differ has calls into these routed to its own. Empty where there is none.
    pub vdso: Bytes,
    /// Which areas a core dump holds (`/proc/PID/coredump_filter`).
    pub coredump_filter: u32,
    /// Transparent huge pages are off for all of it (`PR_SET_THP_DISABLE`).
    pub thp_disabled: bool,
    /// Areas to come will be locked (mlockall(2), `MCL_FUTURE`), and how; absent where they will not.
    pub future_locks: Option<FutureLocks>,
}

/// How areas to come are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FutureLocks {
    /// With all of their pages, at once.
    AtOnce,
    /// Page by page, when they are touched first (`MCL_ONFAULT`).
    OnFault,
}

impl Space {
    /// What is wrong with the record as a whole, if anything is: areas that overlap or are out of bounds, files that
    /// are not there.
    pub fn check(&self) -> Result<(), String> {
        let mut end = 0;
        for area in &self.areas {
            area.check(self.files.len())?;
            if area.start < end {
                return Err(format!("the area at {:#x} lies over another", area.start));
            }
            end = area.end;
        }
        self.fields.check(self.files.len())
    }

    /// The area that holds an address.
    pub fn area(&self, address: u64) -> Option<&Area> {
        let after = self.areas.partition_point(|area| area.start <= address);
        let area = self.areas.get(after.checked_sub(1)?)?;
        (address < area.end).then_some(area)
    }
}
