//! User and group ids (user_namespaces(7)).

use crate::{Blocker, Result};
use image::namespaces::user::{Range, Users};
use kernel::namespaces::Kind;
use kernel::nsfs::Handle;
use kernel::proc::Proc;
use kernel::{Error, Pid};

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

/// An own user namespace cannot be given back yet.
pub fn blockers(root: Pid) -> Vec<Blocker> {
    vec![Blocker {
        pid: root,
        place: String::new(),
        what: "a user namespace of its own".into(),
        remedy: "start it without one (no unshare -U, no rootless container)".into(),
    }]
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
