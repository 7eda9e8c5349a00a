//! What processes have in common without being threads of one another (`CLONE_VM`, `CLONE_FILES`, `CLONE_FS`,
//! `CLONE_SIGHAND` of clone(2)).

use crate::Result;
use kernel::Pid;
use kernel::kcmp::{Kind, Sharers};
use std::collections::HashMap;

/// For each process of a list, by its place there: the place of the first that has the same object. Those that share
/// nothing have their own.
#[derive(Debug, Default)]
pub struct Sharing {
    /// Address spaces.
    pub memory: Vec<usize>,
    /// Descriptor tables.
    pub tables: Vec<usize>,
    /// Working directory, root and umask.
    pub fs: Vec<usize>,
    /// Signal actions.
    pub actions: Vec<usize>,
}

impl Sharing {
    /// Of processes that are stopped.
    pub fn of(pids: &[Pid]) -> Result<Self> {
        let [memory, tables, fs] =
            [Kind::Memory, Kind::Table, Kind::Fs].map(|kind| firsts(pids, kind));
        let (memory, tables, fs) = (memory?, tables?, fs?);
        let nobody = memory.iter().enumerate().all(|(i, first)| i == *first);
        // No actions are shared without memory (clone(2)).
        let actions = match nobody {
            true => memory.clone(),
            false => firsts(pids, Kind::Actions)?,
        };
        Ok(Sharing {
            memory,
            tables,
            fs,
            actions,
        })
    }

    /// Whether another process comes before this one with the same memory, or after it.
    pub fn shares_memory(&self, at: usize) -> bool {
        self.memory
            .iter()
            .filter(|first| **first == self.memory[at])
            .count()
            > 1
    }
}

fn firsts(pids: &[Pid], kind: Kind) -> Result<Vec<usize>> {
    let mut sharers = Sharers::of(kind);
    let mut places = HashMap::new();
    let mut firsts = Vec::with_capacity(pids.len());
    for (i, pid) in pids.iter().enumerate() {
        places.insert(*pid, i);
        let first = sharers.meet(*pid)?.unwrap_or(*pid);
        firsts.push(places.get(&first).copied().unwrap_or(i));
    }
    Ok(firsts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_shares_all_and_a_child_nothing() {
        let ours = std::process::id() as Pid;
        let (told, wait) = std::sync::mpsc::channel::<()>();
        let (say, heard) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            say.send(nix::unistd::gettid().as_raw()).unwrap();
            wait.recv().ok()
        });
        let tid = heard.recv().unwrap();
        let mut sleeper = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let all = Sharing::of(&[ours, sleeper.id() as Pid, tid]).unwrap();
        for firsts in [&all.memory, &all.tables, &all.fs, &all.actions] {
            assert_eq!(*firsts, [0, 1, 0]);
        }
        assert!(all.shares_memory(0) && !all.shares_memory(1) && all.shares_memory(2));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        drop(told);
        thread.join().unwrap();
    }
}
