//! Who has to make whom, where processes share what only clone(2) lets them share: a parent its child, or, where the parent
//! has no part in it, a sibling the next (`CLONE_PARENT`).

use image::ids::Pid;
use image::tree::{Process, State, Tree};
use std::collections::HashMap;

/// What a child has of its creator's itself, not a copy of it (clone(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shares {
    /// `CLONE_VM`.
    pub memory: bool,
    /// `CLONE_FILES`.
    pub table: bool,
    /// `CLONE_FS`.
    pub fs: bool,
    /// `CLONE_SIGHAND`.
    pub actions: bool,
}

impl Shares {
    fn list(self) -> [(bool, i32, &'static str); 4] {
        [
            (self.memory, libc::CLONE_VM, "its memory"),
            (self.table, libc::CLONE_FILES, "its descriptors"),
            (self.fs, libc::CLONE_FS, "its working directory"),
            (self.actions, libc::CLONE_SIGHAND, "its signal actions"),
        ]
    }

    /// Its flags of clone(2).
    pub fn flags(self) -> u64 {
        let shared = self.list().into_iter().filter(|(shared, ..)| *shared);
        shared.fold(0, |flags, (_, flag, _)| flags | flag as u64)
    }

    /// What it is, in words.
    fn words(self) -> String {
        let shared = self.list().into_iter().filter(|(shared, ..)| *shared);
        let words: Vec<&str> = shared.map(|(.., what)| what).collect();
        words.join(" and ")
    }

    /// What two processes share.
    pub(super) fn between(one: &Process, other: &Process) -> Self {
        let (one, other) = (Objects::of(one), Objects::of(other));
        let same = |i: usize| one.0[i].is_some() && one.0[i] == other.0[i];
        Shares {
            memory: same(0),
            table: same(1),
            fs: same(2),
            actions: same(3),
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Shares {
            memory: self.memory || other.memory,
            table: self.table || other.table,
            fs: self.fs || other.fs,
            actions: self.actions || other.actions,
        }
    }

    fn covers(self, needed: Self) -> bool {
        self.and(needed) == self
    }
}

/// The numbers of what a process has, as the record calls them; a dead one has nothing.
#[derive(Clone, Copy)]
struct Objects([Option<u32>; 4]);

impl Objects {
    fn of(process: &Process) -> Self {
        Objects(match &process.state {
            State::Dead { .. } => [None; 4],
            State::Alive {
                space,
                table,
                fs,
                actions,
                ..
            } => [Some(space.0), Some(table.0), Some(fs.0), Some(actions.0)],
        })
    }
}

/// Processes that a sibling has to make, each with that sibling; all others are made by their parents.
pub(super) fn siblings(tree: &Tree) -> Result<HashMap<Pid, Pid>, String> {
    let by_pid: HashMap<Pid, &Process> = tree.processes.iter().map(|p| (p.pid, p)).collect();
    let mut firsts: HashMap<(usize, u32), Pid> = HashMap::new();
    let mut made_by = HashMap::new();
    for (at, process) in tree.processes.iter().enumerate() {
        let mut earlier = [None; 4];
        for (kind, id) in Objects::of(process).0.into_iter().enumerate() {
            let Some(id) = id else { continue };
            let first = *firsts.entry((kind, id)).or_insert(process.pid);
            earlier[kind] = (first != process.pid).then_some(first);
        }
        let [memory, table, fs, actions] = earlier.map(|first| first.is_some());
        let needed = Shares {
            memory,
            table,
            fs,
            actions,
        };
        let shares = |creator: &Process| Shares::between(creator, process);
        let parent = by_pid.get(&process.ppid);
        if needed == Shares::default() || parent.is_some_and(|p| shares(p).covers(needed)) {
            continue;
        }
        let sibling = tree.processes[..at]
            .iter()
            .filter(|other| other.ppid == process.ppid)
            .find(|other| shares(other).covers(needed));
        let Some(sibling) = sibling else {
            let with = earlier.into_iter().flatten().next().unwrap_or(0);
            return Err(format!(
                "process {} shares {} with process {with}, which is neither its parent nor its sibling",
                process.pid,
                needed.words()
            ));
        };
        if sibling.exit_signal != process.exit_signal {
            return Err(format!(
                "process {} shares {} with its sibling {}, and they say by different signals that they end",
                process.pid,
                needed.words(),
                sibling.pid
            ));
        }
        made_by.insert(process.pid, sibling.pid);
    }
    Ok(made_by)
}
