//! Namespaces made again by holders, and tasks brought into them.

use super::kind;
use crate::namespaces::network::{There, Uplinks};
use crate::namespaces::{ipc, mount, network, time, user, uts};
use crate::tree::{Born, Numbers, Patience, go, used};
use crate::{Error, Result, Target};
use image::ids::{NsId, Pid};
use image::namespaces::mount::Origin;
use image::namespaces::nested::{Children, Content, Inner, Nested, Task};
use image::namespaces::network::Network;
use image::namespaces::user::Range;
use image::rootfs::Tree as FileTree;
use image::tree::Tree;
use kernel::namespaces::{Kind, set_last_pid};
use kernel::nsfs::Handle;
use kernel::open::Root;
use kernel::remote::{Call, Caller, Stub, call};
use kernel::{Namespace, within};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

/// The namespaces inside a container that is being rebuilt.
#[derive(Debug, Default)]
pub struct Inners {
    holders: BTreeMap<NsId, Holder>,
    /// The root of the container's tree.
    root: Pid,
    /// Who is in which pid namespace.
    pids: BTreeMap<NsId, kernel::Pid>,
    /// The time namespaces, which nobody is in at first.
    clocks: BTreeMap<NsId, Handle>,
    /// Who is in which mount namespace.
    mounts: BTreeMap<Pid, NsId>,
}

/// A process that keeps a namespace until all tasks are in it.
#[derive(Debug)]
struct Holder {
    stub: Stub,
    /// The container's pid of it.
    inside: Pid,
}

/// Makes the namespaces, by children of the container's first process: `init`, where that is ours, or the root of its
/// tree; fills them, and brings the leaders of all processes into theirs. `own`: the container's network, where it has one of
/// its own.
pub fn make(
    tree: &Tree,
    target: &mut Target,
    init: &mut Option<Stub>,
    numbers: &mut Numbers,
    own: Option<(&Network, Uplinks)>,
) -> Result<Vec<String>> {
    let nested = &tree.nested;
    let mut remarks = Vec::new();
    let own = own.map(|own| (None, target.root_pid, own));
    if nested.is_empty() {
        network::settle(&own.map(there).into_iter().collect::<Vec<_>>())?;
        return Ok(remarks);
    }
    nested.check().map_err(Error::Refused)?;
    target.inners.root = tree.root;
    let container = user::around(target.root_pid)?;
    let mut inners = std::mem::take(&mut target.inners);
    let taken = used(tree);
    let mut free = (300..).filter(|pid| !taken.contains(pid));
    // What is mounted may show what is in the others: so mounts come last. A pid namespace was made by its process 1.
    let is_mount = |inner: &&Inner| kind(&inner.content) == Kind::Mount;
    let others = nested.namespaces.iter().filter(|inner| !is_mount(inner));
    for inner in others.chain(nested.namespaces.iter().filter(is_mount)) {
        let kind = kind(&inner.content);
        if kind == Kind::Pid {
            continue;
        }
        if let Content::Time { offsets } = &inner.content
            && let Some(maker) = nested.maker(inner.id)
        {
            // Its own clocks are others, and only by making it has it this one for its children.
            let own = time::of(&Handle::of(target.root_pid, target.root_pid, Kind::Time)?)?;
            let stub = &mut target.process(maker)?.leader;
            stub.must("make a time namespace", call::unshare(kind))?;
            time::restore_inner(stub.tid(), *offsets, own)?;
            inners.clock(inner.id, stub.tid())?;
            continue;
        }
        let first = inners.first(target, init)?;
        let mut holder = birth(first, numbers, &mut free)?;
        let around = inner.owner.and_then(|id| nested.get(id));
        let around = around.and_then(|inner| match &inner.content {
            Content::User { maps, .. } => Some(maps),
            _ => None,
        });
        let around = around.or(container.as_ref());
        if let Content::User { maker, .. } = &inner.content {
            // Any group will do that the one around has a number for.
            let group = around.and_then(|maps| maps.gids.first());
            let group = group.map_or(0, |range| range.outside);
            let maps = container.as_ref();
            let (gids, uids) = (maps.map(|m| &m.gids[..]), maps.map(|m| &m.uids[..]));
            for (name, call, id) in [
                ("group", libc::SYS_setresgid, said(group, gids)?),
                ("user", libc::SYS_setresuid, said(*maker, uids)?),
            ] {
                let what = format!("become a {name} that makes a user namespace");
                holder
                    .stub
                    .must(&what, Call::new(call, &[u64::from(id); 3]))?;
            }
        }
        if kind == Kind::Mount
            && let Some(task) = nested
                .tasks
                .iter()
                .find(|t| t.namespaces.contains(&inner.id))
        {
            inners.join(nested, task, &[], &mut holder.stub)?;
        }
        if let Some(owner) = inner.owner.and_then(|id| inners.pid(id)) {
            go(&mut holder.stub, &Handle::of(owner, owner, Kind::User)?)?;
        }
        let what = format!("make a {} namespace", kind.name());
        holder.stub.must(&what, call::unshare(kind))?;
        if let Content::User {
            maps, keeps_groups, ..
        } = &inner.content
        {
            // Its files in /proc are then its own: who is in the namespace around may write them.
            let own = call::set_dumpable(1);
            holder.stub.must("PR_SET_DUMPABLE", own)?;
            user::restore(holder.stub.tid(), maps, around, *keeps_groups)?;
        }
        remarks.extend(fill(
            inner,
            holder.stub.tid(),
            &inhabitants(nested, target),
            target.root_pid,
        )?);
        if kind == Kind::Time {
            inners.clock(inner.id, holder.stub.tid())?;
        }
        inners.holders.insert(inner.id, holder);
    }
    let inner = nested.namespaces.iter().filter_map(|inner| {
        let Content::Network { network } = &inner.content else {
            return None;
        };
        Some((
            Some(inner.id),
            inners.pid(inner.id)?,
            (network, Uplinks::Kept),
        ))
    });
    let networks = own.into_iter().chain(inner).map(there);
    network::settle(&networks.collect::<Vec<_>>())?;
    for task in &nested.tasks {
        let is_mount = |content: &Content| matches!(content, Content::Mount { .. });
        if let Some(inner) = nested.of(task.tid, is_mount) {
            inners.mounts.insert(task.tid, inner.id);
        }
    }
    for (pid, process) in &mut target.processes {
        if let Some(task) = nested.task(*pid) {
            inners.join(nested, task, &[], &mut process.leader)?;
        }
    }
    inners.pids = inhabitants(nested, target);
    target.inners = inners;
    Ok(remarks)
}

fn there<'a>(
    (id, pid, (network, uplinks)): (Option<NsId>, kernel::Pid, (&'a Network, Uplinks)),
) -> There<'a> {
    There {
        id,
        pid,
        network,
        uplinks,
    }
}

/// The file trees of the mount namespaces inside a container: process, mount point and name of each.
pub fn trees(
    nested: &Nested,
    pid: &dyn Fn(NsId) -> Option<kernel::Pid>,
) -> Vec<(kernel::Pid, PathBuf, FileTree)> {
    let mut found = Vec::new();
    for inner in &nested.namespaces {
        let (Content::Mount { mounts, .. }, Some(pid)) = (&inner.content, pid(inner.id)) else {
            continue;
        };
        for mount in &mounts.mounts {
            if let Origin::Tmpfs { tree } = mount.origin {
                let place = mount.mountpoint.as_path().to_path_buf();
                found.push((pid, place, FileTree::Tmpfs(tree)));
            }
        }
    }
    found
}

/// All file trees are poured: read-only mounts become so.
pub fn settle_mounts(nested: &Nested, target: &Target) -> Result<()> {
    for inner in &nested.namespaces {
        if let Content::Mount { mounts, .. } = &inner.content
            && let Some(pid) = target.inners.pid(inner.id)
        {
            mount::inner::settle(pid, mounts)?;
        }
    }
    Ok(())
}

/// One process of ours in each pid namespace.
pub(super) fn inhabitants(nested: &Nested, target: &Target) -> BTreeMap<NsId, kernel::Pid> {
    let mut inhabitants = BTreeMap::new();
    for (pid, process) in &target.processes {
        if let Some(inner) = nested.pids(*pid) {
            inhabitants.entry(inner.id).or_insert(process.pid);
        }
    }
    inhabitants
}

/// What the container calls an id, by this map of its user namespace; none: it is in ours.
pub(super) fn said(id: u32, map: Option<&[Range]>) -> Result<u32> {
    let inside = map.map_or(Some(id), |map| user::inside(map, id));
    inside.ok_or_else(|| {
        Error::Refused(format!(
            "a namespace of the image has the id {id}, which the container's user namespace has not"
        ))
    })
}

/// Once all threads are there: where their children are to be, and the end of the holders. Words for those who restore.
pub fn settle(
    nested: &Nested,
    target: &mut Target,
    init: &mut Option<Stub>,
) -> Result<Vec<String>> {
    let mut words = Vec::new();
    if nested.is_empty() {
        return Ok(words);
    }
    children(nested, target)?;
    for inner in &nested.namespaces {
        // What its sockets had not yet read is there by now.
        if let Content::Network { network } = &inner.content
            && let Some(there) = target.inners.pid(inner.id)
        {
            words.extend(network::resume(there, network, Uplinks::Kept)?);
        }
        if let Content::Ipc { sysv, queues, .. } = &inner.content
            && let Some(there) = target.inners.pid(inner.id)
        {
            crate::ipc::sysv::resume(target, there, sysv)?;
            crate::ipc::notices::resume(target, &queues.queues)?;
        }
    }
    words.extend(super::bound::restore(nested, target)?);
    let mut inners = std::mem::take(&mut target.inners);
    while let Some((_, holder)) = inners.holders.pop_last() {
        holder.stub.last_call(call::exit_group(0))?;
        let what = format!("wait for {}", holder.inside);
        let first = inners.first(target, init)?;
        first.must(&what, call::wait4(holder.inside))?;
    }
    Ok(words)
}

impl Inners {
    /// The container's first process, which has forked the holders.
    fn first<'a>(
        &self,
        target: &'a mut Target,
        init: &'a mut Option<Stub>,
    ) -> Result<&'a mut Stub> {
        match init {
            Some(init) => Ok(init),
            None => Ok(&mut target.process(self.root)?.leader),
        }
    }

    /// Our pid of a process in a namespace, as long as its holder is there.
    pub fn pid(&self, id: NsId) -> Option<kernel::Pid> {
        self.holders.get(&id).map(|holder| holder.stub.tid())
    }

    /// One of these namespaces; none where it is not there.
    pub fn handle(&self, id: NsId, kind: Kind) -> Result<Option<Handle>> {
        if let Some(clock) = self.clocks.get(&id) {
            return Ok((kind == Kind::Time).then(|| clock.again()).transpose()?);
        }
        let there = self.pids.get(&id).copied().filter(|_| kind == Kind::Pid);
        let there = there.or_else(|| self.pid(id));
        Ok(there.map(|pid| Handle::of(pid, pid, kind)).transpose()?)
    }

    /// Keeps a time namespace that a process has made for its children.
    fn clock(&mut self, id: NsId, maker: kernel::Pid) -> Result<()> {
        let made = Handle::for_children(maker, maker, Kind::Time)?;
        self.clocks.extend(made.map(|made| (id, made)));
        Ok(())
    }

    /// The mount namespace of a task; none: the container's.
    pub fn mounts_of(&self, pid: Pid) -> Option<NsId> {
        self.mounts.get(&pid).copied()
    }

    /// The root directories of all mount namespaces.
    pub fn roots(&self) -> Result<HashMap<NsId, Root>> {
        let ids: BTreeSet<NsId> = self.mounts.values().copied().collect();
        let known = ids.into_iter().filter_map(|id| Some((id, self.pid(id)?)));
        known.map(|(id, pid)| Ok((id, Root::of(pid)?))).collect()
    }

    /// Brings a task, which is in the namespaces `now`, into its own.
    pub(super) fn join(
        &self,
        nested: &Nested,
        task: &Task,
        now: &[NsId],
        stub: &mut Stub,
    ) -> Result<()> {
        for id in task.namespaces.iter().filter(|id| !now.contains(id)) {
            if let Some(clock) = self.clocks.get(id) {
                go(stub, clock)?;
                continue;
            }
            if let (Some(holder), Some(inner)) = (self.holders.get(id), nested.get(*id)) {
                if kind(&inner.content) == Kind::User {
                    continue; // last of all ([`join_users`])
                }
                let tid = holder.stub.tid();
                go(stub, &Handle::of(tid, tid, kind(&inner.content))?)?;
            }
        }
        Ok(())
    }
}

/// Forks a holder, by a pid that nothing of the tree has. Its end is no news to its parent.
fn birth(
    first: &mut Stub,
    numbers: &mut Numbers,
    free: &mut impl Iterator<Item = Pid>,
) -> Result<Holder> {
    let patience = Patience::new();
    loop {
        let inside = free.next().unwrap_or(300);
        match numbers.birth(first, "fork the holder of a namespace", inside, 0, 0)? {
            Born::Right(stub) => return Ok(Holder { stub, inside }),
            Born::Other(other, stub) => {
                stub.last_call(call::exit_group(0))?;
                first.must(&format!("wait for {other}"), call::wait4(other))?;
            }
            Born::Taken => {}
        }
        patience.wait(inside)?;
    }
}

/// Gives a namespace what is in it, by way of the process that has made it; with remarks for the user.
fn fill(
    inner: &Inner,
    holder: kernel::Pid,
    inhabitants: &BTreeMap<NsId, kernel::Pid>,
    root: kernel::Pid,
) -> Result<Vec<String>> {
    match &inner.content {
        Content::Network { network } => {
            network::restore(holder, network)?;
        }
        Content::Ipc {
            limits,
            queues,
            sysv,
        } => {
            within(holder, &[Namespace::Ipc], || ipc::restore(limits))??;
            crate::ipc::restore(holder, queues)?;
            crate::ipc::sysv::restore(holder, sysv)?;
        }
        Content::Uts { names } => within(holder, &[Namespace::Uts], || uts::restore(names))??,
        Content::Mount {
            mounts,
            gone,
            processes,
        } => {
            let of = |id: Option<NsId>| match id {
                None => Some(root),
                Some(id) => inhabitants.get(&id).copied(),
            };
            let known = mount::inner::known(holder, processes, &of)?;
            let all = [
                Namespace::Mount,
                Namespace::Net,
                Namespace::Ipc,
                Namespace::Uts,
                Namespace::Cgroup,
            ];
            let missing = within(holder, &all, || mount::inner::restore(mounts, gone, known))??;
            return Ok(missing
                .iter()
                .map(|what| format!("not mounted inside the container, as it was: {what}"))
                .collect());
        }
        Content::Pid { .. } | Content::Cgroup { .. } | Content::User { .. } => {}
        Content::Time { offsets } => {
            let own = time::of(&Handle::of(root, root, Kind::Time)?)?;
            time::restore_inner(holder, *offsets, own)?;
        }
    }
    Ok(Vec::new())
}

/// The children of each task will be in the pid namespace that they were to be in, where the next pid is a new one.
fn children(nested: &Nested, target: &mut Target) -> Result<()> {
    let inhabitants = inhabitants(nested, target);
    for inner in &nested.namespaces {
        if let Content::Pid { last, .. } = &inner.content
            && let Some(there) = inhabitants.get(&inner.id)
        {
            set_last_pid(*there, *last)?;
        }
    }
    let root = target.root_pid;
    let is_user = |content: &Content| matches!(content, Content::User { .. });
    for process in target.processes.values_mut() {
        let leader = (process.inside, &mut process.leader);
        let threads = process.threads.iter_mut().map(|(tid, stub)| (*tid, stub));
        for (tid, stub) in [leader].into_iter().chain(threads) {
            let there = match nested.task(tid).and_then(|task| task.pids_for_children) {
                None => continue,
                Some(Children::New) => {
                    stub.must("make a pid namespace", call::unshare(Kind::Pid))?;
                    continue;
                }
                Some(Children::Inner(_)) if nested.of(tid, is_user).is_some() => continue, // is so already
                Some(Children::Container) => Some(&root),
                Some(Children::Inner(id)) => inhabitants.get(&id),
            };
            let there = there.ok_or_else(|| {
                Error::Refused(format!(
                    "the children of task {tid} are to be in a pid namespace that nobody is in"
                ))
            })?;
            go(stub, &Handle::of(*there, *there, Kind::Pid)?)?;
        }
    }
    Ok(())
}
