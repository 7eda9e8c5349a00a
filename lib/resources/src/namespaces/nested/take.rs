//! Which tasks are in which namespaces.

use super::bound;
use crate::namespaces::{cgroup, ipc, mount, network, time, user, uts};
use crate::{Blocker, Error, Result};
use image::ids;
use image::ids::NsId;
use image::ipc::Queues;
use image::ipc::sysv::SystemV;
use image::namespaces::nested::{Bound, Children, Content, Inner, Nested, Shown, Task};
use image::namespaces::network::LinkKind;
use image::namespaces::user::Users;
use kernel::Pid;
use kernel::namespaces::{Kind, identity_in, last_pid};
use kernel::nsfs::{self, Handle};
use kernel::proc::{Proc, status};
use std::collections::{BTreeMap, HashMap, HashSet};

/// How many file trees a mount namespace may have: those of the first begin with this number, those of the second with
/// twice that, beyond those of the container's own.
const TREES: u32 = 10_000;

/// A task: our pids of its process and of itself.
type Tid = (Pid, Pid);

/// What has been seen so far.
struct Walk {
    root: Pid,
    /// All of the container.
    processes: Vec<Pid>,
    /// Those of the container's root process.
    of_root: HashMap<Kind, u64>,
    known: HashMap<(Kind, u64), NsId>,
    found: Vec<Found>,
    tasks: Vec<(Tid, Membership)>,
    bound: Vec<Bound>,
    blockers: Vec<Blocker>,
}

/// A namespace that is not the container's.
struct Found {
    id: NsId,
    handle: Handle,
    owner: Option<NsId>,
    parent: Option<NsId>,
    /// A task in it, or (time) whose children will be.
    task: Option<Tid>,
}

/// Where a task is.
#[derive(Debug, Default, PartialEq)]
struct Membership {
    namespaces: Vec<NsId>,
    pids_for_children: Option<Children>,
    clocks_for_children: Option<Children>,
}

impl Walk {
    fn new(root: Pid, processes: Vec<Pid>) -> Result<Self> {
        let mut of_root = HashMap::new();
        for kind in Kind::ALL {
            of_root.insert(kind, kernel::namespaces::identity(root, kind)?);
        }
        Ok(Walk {
            root,
            processes,
            of_root,
            known: HashMap::new(),
            found: Vec::new(),
            tasks: Vec::new(),
            bound: Vec::new(),
            blockers: Vec::new(),
        })
    }

    fn block(&mut self, pid: Pid, place: impl Into<String>, what: impl Into<String>, remedy: &str) {
        self.blockers.push(Blocker {
            pid,
            place: place.into(),
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    /// Looks at one task; an error where it is gone.
    fn task(&mut self, tid: Tid) -> Result<()> {
        let mut member = Membership::default();
        let (mut pids, mut clocks) = (0, 0);
        for kind in Kind::ALL {
            let inode = identity_in(tid, kind.name())?;
            let Some(inode) = inode else { continue };
            match kind {
                Kind::Pid => pids = inode,
                Kind::Time => clocks = inode,
                _ => {}
            }
            if self.of_root.get(&kind) != Some(&inode) {
                let mut handle = || Handle::of(tid.0, tid.1, kind);
                let id = self.id((kind, inode), &mut handle, Some(tid))?;
                member.namespaces.extend(id);
            }
        }
        member.pids_for_children = self.children(tid, Kind::Pid, pids)?;
        member.clocks_for_children = self.children(tid, Kind::Time, clocks)?;
        if member != Membership::default() {
            self.tasks.push((tid, member));
        }
        if tid.0 == tid.1 {
            // Networks that it only holds open.
            for (number, inode) in nsfs::held(tid.0, Kind::Network) {
                let mut handle = || Handle::held(tid.0, number, Kind::Network);
                self.id((Kind::Network, inode), &mut handle, None)?;
            }
        }
        Ok(())
    }

    /// Looks at what is mounted of namespaces, once all tasks are known.
    fn mounted(&mut self) -> Result<()> {
        let own = crate::namespaces::is_own(self.root, Kind::Mount)?;
        let mut places: Vec<(Option<NsId>, Pid)> =
            own.then_some((None, self.root)).into_iter().collect();
        for found in self.found.iter().filter(|f| f.handle.kind() == Kind::Mount) {
            places.extend(found.task.map(|(_, tid)| (Some(found.id), tid)));
        }
        let foreign = bound::foreign(self.root)?;
        for (mounts, pid) in places {
            for seen in bound::seen(pid, &foreign)? {
                let kind = seen.handle.kind();
                let key = (kind, seen.handle.inode());
                let of = self.id(key, &mut || seen.handle.again(), None)?;
                self.bound.push(Bound {
                    mounts,
                    place: seen.place,
                    of,
                    kind: kind.name().into(),
                });
            }
        }
        Ok(())
    }

    fn children(&mut self, tid: Tid, kind: Kind, own: u64) -> Result<Option<Children>> {
        let inode = identity_in(tid, &format!("{}_for_children", kind.name()))?;
        let Some(inode) = inode else {
            return Ok(Some(Children::New));
        };
        if inode == own {
            return Ok(None);
        }
        if self.of_root.get(&kind) == Some(&inode) {
            return Ok(Some(Children::Container));
        }
        let gone = || kernel::Error::Gone { pid: tid.1 };
        let mut handle = || Handle::for_children(tid.0, tid.1, kind)?.ok_or_else(gone);
        // The offsets that a task shows are those of its children.
        let task = (kind == Kind::Time).then_some(tid);
        let found = self.id((kind, inode), &mut handle, task)?;
        Ok(found.map(Children::Inner))
    }

    /// What the record calls a namespace, whose owner and parent are met before it; none: the container's.
    fn id(
        &mut self,
        key: (Kind, u64),
        handle: &mut dyn FnMut() -> kernel::Result<Handle>,
        task: Option<Tid>,
    ) -> Result<Option<NsId>> {
        if self.of_root.get(&key.0) == Some(&key.1) {
            return Ok(None);
        }
        if let Some(id) = self.known.get(&key) {
            let found = self.found.iter_mut().find(|found| found.id == *id);
            if let (Some(found), Some(_)) = (found, task) {
                // The leader of a process rather than another thread.
                let worth = |tid: Option<Tid>| tid.map_or(0, |tid| 1 + u8::from(tid.0 == tid.1));
                if worth(task) > worth(found.task) {
                    found.task = task;
                }
            }
            return Ok(Some(*id));
        }
        let handle = handle()?;
        let (owner, parent) = match key.0 {
            Kind::User => (handle.parent()?, None),
            Kind::Pid => (handle.owner()?, handle.parent()?),
            _ => (handle.owner()?, None),
        };
        let mut around = |handle: Option<Handle>| -> Result<Option<NsId>> {
            match handle {
                Some(handle) => {
                    let key = (handle.kind(), handle.inode());
                    let mut handle = Some(handle);
                    let gone = || kernel::Error::Gone { pid: 0 };
                    self.id(key, &mut || handle.take().ok_or_else(gone), None)
                }
                None => Ok(None),
            }
        };
        let (owner, parent) = (around(owner)?, around(parent)?);
        let id = NsId(self.found.len() as u32 + 1);
        self.known.insert(key, id);
        self.found.push(Found {
            id,
            handle,
            owner,
            parent,
            task,
        });
        Ok(Some(id))
    }

    /// What of it all cannot be made again.
    fn judge(&mut self) -> Result<()> {
        let root = self.root;
        for i in 0..self.found.len() {
            let Some(found) = self.found.get(i) else {
                continue;
            };
            let (kind, task, inode) = (found.handle.kind(), found.task, found.handle.inode());
            if task.is_none() && kind == Kind::User {
                continue; // it owns others: a child of ours will look
            }
            if task.is_none() && kind == Kind::Network {
                let (id, handle) = (found.id, found.handle.again()?);
                if has_others(inode) {
                    let what = format!("a network ({inode}) that only processes outside are in");
                    self.block(root, "", what, "close the descriptor of it");
                } else {
                    handle.visited(|child| Ok(self.network(root, child, id)))??;
                }
                continue;
            }
            let Some((pid, tid)) = task else {
                let what = format!("a {} namespace ({inode}) that no task is in", kind.name());
                let remedy = "end what holds it: the process whose children were to be in it";
                self.block(root, "", what, remedy);
                continue;
            };
            match kind {
                Kind::Mount => {
                    let first = found.id.0 * TREES;
                    let found = mount::inner::dump(tid, root, first)?;
                    self.blockers.extend(found.blockers);
                    for inode in found.processes.values() {
                        let known = self.known.contains_key(&(Kind::Pid, *inode));
                        if !known && self.of_root.get(&Kind::Pid) != Some(inode) {
                            let what =
                                "a proc file system of a pid namespace outside the container";
                            self.block(pid, "", what, "unmount it");
                        }
                    }
                }
                Kind::User => {
                    let maps = user::dump(tid)?;
                    let members: Vec<Tid> = self
                        .tasks
                        .iter()
                        .filter(|(_, member)| member.namespaces.contains(&found.id))
                        .map(|(tid, _)| *tid)
                        .collect();
                    for (pid, tid) in members {
                        self.member(pid, tid, &maps)?;
                    }
                }
                Kind::Time => {
                    let id = found.id;
                    self.clocks(id)?;
                }
                Kind::Network => {
                    let id = found.id;
                    self.network(pid, tid, id)?;
                }
                Kind::Ipc => {
                    let members = self.members(found.id);
                    let found = crate::memory::segments::blockers(tid, &members)?;
                    self.blockers.extend(found);
                    self.blockers
                        .extend(crate::ipc::blockers(tid, &self.processes)?);
                }
                Kind::Pid | Kind::Uts | Kind::Cgroup => {}
            }
        }
        Ok(())
    }

    /// What of a network, which task `tid` is in, cannot be made again; told of process `pid`.
    fn network(&mut self, pid: Pid, tid: Pid, id: NsId) -> Result<()> {
        let others = self.networks(id)?;
        let found = network::blockers(tid, &others)?.into_iter();
        self.blockers
            .extend(found.map(|found| Blocker { pid, ..found }));
        for link in network::dump(tid, &others)?.links {
            if link.kind == LinkKind::Veth {
                let place = format!("network link {}", link.name);
                let what =
                    "a link of a network namespace inside the container that leads out of it";
                self.block(pid, place, what, "remove it");
            }
        }
        Ok(())
    }

    /// A time namespace is made by one process, for its children alone, before it has threads; who is in one can be the only
    /// one in there to make another, but could not have entered the first then.
    fn clocks(&mut self, id: NsId) -> Result<()> {
        let is_for = |member: &Membership| match member.clocks_for_children {
            Some(Children::Inner(wanted)) => wanted == id,
            Some(_) => member.namespaces.contains(&id),
            None => false,
        };
        let makers = self.tasks.iter().filter(|(_, member)| is_for(member));
        let makers: Vec<Tid> = makers.map(|(tid, _)| *tid).collect();
        let time = |id: &NsId| {
            let mut all = self.found.iter();
            all.any(|found| found.id == *id && found.handle.kind() == Kind::Time)
        };
        let nested = |tid: &Tid| {
            let mut all = self.tasks.iter();
            let found = all.find(|(known, _)| known == tid);
            found.is_some_and(|(_, member)| member.namespaces.iter().any(time))
        };
        let threads = |(pid, _): &Tid| Proc::process(*pid).numbers("task").map_or(0, |t| t.len());
        let wrong = match &makers[..] {
            [one] => nested(one) || threads(one) > 1,
            others => !others.is_empty(),
        };
        if wrong && let Some((pid, _)) = makers.first() {
            let what = "a time namespace for its children, of a process with threads or in one inside the container";
            self.block(*pid, "", what, "end it first");
        }
        Ok(())
    }

    /// What of a task in a user namespace cannot be given back there.
    fn member(&mut self, pid: Pid, tid: Pid, maps: &Users) -> Result<()> {
        let who = match pid == tid {
            true => String::new(),
            false => format!("thread {tid}"),
        };
        if let Some(kind) = self.beyond(pid, tid) {
            let what = format!(
                "it is not in the {} namespace of its process, and may not go back to its own, for it is in a user namespace \
                 inside the container",
                kind.name()
            );
            self.block(pid, who.clone(), what, "end it first");
        }
        let status = status::read_thread(pid, tid)?;
        for (key, map) in [("Uid", &maps.uids), ("Gid", &maps.gids)] {
            let strange = |id: &i64| user::inside(map, *id as u32).is_none();
            if status.numbers(key)?.iter().any(strange) {
                let what = "its user or group id is none that its user namespace, inside the container, has a number for";
                self.block(pid, who, what, "map it (uid_map, gid_map), or end it first");
                break;
            }
        }
        Ok(())
    }

    /// The kind of a namespace that a thread would have to enter without the right to: it is made in that of its process,
    /// in their user namespace, and its own is of one around that.
    fn beyond(&self, pid: Pid, tid: Pid) -> Option<Kind> {
        let of = |tid| self.tasks.iter().find(|(known, _)| *known == (pid, tid));
        let (_, leader) = of(pid)?;
        if pid != tid && leader.pids_for_children.is_some_and(|c| c != Children::New) {
            return Some(Kind::Pid);
        }
        let (_, member) = of(tid)?;
        let get = |id: &NsId| self.found.iter().find(|found| found.id == *id);
        let kind = |id: &NsId| get(id).map(|found| found.handle.kind());
        let all = |member: &Membership| -> Vec<NsId> { member.namespaces.clone() };
        let (own, of_leader) = (all(member), all(leader));
        let user = own.iter().find(|id| kind(id) == Some(Kind::User))?;
        // Its own, where that is of its user namespace or one beneath.
        let reachable = |id: &NsId| {
            let mut at = get(id).and_then(|found| found.owner);
            while let Some(owner) = at {
                if owner == *user {
                    return true;
                }
                at = get(&owner).and_then(|found| found.owner);
            }
            false
        };
        let differs = own
            .iter()
            .find(|id| !of_leader.contains(id) && !reachable(id));
        let lacks = of_leader.iter().find(|id| {
            let same = |other: &NsId| kind(other) == kind(id);
            !own.iter().any(same)
        });
        differs.or(lacks).and_then(kind)
    }

    /// The networks of the container but for this one inside it.
    fn networks(&self, but: NsId) -> Result<network::Others> {
        let mut others = network::Others::default();
        if crate::namespaces::is_own(self.root, Kind::Network)? {
            others.add(None, Handle::of(self.root, self.root, Kind::Network)?);
        }
        for found in &self.found {
            if found.handle.kind() == Kind::Network && found.id != but {
                others.add(Some(found.id), found.handle.again()?);
            }
        }
        Ok(others)
    }

    fn content(&self, found: &Found, task: Tid) -> Result<Content> {
        let tid = task.1;
        Ok(match found.handle.kind() {
            Kind::Network => Content::Network {
                network: network::dump(tid, &self.networks(found.id)?)?,
            },
            Kind::Pid => Content::Pid {
                parent: found.parent,
                last: last_pid(tid)?,
            },
            Kind::User => Content::User {
                maps: user::dump(tid)?,
                maker: found.handle.owner_uid()?,
                keeps_groups: user::keeps_groups(tid)?,
            },
            Kind::Ipc => Content::Ipc {
                limits: ipc::dump(tid)?,
                // `crate::ipc` asks the processes for both.
                queues: Queues::default(),
                sysv: SystemV::default(),
            },
            Kind::Uts => Content::Uts {
                names: uts::dump(tid)?,
            },
            Kind::Time => Content::Time {
                offsets: time::dump_inner(&found.handle, self.root)?,
            },
            Kind::Cgroup => Content::Cgroup {
                roots: cgroup::dump(),
            },
            Kind::Mount => {
                let seen = mount::inner::dump(tid, self.root, found.id.0 * TREES)?;
                let id = |inode: u64| self.known.get(&(Kind::Pid, inode)).copied();
                let processes = seen.processes.into_iter();
                let processes = processes.map(|(mount, inode)| Shown {
                    mount,
                    of: id(inode),
                });
                Content::Mount {
                    mounts: seen.mounts,
                    gone: seen.gone,
                    processes: processes.collect(),
                }
            }
        })
    }
}

/// Whether any process of the host is in this network.
fn has_others(network: u64) -> bool {
    let all = kernel::proc::numbers(std::path::Path::new("/proc"));
    let identity = |pid| kernel::namespaces::identity(pid, Kind::Network).ok();
    all.is_ok_and(|all| all.into_iter().any(|pid| identity(pid) == Some(network)))
}

/// What stands in the way in the namespaces of these processes (our pids), which run.
pub fn blockers(root: Pid, processes: &[Pid]) -> Result<Vec<Blocker>> {
    let mut walk = Walk::new(root, processes.to_vec())?;
    for &pid in processes {
        for tid in Proc::process(pid).numbers("task").unwrap_or_default() {
            // One that ended meanwhile is no obstacle.
            let _ = walk.task((pid, tid));
        }
    }
    walk.mounted()?;
    walk.judge()?;
    Ok(walk.blockers)
}

/// Takes those of a frozen container: `threads` are all of its tasks, `dead` its zombies, and `inside` tells their names.
pub fn dump(
    root: Pid,
    threads: &[Tid],
    dead: &[Pid],
    inside: &HashMap<Pid, ids::Pid>,
) -> Result<(Nested, Sights)> {
    let processes = threads.iter().filter(|(pid, tid)| pid == tid);
    let mut walk = Walk::new(root, processes.map(|(pid, _)| *pid).collect())?;
    for tid in threads {
        walk.task(*tid)?;
    }
    walk.mounted()?;
    if walk.found.is_empty() && walk.tasks.is_empty() && walk.bound.is_empty() {
        return Ok(Default::default());
    }
    walk.judge()?;
    if !walk.blockers.is_empty() {
        return Err(Error::Blocked(walk.blockers));
    }
    let sights = walk.sights();
    let namespaces = walk.found.iter().map(|found| {
        let content = match found.task {
            Some(task) => walk.content(found, task)?,
            None => found
                .handle
                .visited(|pid| Ok(walk.content(found, (pid, pid))))??,
        };
        Ok(Inner {
            id: found.id,
            owner: found.owner,
            content,
        })
    });
    let namespaces = namespaces.collect::<Result<Vec<_>>>()?;
    let tasks = walk.tasks.into_iter().map(|((_, tid), member)| {
        let name = inside.get(&tid).copied();
        Ok(Task {
            tid: name.ok_or(kernel::Error::Gone { pid: tid })?,
            namespaces: member.namespaces,
            pids_for_children: member.pids_for_children,
            clocks_for_children: member.clocks_for_children,
        })
    });
    let tasks = tasks.collect::<Result<Vec<_>>>()?;
    let depth = status::read(root)?.numbers("NSpid")?.len();
    let dead = dead.iter().map(|pid| (*pid, *pid));
    let mut names = BTreeMap::new();
    for (pid, tid) in threads.iter().copied().chain(dead) {
        let status = status::read_thread(pid, tid)?;
        for key in ["NSpid", "NSpgid", "NSsid"] {
            name(&mut names, &status.numbers(key)?, depth);
        }
    }
    let nested = Nested {
        namespaces,
        tasks,
        names,
        bound: walk.bound,
    };
    Ok((nested, sights))
}

/// Where to look for what the processes of a container see, where that is not what its root process does.
#[derive(Debug, Clone, Default)]
pub struct Sights {
    /// A task of ours in each mount namespace, and all that are in it.
    pub mounts: Vec<(NsId, Pid, HashSet<Pid>)>,
    /// All namespaces that a task is in, by the inode.
    pub all: BTreeMap<u64, NsId>,
    /// The same of ipc namespaces and processes.
    pub queues: Vec<(NsId, Pid, HashSet<Pid>)>,
    /// A process of ours in each network namespace, by the inode.
    pub networks: BTreeMap<u64, (NsId, Pid)>,
}

impl Sights {
    /// Those of processes that run.
    pub fn of(root: Pid, processes: &[Pid]) -> Result<Self> {
        let mut walk = Walk::new(root, processes.to_vec())?;
        for &pid in processes {
            let _ = walk.task((pid, pid)); // it has ended
            let mounts = |tid| identity_in((pid, tid), Kind::Mount.name()).ok().flatten();
            let own = mounts(pid);
            for tid in Proc::process(pid).numbers("task").unwrap_or_default() {
                if mounts(tid).is_some_and(|inode| Some(inode) != own) {
                    let _ = walk.task((pid, tid));
                }
            }
        }
        let mut sights = walk.sights();
        for &pid in processes {
            for tid in Proc::process(pid).numbers("task").unwrap_or_default() {
                let inode = identity_in((pid, tid), Kind::Network.name());
                if let Ok(Some(inode)) = inode
                    && walk.of_root.get(&Kind::Network) != Some(&inode)
                {
                    // Of one whose threads alone are in it: nothing is recorded yet that would need its name.
                    sights.networks.entry(inode).or_insert((NsId(0), tid));
                }
            }
        }
        Ok(sights)
    }

    /// The process that a mount namespace is seen by.
    pub fn pid(&self, id: NsId) -> Option<Pid> {
        let found = self.mounts.iter().find(|(known, ..)| *known == id);
        found.map(|(_, there, _)| *there)
    }

    /// The task whose root directory and mounts are those of task `pid`: `root` where they are the container's.
    pub fn mounts_of(&self, pid: Pid, root: Pid) -> Pid {
        let mut all = self.mounts.iter();
        let found = all.find(|(_, _, members)| members.contains(&pid));
        found.map_or(root, |(_, there, _)| *there)
    }
}

impl Walk {
    /// The processes in a namespace.
    fn members(&self, id: NsId) -> Vec<Pid> {
        let members = self.tasks.iter();
        let members = members
            .filter(|((pid, tid), member)| pid == tid && member.namespaces.contains(&id))
            .map(|((pid, _), _)| *pid);
        members.collect()
    }

    fn sights(&self) -> Sights {
        let mut sights = Sights::default();
        for found in &self.found {
            let kind = found.handle.kind();
            if found.task.is_some() || matches!(kind, Kind::User | Kind::Network) {
                sights.all.insert(found.handle.inode(), found.id);
            }
            let Some((_, there)) = found.task else {
                continue;
            };
            match kind {
                Kind::Mount => {
                    let members = self.tasks.iter();
                    let members = members
                        .filter(|(_, member)| member.namespaces.contains(&found.id))
                        .map(|((_, tid), _)| *tid)
                        .collect();
                    sights.mounts.push((found.id, there, members));
                }
                Kind::Ipc => {
                    let members = self.members(found.id).into_iter().collect();
                    sights.queues.push((found.id, there, members));
                }
                Kind::Network => {
                    sights
                        .networks
                        .insert(found.handle.inode(), (found.id, there));
                }
                _ => {}
            }
        }
        sights
    }
}

/// Notes what namespaces below the container's, `depth` deep, call a task; a group or session has no name (0) in a
/// namespace that its founder is not in.
fn name(names: &mut BTreeMap<ids::Pid, Vec<ids::Pid>>, numbers: &[i64], depth: usize) {
    let number = |n: &i64| ids::Pid::try_from(*n).unwrap_or(0);
    let inner: Vec<ids::Pid> = numbers.iter().skip(depth).map(number).collect();
    let inner: Vec<ids::Pid> = inner.into_iter().take_while(|n| *n > 0).collect();
    let Some(outer) = depth.checked_sub(1).and_then(|at| numbers.get(at)) else {
        return;
    };
    let known = names.entry(number(outer)).or_default();
    if known.len() < inner.len() {
        *known = inner;
    }
    if known.is_empty() {
        names.remove(&number(outer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_no_name_where_its_founder_is_not() {
        let mut names = BTreeMap::new();
        name(&mut names, &[4711, 12, 1], 2);
        name(&mut names, &[4700, 10, 0], 2);
        name(&mut names, &[4712, 13, 2, 5], 2);
        assert_eq!(names, BTreeMap::from([(12, vec![1]), (13, vec![2, 5])]));
    }
}
