//! User and group ids (user_namespaces(7)).

use crate::{Blocker, Result};
use image::namespaces::user::{Range, Users};
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
