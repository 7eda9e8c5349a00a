//! Areas of an address space (`struct vm_area_struct`, proc_pid_maps(5)).

use super::Backing;
use super::family::Inherited;
use super::pages::{PAGE, Run};
use crate::path::Name;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// One area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `rwx`.
    pub prot: Prot,
    /// `MAP_SHARED`: writes are seen by whoever else maps the same.
    pub shared: bool,
    /// What lies behind it.
    pub backing: Backing,
    /// What the program told the kernel of it, as `VmFlags` of `/proc/PID/smaps` shows it.
    pub advice: Vec<Advice>,
    /// The name given by `PR_SET_VMA_ANON_NAME`.
    pub name: Option<Name>,
    /// Guard pages (`MADV_GUARD_INSTALL`).
    pub guards: Vec<Run>,
    /// Bytes of it that follow in `pages/N` entries.
    pub resident: u64,
    /// Of these, bytes that lay in huge pages (`AnonHugePages`).
    pub huge: u64,
    /// What of it the process has from before it was forked; absent where it is mapped afresh.
    pub inherited: Option<Inherited>,
}

/// Flags of an area that are neither protection nor mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    /// `gd`: a stack (`MAP_GROWSDOWN`).
    GrowsDown,
    /// `nr`: `MAP_NORESERVE`.
    NoReserve,
    /// `lo`: `mlock`.
    Locked,
    /// `lf`: `mlock2` with `MLOCK_ONFAULT`.
    LockedOnFault,
    /// `sr`: `MADV_SEQUENTIAL`.
    Sequential,
    /// `rr`: `MADV_RANDOM`.
    Random,
    /// `dd`: `MADV_DONTDUMP`.
    DontDump,
    /// `dc`: `MADV_DONTFORK`.
    DontFork,
    /// `wf`: `MADV_WIPEONFORK`.
    WipeOnFork,
    /// `mg`: `MADV_MERGEABLE`.
    Mergeable,
    /// `hg`: `MADV_HUGEPAGE`.
    HugePage,
    /// `nh`: `MADV_NOHUGEPAGE`.
    NoHugePage,
    /// `dp`: `MAP_DROPPABLE`; its pages may vanish at any time and do not travel.
    Droppable,
    /// `sl`: `mseal`.
    Sealed,
}

/// Protection: read, write, execute, as `PROT_*` bits; written `rwx`, `r--` …
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Prot(pub u8);

impl Prot {
    /// `PROT_READ`.
    pub const READ: u8 = 1;
    /// `PROT_WRITE`.
    pub const WRITE: u8 = 2;
    /// `PROT_EXEC`.
    pub const EXEC: u8 = 4;
    const LETTERS: [(u8, char); 3] = [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::EXEC, 'x')];

    /// May be written to.
    pub fn writable(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// Reads `rwx`, `r--`, `---`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut letters = text.chars();
        let mut bits = 0;
        for (bit, letter) in Self::LETTERS {
            match letters.next()? {
                '-' => (),
                found if found == letter => bits |= bit,
                _ => return None,
            }
        }
        letters.next().is_none().then_some(Prot(bits))
    }
}

impl fmt::Display for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::LETTERS.iter().try_for_each(|(bit, letter)| {
            write!(f, "{}", if self.0 & bit != 0 { *letter } else { '-' })
        })
    }
}

impl fmt::Debug for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Prot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Prot::parse(&text).ok_or_else(|| de::Error::custom(format!("not a protection: {text:?}")))
    }
}

/// First address that is not a program's, on x86-64 with five-level page tables.
pub(super) const TOP: u64 = 1 << 56;

/// Bytes of an event in a queue of asynchronous I/O.
const EVENT: u64 = 32;

/// Whether there may be pages of this size (Documentation/admin-guide/mm/hugetlbpage.rst).
pub fn is_huge(page: u64) -> bool {
    page.is_power_of_two() && page > PAGE && page < TOP
}

impl Area {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it has no length: never, in a record that was checked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the program told the kernel this of it.
    pub fn has(&self, advice: Advice) -> bool {
        self.advice.contains(&advice)
    }

    /// Whether its pages may follow in `pages/N` entries.
    pub fn holds_pages(&self) -> bool {
        !self.shared && !matches!(self.backing, Backing::Vdso {} | Backing::Vvar {})
    }

    /// What is wrong with it, if anything is; `files` is the number of files in the list.
    pub fn check(&self, files: usize) -> Result<(), String> {
        let (start, end) = (self.start, self.end);
        let wrong = |what: &str| Err(format!("the area {start:#x}-{end:#x} {what}"));
        if start >= end || end > TOP || start % PAGE != 0 || end % PAGE != 0 {
            return wrong("is not one of whole pages below 2^56");
        }
        let offset = match self.backing {
            Backing::Anonymous {} if self.shared => {
                return wrong("is shared and names no memory object");
            }
            Backing::Hugetlb { page } => {
                let whole = is_huge(page) && start % page == 0 && end % page == 0;
                if self.shared || !whole {
                    return wrong("is not one of whole huge pages of its own");
                }
                0
            }
            Backing::Ring {
                head,
                tail,
                ref events,
            } => {
                // A place in it is as long as what stands before the first (fs/aio.c, `struct aio_ring`).
                let slots = (end - start) / EVENT - 1;
                let [head, tail] = [head, tail].map(u64::from);
                let within = head < slots && tail < slots && slots <= u32::MAX.into();
                let unread = (tail + slots).wrapping_sub(head) % slots * EVENT;
                if !self.shared || !within || events.0.len() as u64 != unread {
                    return wrong("is not a ring of as many events as it says");
                }
                0
            }
            Backing::File { file, .. } if file as usize >= files => {
                return wrong(&format!("maps file {file}, which is not in the list"));
            }
            Backing::File { offset, .. } | Backing::Shared { offset, .. } => offset,
            Backing::Anonymous {} | Backing::Vdso {} | Backing::Vvar {} => 0,
        };
        if offset % PAGE != 0 || offset.checked_add(end - start).is_none() {
            return wrong(&format!("maps from {offset:#x}, which cannot be"));
        }
        if self.resident > self.len() || (self.resident > 0 && !self.holds_pages()) {
            return wrong("says that it has more pages than it can");
        }
        if self.guards.iter().any(|run| !run.within(start, end)) {
            return wrong("has guard pages elsewhere");
        }
        if let Some(what) = self.inherited.as_ref().and_then(|i| i.check(self)) {
            return wrong(what);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn anonymous(start: u64, end: u64) -> Area {
        Area {
            start,
            end,
            prot: Prot(Prot::READ | Prot::WRITE),
            shared: false,
            backing: Backing::Anonymous {},
            advice: Vec::new(),
            name: None,
            guards: Vec::new(),
            resident: 0,
            huge: 0,
            inherited: None,
        }
    }

    #[test]
    fn protections_survive_json() {
        for text in ["rwx", "r--", "---", "r-x"] {
            let prot = Prot::parse(text).unwrap();
            assert_eq!(prot.to_string(), text);
            let json = serde_json::to_string(&prot).unwrap();
            assert_eq!(serde_json::from_str::<Prot>(&json).unwrap(), prot);
        }
        for text in ["", "rw", "rwxp", "wr-", "xxx"] {
            assert!(Prot::parse(text).is_none(), "{text}");
        }
    }

    fn ring(head: u32, tail: u32, bytes: usize) -> Backing {
        let events = vec![0; bytes].into();
        Backing::Ring { head, tail, events }
    }

    #[test]
    fn areas_that_cannot_be_are_refused() {
        assert_eq!(anonymous(0x1000, 0x3000).check(0), Ok(()));
        let mut queue = anonymous(0x1000, 0x3000);
        (queue.shared, queue.backing) = (true, ring(254, 1, 64));
        assert_eq!(queue.check(0), Ok(()));
        let bad: [fn(&mut Area); 9] = [
            |a| a.end = a.start,
            |a| a.start += 1,
            |a| a.end = 1 << 60,
            |a| a.shared = true,
            |a| a.resident = 0x3000,
            |a| {
                a.guards = vec![Run {
                    start: 0x3000,
                    len: 0x1000,
                }]
            },
            |a| {
                a.backing = Backing::File {
                    file: 0,
                    offset: 0,
                    writable: false,
                }
            },
            |a| (a.shared, a.backing) = (true, ring(254, 255, 0)),
            |a| (a.shared, a.backing) = (true, ring(254, 1, 32)),
        ];
        for (i, spoil) in bad.iter().enumerate() {
            let mut area = anonymous(0x1000, 0x3000);
            spoil(&mut area);
            assert!(area.check(0).is_err(), "{i}");
        }
    }
}
