//! The order in which a tree grows again, as data. Sessions and groups cannot be set, only inherited or founded: who
//! forks whom, and when, is what makes them come out right. A session or group whose founder is gone gets a stand-in
//! with its number, which ends once all members are there; an orphan gets a parent that ends at once.

mod creators;
#[cfg(test)]
mod tests;

pub use creators::Shares;

use image::ids::Pid;
use image::tree::{Process, State, Tree};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The first process of the container, where that is our own init and no part of the image.
pub const OUTSIDE: Pid = 0;
/// The highest number for a parent that ends at once: below those that [`super::Numbers`] takes for a process of ours.
const HIGHEST: Pid = 31_000;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `creator` makes `child`; as its sibling (`CLONE_PARENT`) where that is said.
    Fork {
        creator: Pid,
        child: Pid,
        sibling: bool,
        exit_signal: i32,
        shares: Shares,
    },
    /// It founds a session.
    Setsid { pid: Pid },
    /// It joins a process group, or founds one (`pgid` is its own pid).
    Setpgid { pid: Pid, pgid: Pid },
    /// Orphans below it become its children, or no longer (`PR_SET_CHILD_SUBREAPER`).
    Subreaper { pid: Pid, on: bool },
    /// A stand-in ends, and `parent` reaps it.
    End { pid: Pid, parent: Pid },
    /// It ends and stays a zombie.
    Die { pid: Pid },
}

struct Planner<'a> {
    tree: &'a Tree,
    /// Who is made by whom: a child, or a sibling.
    children: HashMap<Pid, Vec<Child<'a>>>,
    by_pid: HashMap<Pid, &'a Process>,
    /// Sessions that processes have to be born in: their own, or for the sake of their children another.
    birth: HashMap<Pid, Pid>,
    /// Parent, session and group of everything made so far.
    parent: BTreeMap<Pid, Pid>,
    session: BTreeMap<Pid, Pid>,
    group: BTreeMap<Pid, Pid>,
    /// Stand-ins and their parents, ended at the end.
    stand_ins: Vec<(Pid, Pid)>,
    /// Children to be made by a member of their session elsewhere in the tree.
    strangers: Vec<&'a Process>,
    used: BTreeSet<Pid>,
    /// Whether a number is taken by others.
    taken: &'a dyn Fn(Pid) -> bool,
    /// Of the process whose children are being made.
    depth: usize,
    steps: Vec<Step>,
}

#[derive(Clone, Copy)]
struct Child<'a> {
    process: &'a Process,
    sibling: bool,
}

/// How many generations may live at once: an image could ask for more than a stack of ours has room for.
const DEEPEST: usize = 2000;

/// Plans the growth; an error is a sentence about the process that cannot be placed. `first` is the process that is
/// there already: the root itself, or [`OUTSIDE`]. `taken` says which numbers others have.
pub fn plan(tree: &Tree, first: Pid, taken: &dyn Fn(Pid) -> bool) -> Result<Vec<Step>, String> {
    let made_by = creators::siblings(tree)?;
    let mut children: HashMap<Pid, Vec<Child>> = HashMap::new();
    let mut by_pid = HashMap::new();
    let mut used = BTreeSet::new();
    for process in &tree.processes {
        if process.pid <= 0 || by_pid.insert(process.pid, process).is_some() {
            return Err(format!("process {} is in the tree twice", process.pid));
        }
        let sibling = made_by.get(&process.pid);
        let creator = sibling.unwrap_or(&process.ppid);
        children.entry(*creator).or_default().push(Child {
            process,
            sibling: sibling.is_some(),
        });
        used.extend([process.pid, process.pgid, process.sid]);
        if let State::Alive { threads, .. } = &process.state {
            used.extend(threads);
        }
    }
    let mut planner = Planner {
        tree,
        birth: births(tree, &children),
        children,
        by_pid,
        parent: BTreeMap::new(),
        session: BTreeMap::from([(first, OUTSIDE)]),
        group: BTreeMap::from([(first, OUTSIDE)]),
        stand_ins: Vec::new(),
        strangers: Vec::new(),
        used,
        taken,
        depth: 0,
        steps: Vec::new(),
    };
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

fn is_subreaper(process: &Process) -> bool {
    matches!(
        process.state,
        State::Alive {
            subreaper: true,
            ..
        }
    )
}

/// The session each process has to be born in. A leader may be born anywhere, unless it made children before it led.
fn births(tree: &Tree, children: &HashMap<Pid, Vec<Child>>) -> HashMap<Pid, Pid> {
    let mut births = HashMap::new();
    // Children come after their parents: from the last one on.
    for process in tree.processes.iter().rev() {
        let pid = process.pid;
        // One that takes orphans may have children that it did not make.
        let adopts = is_subreaper(process) || tree.nested.innermost(pid) == 1;
        let birth = if process.sid != pid {
            Some(process.sid)
        } else if adopts {
            None
        } else {
            let of_child = |child: &Child| births.get(&child.process.pid).copied();
            let own = children.get(&pid).into_iter().flatten();
            own.filter_map(of_child).find(|sid| *sid != pid)
        };
        if let Some(birth) = birth {
            births.insert(pid, birth);
        }
    }
    births
}

impl<'a> Planner<'a> {
    fn grow(&mut self, pid: Pid) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!(
                "process {pid} has more than {DEEPEST} generations above it"
            ));
        }
        self.grow_children(pid)?;
        self.depth -= 1;
        Ok(())
    }

    fn grow_children(&mut self, pid: Pid) -> Result<(), String> {
        let children = self.children.remove(&pid).unwrap_or_default();
        let own = self.by_pid.get(&pid).copied();
        let wanted = own.map_or(OUTSIDE, |own| own.sid);
        if own.is_some_and(is_subreaper) {
            self.steps.push(Step::Subreaper { pid, on: true });
        }
        let mut later = children;
        if wanted == pid && self.session[&pid] != pid {
            let born_here =
                |child: &Child| self.birth.get(&child.process.pid) == self.session.get(&pid);
            let (before, after) = later.into_iter().partition(born_here);
            later = after;
            for child in before {
                self.fork(pid, child)?;
            }
            self.steps.push(Step::Setsid { pid });
            self.session.insert(pid, pid);
            self.group.insert(pid, pid);
        }
        if self.session[&pid] != wanted {
            return Err(format!(
                "process {pid} belongs to session {wanted}, which cannot be rebuilt around it"
            ));
        }
        let mut homeless: BTreeMap<Pid, Vec<Child>> = BTreeMap::new();
        for child in later {
            match self.birth.get(&child.process.pid) {
                Some(sid) if *sid != wanted => {
                    homeless.entry(*sid).or_default().push(child);
                }
                _ => self.fork(pid, child)?,
            }
        }
        for (sid, members) in homeless {
            self.house(pid, sid, &members)?;
        }
        Ok(())
    }

    /// Makes children of `pid` that belong to a session it is not in.
    fn house(&mut self, pid: Pid, sid: Pid, members: &[Child<'a>]) -> Result<(), String> {
        if let Some(child) = members.iter().find(|child| child.sibling) {
            return Err(format!(
                "process {} shares what its sibling {pid} has, which is in another session",
                child.process.pid
            ));
        }
        let is_there = self.session.contains_key(&sid) || self.by_pid.contains_key(&sid);
        if is_there || sid == OUTSIDE {
            self.strangers
                .extend(members.iter().map(|child| child.process));
            return Ok(());
        }
        // A stand-in for a session leader that is gone. What its children share with their parent goes through it.
        let parent = self.by_pid.get(&pid).copied();
        let shares =
            |child: &Child| parent.map_or(Shares::default(), |p| Shares::between(p, child.process));
        let all = members.iter().map(shares);
        let all = all.fold(Shares::default(), Shares::and);
        self.make((pid, false), sid, 17, all);
        self.steps.push(Step::Setsid { pid: sid });
        self.session.insert(sid, sid);
        self.group.insert(sid, sid);
        self.stand_ins.push((sid, pid));
        for child in members {
            let process = child.process;
            self.make((sid, true), process.pid, process.exit_signal, shares(child));
            self.grow(process.pid)?;
        }
        Ok(())
    }

    fn make(
        &mut self,
        (creator, sibling): (Pid, bool),
        child: Pid,
        exit_signal: i32,
        shares: Shares,
    ) {
        self.steps.push(Step::Fork {
            creator,
            child,
            sibling,
            exit_signal,
            shares,
        });
        let (session, group) = (self.session[&creator], self.group[&creator]);
        self.session.insert(child, session);
        self.group.insert(child, group);
        let parent = match sibling {
            true => self.parent.get(&creator).copied().unwrap_or(OUTSIDE),
            false => creator,
        };
        self.parent.insert(child, parent);
    }

    fn fork(&mut self, creator: Pid, child: Child<'a>) -> Result<(), String> {
        let process = child.process;
        let own = self.by_pid.get(&creator);
        let shares = own.map_or(Shares::default(), |own| Shares::between(own, process));
        self.make(
            (creator, child.sibling),
            process.pid,
            process.exit_signal,
            shares,
        );
        self.grow(process.pid)
    }

    /// Children whose parent is not in their session, and did not make them: orphans that it was given. Each is made below a
    /// member of its session by a parent that ends at once, so that it falls to whom it fell then.
    fn place_strangers(&mut self) -> Result<(), String> {
        while !self.strangers.is_empty() {
            let waiting = std::mem::take(&mut self.strangers);
            let before = waiting.len();
            let mut left = Vec::new();
            for child in waiting {
                match self.member_below(self.birth[&child.pid], child.ppid) {
                    Some(member) => self.orphan(child, member)?,
                    None => left.push(child),
                }
            }
            if let (true, Some(child)) = (left.len() == before, left.first()) {
                return Err(format!(
                    "process {}, a child of {}, belongs to session {} of another branch",
                    child.pid, child.ppid, child.sid
                ));
            }
            self.strangers.extend(left);
        }
        Ok(())
    }

    /// A member of the session that has `above` over it.
    fn member_below(&self, sid: Pid, above: Pid) -> Option<Pid> {
        let mut members = self.session.iter().filter(|(_, session)| **session == sid);
        let found = members.find(|(pid, _)| self.path(**pid, above).is_some());
        found.map(|(pid, _)| *pid)
    }

    /// From a process up to below one above it.
    fn path(&self, from: Pid, above: Pid) -> Option<Vec<Pid>> {
        let (mut path, mut at) = (Vec::new(), from);
        while at != above {
            path.push(at);
            at = *self.parent.get(&at)?;
        }
        (!path.is_empty()).then_some(path)
    }

    fn orphan(&mut self, child: &'a Process, member: Pid) -> Result<(), String> {
        let path = self.path(member, child.ppid).unwrap_or_default();
        if Shares::default()
            != self
                .by_pid
                .get(&child.ppid)
                .map_or(Shares::default(), |parent| Shares::between(parent, child))
        {
            return Err(format!(
                "process {} shares what its parent {} has, which is in another session",
                child.pid, child.ppid
            ));
        }
        // Nobody between them may take it, and its parent must.
        let takes = |pid: &Pid| self.by_pid.get(pid).copied().is_some_and(is_subreaper);
        let mut turned: Vec<(Pid, bool)> = path
            .iter()
            .filter(|pid| takes(pid))
            .map(|pid| (*pid, false))
            .collect();
        if child.ppid != OUTSIDE
            && self.tree.nested.innermost(child.ppid) != 1
            && !takes(&child.ppid)
        {
            turned.push((child.ppid, true));
        }
        let between = self.free_pid();
        self.make((member, false), between, 17, Shares::default());
        self.make(
            (between, false),
            child.pid,
            child.exit_signal,
            Shares::default(),
        );
        let turn = |(pid, on): (Pid, bool)| Step::Subreaper { pid, on };
        self.steps.extend(turned.iter().copied().map(turn));
        self.steps.push(Step::End {
            pid: between,
            parent: member,
        });
        self.steps
            .extend(turned.into_iter().map(|(pid, on)| turn((pid, !on))));
        self.parent.insert(child.pid, child.ppid);
        for of in [&mut self.parent, &mut self.session, &mut self.group] {
            of.remove(&between);
        }
        self.grow(child.pid)
    }

    fn free_pid(&mut self) -> Pid {
        let free = |pid: &Pid| !self.used.contains(pid) && !(self.taken)(*pid);
        let pid = (2..=HIGHEST).rev().find(free).unwrap_or(HIGHEST);
        self.used.insert(pid);
        pid
    }

    /// Groups are founded first, also by processes that have left theirs for another since; these go there last.
    fn groups(&mut self) -> Result<(), String> {
        let tree = self.tree;
        for process in tree
            .processes
            .iter()
            .filter(|p| self.is_astray(p))
            .collect::<Vec<_>>()
        {
            self.found_group(process)?;
        }
        let led: BTreeSet<Pid> = tree.processes.iter().map(|p| p.pgid).collect();
        let astray = tree.processes.iter().filter(|p| self.is_astray(p));
        let (founders, others): (Vec<_>, Vec<_>) = astray.partition(|p| led.contains(&p.pid));
        for process in others.into_iter().chain(founders) {
            self.found_group(process)?;
            let (pid, pgid) = (process.pid, process.pgid);
            self.steps.push(Step::Setpgid { pid, pgid });
            self.group.insert(pid, pgid);
        }
        Ok(())
    }

    fn is_astray(&self, process: &Process) -> bool {
        self.group.get(&process.pid) != Some(&process.pgid)
    }

    /// Makes sure that the group a process is to be in is there.
    fn found_group(&mut self, process: &Process) -> Result<(), String> {
        let (pid, pgid) = (process.pid, process.pgid);
        if pgid == OUTSIDE || self.session.get(&pid) == Some(&pid) {
            return Err(format!(
                "process {pid} cannot be put back into process group {pgid}"
            ));
        }
        if self.group.values().any(|group| *group == pgid) {
            let other = self.group.iter().find(|(_, group)| **group == pgid);
            if other.is_some_and(|(other, _)| self.session[other] != self.session[&pid]) {
                return Err(format!(
                    "process {pid} is in group {pgid} of another session"
                ));
            }
            return Ok(());
        }
        if !self.session.contains_key(&pgid) {
            self.make((pid, false), pgid, 17, Shares::default());
            self.stand_ins.push((pgid, pid));
        } else if self.session[&pgid] != self.session[&pid] {
            return Err(format!(
                "process {pid} is in group {pgid} of another session"
            ));
        }
        self.steps.push(Step::Setpgid { pid: pgid, pgid });
        self.group.insert(pgid, pgid);
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
