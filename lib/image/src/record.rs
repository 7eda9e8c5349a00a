//! The JSON records of an image by their paths: what a reader knows, and what it refuses.

use crate::cgroups::groups::Groups;
use crate::container::Container;
use crate::error::Result;
use crate::files::OpenFiles;
use crate::header::Clocks;
use crate::ids::Pid;
use crate::ipc::Queues;
use crate::ipc::sysv::SystemV;
use crate::memory::Family;
use crate::memory::shared::Objects;
use crate::process::Process;
use crate::reader::Entry;
use crate::tree::Tree;
use serde::{Deserialize, Serialize};

/// Path of the container's own record.
pub const CONTAINER: &str = "container.json";
/// Path of the record of the freeze.
pub const FROZEN: &str = "frozen.json";
/// Path of the record of message queues.
pub const QUEUES: &str = "queues.json";
/// Path of the record of semaphores and message queues of System V.
pub const SYSV: &str = "sysv.json";
/// Path of the record of control groups beneath the container's own.
pub const GROUPS: &str = "groups.json";
/// Path of the record of the process tree.
pub const TREE: &str = "tree.json";
/// Path of the record of memory objects.
pub const MEMORY: &str = "memory.json";
/// Path of the record of open files.
pub const FILES: &str = "files.json";

/// Path of the record of what a process and those forked from it have in common.
pub fn family(pid: Pid) -> String {
    format!("family/{pid}.json")
}

/// Path of the record of one process.
pub fn process(pid: Pid) -> String {
    format!("process/{pid}.json")
}

/// The freeze, where layers of a container image come before it in the stream: then the header is older than it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// The clocks at the freeze.
    pub clocks: Clocks,
}

/// Any record after the header.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// `container.json`.
    Container(Box<Container>),
    /// `frozen.json`.
    Frozen(Frozen),
    /// `queues.json`.
    Queues(Queues),
    /// `sysv.json`.
    SystemV(SystemV),
    /// `groups.json`.
    Groups(Groups),
    /// `tree.json`.
    Tree(Tree),
    /// `memory.json`.
    Memory(Objects),
    /// `files.json`.
    Files(Box<OpenFiles>),
    /// `family/PID.json`.
    Family(Box<Family>),
    /// `process/PID.json`.
    Process(Box<Process>),
}

impl Record {
    /// Reads the record that an entry is; one that is not known is refused by name.
    pub fn read(entry: &mut Entry<'_>) -> Result<Record> {
        match entry.path() {
            CONTAINER => entry.json().map(Record::Container),
            FROZEN => entry.json().map(Record::Frozen),
            QUEUES => entry.json().map(Record::Queues),
            SYSV => {
                let record: SystemV = entry.json()?;
                record.check().map_err(|what| entry.damaged(what))?;
                Ok(Record::SystemV(record))
            }
            GROUPS => {
                let record: Groups = entry.json()?;
                record.check().map_err(|what| entry.damaged(what))?;
                Ok(Record::Groups(record))
            }
            TREE => entry.json().map(Record::Tree),
            MEMORY => entry.json().map(Record::Memory),
            FILES => entry.json().map(Record::Files),
            path if path.starts_with("family/") => {
                let record: Box<Family> = entry.json()?;
                if entry.path() != family(record.pid) {
                    let what = format!("it is the record of process {}", record.pid);
                    return Err(entry.damaged(what));
                }
                Ok(Record::Family(record))
            }
            path if path.starts_with("process/") => {
                let record: Box<Process> = entry.json()?;
                if entry.path() != process(record.pid) {
                    let what = format!("it is the record of process {}", record.pid);
                    return Err(entry.damaged(what));
                }
                Ok(Record::Process(record))
            }
            path => {
                let what = format!("{path} is a record that is not known here");
                Err(entry.damaged(what))
            }
        }
    }
}
