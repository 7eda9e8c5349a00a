//! User and group ids (user_namespaces(7)).

use crate::{Blocker, Result};
use image::namespaces::user::{Own, Range, Users};
use kernel::namespaces::{Kind, identity, own};
use kernel::nsfs::Handle;
use kernel::proc::{Proc, status};
use kernel::{Error, Pid};

/// Takes the namespace of a container whose root process this is.
pub fn own_of(root: Pid) -> Result<Own> {
    let status = status::read(root)?;
    let number = |n: &i64| *n as u32;
    let group = status.numbers("Gid")?.get(1).map_or(0, number);
    Ok(Own {
        maps: dump(root)?,
        maker: Handle::of(root, root, Kind::User)?.owner_uid()?,
        group,
        groups: status.numbers("Groups")?.iter().map(number).collect(),
        keeps_groups: keeps_groups(root)?,
    })
}

/// Whether nobody may call setgroups(2) in the namespace of a process.
pub fn keeps_groups(pid: Pid) -> Result<bool> {
    Ok(Proc::process(pid).text("setgroups")?.trim() == "deny")
}

/// Takes the maps of the process's namespace.
pub fn dump(root: Pid) -> Result<Users> {
    let proc = Proc::process(root);
    let map = |name: &str| {
        let text = proc.text(name)?;
        parse(&text).ok_or_else(|| Error::unreadable(format!("/proc/{root}/{name}"), text))
    };
    Ok(Users {
        uids: map("uid_map")?,
        gids: map("gid_map")?,
    })
}

fn parse(text: &str) -> Option<Vec<Range>> {
    text.lines()
        .map(|line| {
            let mut fields = line.split_whitespace().map(str::parse);
            let mut next = || fields.next()?.ok();
            Some(Range {
                inside: next()?,
                outside: next()?,
                count: next()?,
            })
        })
        .collect()
}

/// What a namespace with this map calls an id that we see; none where it has no number for it.
pub fn inside(map: &[Range], seen: u32) -> Option<u32> {
    let range = map.iter().find(|range| {
        let past = seen.checked_sub(range.outside);
        past.is_some_and(|past| past < range.count)
    })?;
    range.inside.checked_add(seen - range.outside)
}

/// The maps of the user namespace that a process is in; none where that is ours.
pub fn around(pid: Pid) -> Result<Option<Users>> {
    match identity(pid, Kind::User)? == own(Kind::User)? {
        true => Ok(None),
        false => dump(pid).map(Some),
    }
}

/// Writes the maps of a namespace that process `pid` has just made; `around` are those of the one around it, where that is not
/// ours.
pub fn restore(pid: Pid, maps: &Users, around: Option<&Users>, keeps_groups: bool) -> Result<()> {
    let text = |ranges: &[Range], around: Option<&[Range]>| -> Result<String> {
        let lines = ranges.iter().map(|range| {
            let outside = match around {
                None => Some(range.outside),
                Some(around) => inside(around, range.outside),
            };
            let outside = outside.ok_or_else(|| {
                crate::Error::Refused(format!(
                    "a user namespace of the image has the id {}, which the one around it has not",
                    range.outside
                ))
            })?;
            Ok(format!("{} {} {}\n", range.inside, outside, range.count))
        });
        lines.collect()
    };
    let parent = Handle::of(pid, pid, Kind::User)?.parent()?;
    let write = |name: &str, text: &str| {
        let path = format!("/proc/{pid}/{name}");
        match &parent {
            Some(parent) if around.is_some() => parent.write(&path, text),
            _ => std::fs::write(&path, text).map_err(|e| Error::io(format!("write {path}"), &e)),
        }
    };
    if keeps_groups {
        write("setgroups", "deny")?;
    }
    for (name, ranges, around) in [
        ("uid_map", &maps.uids, around.map(|a| &a.uids[..])),
        ("gid_map", &maps.gids, around.map(|a| &a.gids[..])),
    ] {
        if !ranges.is_empty() {
            write(name, &text(ranges, around)?)?;
        }
    }
    Ok(())
}

/// What of a container's user namespace cannot be given back: what is around it and is not ours, namespaces that belong to
/// another one, and ids that its processes have and the namespace has no number for.
pub fn blockers(root: Pid, processes: &[Pid]) -> Result<Vec<Blocker>> {
    let mut found = Vec::new();
    let mut block = |pid: Pid, what: String, remedy: &str| {
        found.push(Blocker {
            pid,
            place: String::new(),
            what,
            remedy: remedy.into(),
        });
    };
    let user = Handle::of(root, root, Kind::User)?;
    let around = user.parent()?.map(|around| around.inode());
    if around != Some(identity_of_us()?) {
        let what = "a user namespace of its own, within another one that is not the host's";
        let remedy = "take the tree from where the outer one begins";
        block(root, what.into(), remedy);
    }
    // Whose its clocks are makes no difference once somebody lives by them, and those of a container that has come from elsewhere
    // are ours.
    let owned = |kind: &Kind| ![Kind::User, Kind::Time].contains(kind);
    for kind in Kind::ALL.into_iter().filter(owned) {
        let handle = Handle::of(root, root, kind)?;
        let owner = handle.owner()?.map(|owner| owner.inode());
        if handle.inode() != own(kind)? && owner != Some(user.inode()) {
            let what = format!(
                "a {} namespace that does not belong to its user namespace",
                kind.name()
            );
            let remedy = "make both at once (unshare -U with the others), or neither";
            block(root, what, remedy);
        }
    }
    let record = own_of(root)?;
    for &pid in processes {
        // One that ended meanwhile is no obstacle; one in a namespace inside is looked at there.
        let (Ok(status), Ok(inode)) = (status::read(pid), identity(pid, Kind::User)) else {
            continue;
        };
        if inode == user.inode() && !fits(&record, &status)? {
            let what = "a user or group id that its user namespace has no number for, and that its root process does not have";
            block(
                pid,
                what.into(),
                "map it (uid_map, gid_map), or end it first",
            );
        }
    }
    Ok(found)
}

fn identity_of_us() -> Result<u64> {
    Ok(own(Kind::User)?)
}

/// Whether a process can become what it was in the namespace: by its numbers, or because it was born so.
fn fits(record: &Own, status: &status::Status) -> Result<bool> {
    let inner = |map: &[Range], id: i64| inside(map, id as u32).is_some();
    let uids = status.numbers("Uid")?;
    let gids = status.numbers("Gid")?;
    let groups = status.numbers("Groups")?;
    let (uid, gid) = (i64::from(record.maker), i64::from(record.group));
    let of_root: Vec<i64> = record.groups.iter().copied().map(i64::from).collect();
    let chosen =
        !record.keeps_groups && groups.iter().all(|group| inner(&record.maps.gids, *group));
    Ok(uids
        .iter()
        .all(|id| *id == uid || inner(&record.maps.uids, *id))
        && gids
            .iter()
            .all(|id| *id == gid || inner(&record.maps.gids, *id))
        && (chosen || groups == of_root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read() {
        let range = Range {
            inside: 0,
            outside: 100000,
            count: 65536,
        };
        assert_eq!(
            parse("         0     100000      65536\n"),
            Some(vec![range])
        );
        assert_eq!(parse(""), Some(Vec::new()));
        assert_eq!(parse("0 1\n"), None);
    }
}
