//! Control groups (cgroups(7)): membership, and the freezer.

use crate::Result;
use image::cgroups::{Cgroups, Membership};
use image::path::Name;
use kernel::Pid;
use kernel::proc::Proc;

mod freezer;

pub use freezer::{freeze, kill, list, thaw};

/// Takes the membership of a process.
pub fn dump(root: Pid) -> Result<Cgroups> {
    Ok(parse(&Proc::process(root).bytes("cgroup")?))
}

/// Reads `/proc/PID/cgroup`: `number:controllers:path`.
fn parse(text: &[u8]) -> Cgroups {
    let memberships = text.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.splitn(3, |b| *b == b':').skip(1);
        Some(Membership {
            controllers: String::from_utf8_lossy(fields.next()?).into_owned(),
            path: Name(fields.next()?.to_vec()),
        })
    });
    Cgroups {
        memberships: memberships.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_of_both_versions_are_read() {
        let found = parse(b"9:name=systemd:/\n4:cpu,cpuacct:/a:b\n0::/user.slice\n").memberships;
        let all: Vec<_> = found
            .iter()
            .map(|m| (m.controllers.as_str(), m.path.to_string()))
            .collect();
        let wanted = [
            ("name=systemd", "/"),
            ("cpu,cpuacct", "/a:b"),
            ("", "/user.slice"),
        ];
        assert_eq!(all, wanted.map(|(c, p)| (c, p.to_string())));
    }
}
