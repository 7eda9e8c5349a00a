//! The order in which a tree grows again, as data. Sessions and groups cannot be set, only inherited or founded: who
//! forks whom, and when, is what makes them come out right. A session or group whose founder is gone gets a stand-in
//! with its number, which ends once all members are there.

use image::ids::Pid;
use image::tree::{Process, State, Tree};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The first process of the container, where that is our own init and no part of the image.
pub const OUTSIDE: Pid = 0;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `creator` makes `child`; as its sibling (`CLONE_PARENT`) where that is said.
    Fork {
        creator: Pid,
        child: Pid,
        sibling: bool,
        exit_signal: i32,
    },
    /// It founds a session.
    Setsid { pid: Pid },
    /// It joins a process group, or founds one (`pgid` is its own pid).
    Setpgid { pid: Pid, pgid: Pid },
    /// Orphans below it become its children (`PR_SET_CHILD_SUBREAPER`).
    Subreaper { pid: Pid },
    /// A stand-in ends, and `parent` reaps it.
    End { pid: Pid, parent: Pid },
    /// It ends and stays a zombie.
    Die { pid: Pid },
}

struct Planner<'a> {
    tree: &'a Tree,
    children: HashMap<Pid, Vec<&'a Process>>,
    by_pid: HashMap<Pid, &'a Process>,
    /// Session and group of everything made so far.
    session: BTreeMap<Pid, Pid>,
    group: BTreeMap<Pid, Pid>,
    /// Stand-ins and their parents, ended at the end.
    stand_ins: Vec<(Pid, Pid)>,
    /// Children to be made by a living session leader elsewhere in the tree.
    strangers: Vec<&'a Process>,
    used: BTreeSet<Pid>,
    steps: Vec<Step>,
}

/// Plans the growth; an error is a sentence about the process that cannot be placed. `first` is the process that is
/// there already: the root itself, or [`OUTSIDE`].
pub fn plan(tree: &Tree, first: Pid) -> Result<Vec<Step>, String> {
    let mut children: HashMap<Pid, Vec<&Process>> = HashMap::new();
    let mut by_pid = HashMap::new();
    let mut used = BTreeSet::new();
    for process in &tree.processes {
        if process.pid <= 0 || by_pid.insert(process.pid, process).is_some() {
            return Err(format!("process {} is in the tree twice", process.pid));
        }
        children.entry(process.ppid).or_default().push(process);
        used.extend([process.pid, process.pgid, process.sid]);
        if let State::Alive { threads, .. } = &process.state {
            used.extend(threads);
        }
    }
    let mut planner = Planner {
        tree,
        children,
        by_pid,
        session: BTreeMap::new(),
        group: BTreeMap::new(),
        stand_ins: Vec::new(),
        strangers: Vec::new(),
        used,
        steps: Vec::new(),
    };
    planner.session.insert(first, OUTSIDE);
    planner.group.insert(first, OUTSIDE);
    planner.grow(first)?;
    planner.place_strangers()?;
    let made = planner.session.len();
    let wanted = tree.processes.len() + planner.stand_ins.len() + usize::from(first == OUTSIDE);
    if made != wanted {
        return Err("the tree has processes whose parents are not in it".into());
    }
    planner.groups()?;
    planner.finish();
    Ok(planner.steps)
}

impl<'a> Planner<'a> {
    fn grow(&mut self, pid: Pid) -> Result<(), String> {
        let children = self.children.remove(&pid).unwrap_or_default();
        let wanted = self.by_pid.get(&pid).map_or(OUTSIDE, |p| p.sid);
        if let Some(Process {
            state: State::Alive {
                subreaper: true, ..
            },
            ..
        }) = self.by_pid.get(&pid)
        {
            self.steps.push(Step::Subreaper { pid });
        }
        let mut later = Vec::new();
        if wanted == pid && self.session[&pid] != pid {
            for child in children {
                if child.sid == self.session[&pid] && child.sid != child.pid {
                    self.fork(pid, child)?;
                } else {
                    later.push(child);
                }
            }
            self.steps.push(Step::Setsid { pid });
            self.session.insert(pid, pid);
            self.group.insert(pid, pid);
        } else {
            later = children;
        }
        if self.session[&pid] != wanted {
            return Err(format!(
                "process {pid} belongs to session {wanted}, which cannot be rebuilt around it"
            ));
        }
        let mut homeless: BTreeMap<Pid, Vec<&Process>> = BTreeMap::new();
        for child in later {
            if child.sid == child.pid || child.sid == wanted {
                self.fork(pid, child)?;
            } else if self.by_pid.contains_key(&child.sid) {
                self.strangers.push(child);
            } else {
                homeless.entry(child.sid).or_default().push(child);
            }
        }
        for (sid, members) in homeless {
            let stand_in = self.found_session(pid, sid)?;
            for child in members {
                self.fork_sibling(stand_in, child)?;
            }
        }
        Ok(())
    }

    fn made(&mut self, creator: Pid, child: Pid) {
        let (session, group) = (self.session[&creator], self.group[&creator]);
        self.session.insert(child, session);
        self.group.insert(child, group);
    }

    fn fork(&mut self, creator: Pid, child: &Process) -> Result<(), String> {
        self.steps.push(Step::Fork {
            creator,
            child: child.pid,
            sibling: false,
            exit_signal: child.exit_signal,
        });
        self.made(creator, child.pid);
        self.grow(child.pid)
    }

    fn fork_sibling(&mut self, creator: Pid, child: &Process) -> Result<(), String> {
        self.steps.push(Step::Fork {
            creator,
            child: child.pid,
            sibling: true,
            exit_signal: child.exit_signal,
        });
        self.made(creator, child.pid);
        self.grow(child.pid)
    }

    /// A stand-in for a session leader that is gone.
    fn found_session(&mut self, parent: Pid, sid: Pid) -> Result<Pid, String> {
        if self.session.contains_key(&sid) {
            // It stands in already, under another parent: its members there are siblings of that one's children.
            return Err(format!(
                "session {sid}, whose leader is gone, has members with different parents"
            ));
        }
        if sid == OUTSIDE {
            return Err(format!(
                "a child of process {parent} belongs to a session from outside that its parent has left"
            ));
        }
        self.steps.push(Step::Fork {
            creator: parent,
            child: sid,
            sibling: false,
            exit_signal: 17,
        });
        self.steps.push(Step::Setsid { pid: sid });
        self.session.insert(sid, sid);
        self.group.insert(sid, sid);
        self.stand_ins.push((sid, parent));
        Ok(sid)
    }

    /// Orphans of a living session leader: made below it, by a stand-in that ends at once, so that they fall to the
    /// reaper they had.
    fn place_strangers(&mut self) -> Result<(), String> {
        while !self.strangers.is_empty() {
            for child in std::mem::take(&mut self.strangers) {
                let leader = child.sid;
                if self.reaper_of(leader) != child.ppid || !self.session.contains_key(&leader) {
                    return Err(format!(
                        "process {}, a child of {}, belongs to session {leader} of another branch",
                        child.pid, child.ppid
                    ));
                }
                let stand_in = self.free_pid();
                self.steps.push(Step::Fork {
                    creator: leader,
                    child: stand_in,
                    sibling: false,
                    exit_signal: 17,
                });
                let (session, group) = (self.session[&leader], self.group[&leader]);
                self.steps.push(Step::Fork {
                    creator: stand_in,
                    child: child.pid,
                    sibling: false,
                    exit_signal: child.exit_signal,
                });
                self.steps.push(Step::End {
                    pid: stand_in,
                    parent: leader,
                });
                self.session.insert(child.pid, session);
                self.group.insert(child.pid, group);
                self.grow(child.pid)?;
            }
        }
        Ok(())
    }

    /// Who inherits orphans below `pid`: the nearest subreaper above it, or the container's first process.
    fn reaper_of(&self, pid: Pid) -> Pid {
        let mut at = pid;
        for _ in 0..self.tree.processes.len() {
            match self.by_pid.get(&at) {
                Some(process) => at = process.ppid,
                None => return OUTSIDE,
            }
            match self.by_pid.get(&at).map(|p| &p.state) {
                Some(State::Alive {
                    subreaper: true, ..
                }) => return at,
                Some(_) if at == 1 => return at,
                Some(_) => (),
                None => return OUTSIDE,
            }
        }
        OUTSIDE
    }

    fn free_pid(&mut self) -> Pid {
        let pid = (2..).find(|pid| !self.used.contains(pid)).unwrap_or(2);
        self.used.insert(pid);
        pid
    }

    fn groups(&mut self) -> Result<(), String> {
        let wrong: Vec<&Process> = self
            .tree
            .processes
            .iter()
            .filter(|p| self.group.get(&p.pid) != Some(&p.pgid))
            .collect();
        let (leaders, members): (Vec<_>, Vec<_>) = wrong.into_iter().partition(|p| p.pgid == p.pid);
        for leader in leaders {
            let pid = leader.pid;
            self.steps.push(Step::Setpgid { pid, pgid: pid });
            self.group.insert(pid, pid);
        }
        for process in members {
            let (pid, pgid) = (process.pid, process.pgid);
            if pgid == OUTSIDE || self.session.get(&pid) == Some(&pid) {
                return Err(format!(
                    "process {pid} cannot be put back into process group {pgid}"
                ));
            }
            if !self.session.contains_key(&pgid) {
                self.steps.push(Step::Fork {
                    creator: pid,
                    child: pgid,
                    sibling: false,
                    exit_signal: 17,
                });
                self.steps.push(Step::Setpgid { pid: pgid, pgid });
                self.session.insert(pgid, self.session[&pid]);
                self.group.insert(pgid, pgid);
                self.stand_ins.push((pgid, pid));
            }
            if self.session[&pgid] != self.session[&pid] {
                return Err(format!(
                    "process {pid} is in group {pgid} of another session"
                ));
            }
            self.steps.push(Step::Setpgid { pid, pgid });
            self.group.insert(pid, pgid);
        }
        Ok(())
    }

    fn finish(&mut self) {
        for (pid, parent) in self.stand_ins.drain(..).rev() {
            self.steps.push(Step::End { pid, parent });
        }
        for process in &self.tree.processes {
            if matches!(process.state, State::Dead { .. }) {
                self.steps.push(Step::Die { pid: process.pid });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::ids::{SpaceId, TableId};

    fn process(pid: Pid, ppid: Pid, pgid: Pid, sid: Pid) -> Process {
        Process {
            pid,
            ppid,
            pgid,
            sid,
            exit_signal: 17,
            terminal: false,
            state: State::Alive {
                threads: vec![pid],
                space: SpaceId(pid as u32),
                table: TableId(pid as u32),
                stopped: false,
                subreaper: false,
            },
        }
    }

    fn tree(root: Pid, processes: Vec<Process>) -> Tree {
        Tree {
            root,
            processes,
            last_pid: None,
            stub: 0x10000,
            terminals: vec![],
            nested: Default::default(),
        }
    }

    fn fork(creator: Pid, child: Pid) -> Step {
        Step::Fork {
            creator,
            child,
            sibling: false,
            exit_signal: 17,
        }
    }

    #[test]
    fn a_shell_pipeline_gets_its_group() {
        let shell = tree(
            1,
            vec![
                process(1, 0, 1, 1),
                process(5, 1, 5, 1),
                process(6, 1, 5, 1),
            ],
        );
        assert_eq!(
            plan(&shell, 1).unwrap(),
            [
                Step::Setsid { pid: 1 },
                fork(1, 5),
                fork(1, 6),
                Step::Setpgid { pid: 5, pgid: 5 },
                Step::Setpgid { pid: 6, pgid: 5 },
            ]
        );
    }

    #[test]
    fn a_daemon_whose_session_leader_is_gone_gets_a_stand_in() {
        let daemon = tree(1, vec![process(1, 0, 1, 1), process(9, 1, 8, 8)]);
        assert_eq!(
            plan(&daemon, 1).unwrap(),
            [
                Step::Setsid { pid: 1 },
                fork(1, 8),
                Step::Setsid { pid: 8 },
                Step::Fork {
                    creator: 8,
                    child: 9,
                    sibling: true,
                    exit_signal: 17
                },
                Step::End { pid: 8, parent: 1 },
            ]
        );
    }

    #[test]
    fn a_child_older_than_its_parents_session_is_forked_before_setsid() {
        let tree = tree(3, vec![process(3, 0, 3, 3), process(4, 3, 0, 0)]);
        assert_eq!(
            plan(&tree, 3).unwrap(),
            [fork(3, 4), Step::Setsid { pid: 3 }]
        );
    }

    #[test]
    fn an_orphan_of_a_living_leader_falls_to_init() {
        let tree = tree(
            1,
            vec![
                process(1, 0, 1, 1),
                process(5, 1, 5, 5),
                process(7, 1, 5, 5),
            ],
        );
        let steps = plan(&tree, 1).unwrap();
        assert!(
            steps
                .windows(3)
                .any(|w| w == [fork(5, 2), fork(2, 7), Step::End { pid: 2, parent: 5 }])
        );
    }

    #[test]
    fn zombies_die_last_and_a_group_without_leader_gets_a_stand_in() {
        let mut dead = process(6, 1, 1, 1);
        dead.state = State::Dead {
            status: 256,
            name: "x".into(),
        };
        let tree = tree(1, vec![process(1, 0, 1, 1), dead, process(5, 1, 4, 1)]);
        assert_eq!(
            plan(&tree, 1).unwrap()[3..],
            [
                fork(5, 4),
                Step::Setpgid { pid: 4, pgid: 4 },
                Step::Setpgid { pid: 5, pgid: 4 },
                Step::End { pid: 4, parent: 5 },
                Step::Die { pid: 6 },
            ]
        );
    }

    #[test]
    fn trees_that_cannot_be_are_refused() {
        let missing = tree(1, vec![process(1, 0, 1, 1), process(5, 4, 1, 1)]);
        assert!(plan(&missing, 1).is_err());
        let twice = tree(1, vec![process(1, 0, 1, 1), process(1, 0, 1, 1)]);
        assert!(plan(&twice, 1).is_err());
        let cycle = tree(
            1,
            vec![
                process(1, 0, 1, 1),
                process(5, 6, 1, 1),
                process(6, 5, 1, 1),
            ],
        );
        assert!(plan(&cycle, 1).is_err());
    }
}
