//! Tasks brought into what only they can enter: a user namespace, before they have threads; and threads into theirs.

use super::give::{inhabitants, said};
use super::kind;
use crate::namespaces::user;
use crate::threads::{self, Birth};
use crate::tree::{Numbers, go};
use crate::{Error, Result, Target};
use image::ids::{NsId, Pid};
use image::namespaces::nested::{Children, Content, Nested};
use kernel::namespaces::Kind;
use kernel::nsfs::Handle;
use kernel::proc::status;
use kernel::remote::{Call, Caller, call};

fn is_user(content: &Content) -> bool {
    matches!(content, Content::User { .. })
}

/// Brings a process, which has one thread yet, into its user namespace, with the groups that it may not choose there: it has
/// all capabilities there, and none for what is the container's.
pub fn join_users(nested: &Nested, target: &mut Target, pid: Pid, groups: &[u32]) -> Result<()> {
    let Some(inner) = nested.of(pid, is_user) else {
        return Ok(());
    };
    let holder = target.inners.pid(inner.id).ok_or_else(|| {
        Error::Refused(format!("the user namespace of process {pid} was not made"))
    })?;
    let handle = Handle::of(holder, holder, Kind::User)?;
    let inhabitants = inhabitants(nested, target);
    let stub = &mut target.process(pid)?.leader;
    let has = status::read(stub.tid())?.numbers("Groups")?;
    if !has.into_iter().eq(groups.iter().map(|id| i64::from(*id))) {
        let container = user::around(stub.tid())?;
        let map = container.as_ref().map(|maps| &maps.gids[..]);
        let list = groups.iter().map(|id| said(*id, map));
        let list = list.collect::<Result<Vec<u32>>>()?;
        let list: Vec<u8> = list.into_iter().flat_map(u32::to_ne_bytes).collect();
        let at = stub.put(&list)?;
        let set = Call::new(libc::SYS_setgroups, &[groups.len() as u64, at]);
        stub.must("setgroups", set)?;
    }
    // What only the container's own root may do: the pid namespace, although it was made in that user namespace, is its.
    if let Some(Children::Inner(id)) = nested.task(pid).and_then(|task| task.pids_for_children)
        && let Some(there) = inhabitants.get(&id)
    {
        go(stub, &Handle::of(*there, *there, Kind::Pid)?)?;
    }
    go(stub, &handle)?;
    // Until it is given its own: who may look into it there may do so again.
    stub.must("PR_SET_DUMPABLE", call::set_dumpable(1))?;
    Ok(())
}

/// Makes the further threads of a process, each in its namespaces; `last` is the last pid given out in the container. In a user
/// namespace a process may not choose their ids, for the pid namespaces are of the container's own root.
pub fn create_threads(
    nested: &Nested,
    target: &mut Target,
    pid: Pid,
    births: &[Birth],
    numbers: &mut Numbers,
    last: Option<Pid>,
) -> Result<()> {
    if births.is_empty() || nested.of(pid, is_user).is_none() {
        return create(nested, target, pid, births, numbers);
    }
    let inhabitants = inhabitants(nested, target);
    let mut levels = Vec::new();
    let mut at = nested.pids(pid);
    while let Some(inner) = at {
        let there = inhabitants.get(&inner.id).copied();
        levels.extend(there);
        at = match &inner.content {
            Content::Pid { parent, .. } => parent.and_then(|id| nested.get(id)),
            _ => None,
        };
    }
    levels.push(target.root_pid);
    levels.reverse();
    let mut counted = numbers.counted(&levels)?;
    numbers.forget();
    create(nested, target, pid, births, &mut counted)?;
    counted.finish(last)
}

fn create(
    nested: &Nested,
    target: &mut Target,
    pid: Pid,
    births: &[Birth],
    numbers: &mut Numbers,
) -> Result<()> {
    for birth in births {
        threads::create(target.process(pid)?, [*birth], numbers)?;
        join(nested, target, pid, birth)?;
    }
    Ok(())
}

/// Brings a further thread of a process into its own, where those are not those of the thread that has made it.
fn join(nested: &Nested, target: &mut Target, pid: Pid, birth: &Birth) -> Result<()> {
    if nested.is_empty() {
        return Ok(());
    }
    let inners = std::mem::take(&mut target.inners);
    let root = target.root_pid;
    let of = |tid| nested.task(tid).map_or(&[][..], |task| &task.namespaces);
    let kinds = |ids: &[NsId]| -> Vec<Kind> {
        let found = ids.iter().filter_map(|id| nested.get(*id));
        found.map(|inner| kind(&inner.content)).collect()
    };
    let (own, now) = (of(birth.tid), of(birth.creator.unwrap_or(pid)));
    if own != now {
        let stub = target.process(pid)?.threads.get_mut(&birth.tid);
        let not_made = || Error::Refused(format!("thread {} was not made", birth.tid));
        let stub = stub.ok_or_else(not_made)?;
        // What its creator has and the thread has not: there the thread is in the container's own.
        let wanted = kinds(own);
        for kind in kinds(now) {
            if !wanted.contains(&kind) {
                go(stub, &Handle::of(root, root, kind)?)?;
            }
        }
        if let Some(task) = nested.task(birth.tid) {
            inners.join(nested, task, now, stub)?;
        }
    }
    target.inners = inners;
    Ok(())
}
