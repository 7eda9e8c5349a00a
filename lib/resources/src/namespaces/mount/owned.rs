//! File systems that belong to the container's user namespace: what it may change of them, and which owners they know, follows
//! from who has made them (user_namespaces(7)).

use super::attach::{is_new, is_poured, options, shows_group};
use super::{Covered, Mount, Mounts};
use crate::namespaces::user;
use image::namespaces::user::Users;

/// Makes the container's own ones, mounted nowhere yet: called by a process that is in all of its namespaces. Those that its
/// user namespace may not make are left out.
pub fn owned(record: &Mounts, maps: &Users) -> Covered {
    let all = record.mounts.iter();
    let new = all.filter(|one| is_new(one) && !shows_group(one));
    let made = new.filter_map(|one| {
        let options = of_inside(one, maps);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let made = kernel::mount::create(&one.fstype, &one.source.0, &options);
        Some((one.id, made.ok()?))
    });
    made.collect()
}

/// Its options, with the numbers that the namespace has for users and groups.
fn of_inside(one: &Mount, maps: &Users) -> Vec<String> {
    let options = options(one);
    let each = options.split(',').filter(|option| !option.is_empty());
    let mut all: Vec<String> = each
        .map(|option| {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let map = match key {
                "uid" => &maps.uids,
                "gid" => &maps.gids,
                _ => return option.to_owned(),
            };
            let id = value.parse().ok().and_then(|id| user::inside(map, id));
            id.map_or(option.to_owned(), |id| format!("{key}={id}"))
        })
        .collect();
    if !is_poured(one) && one.super_options.iter().any(|option| option == "ro") {
        all.push("ro".into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::ids::MountId;
    use image::namespaces::mount::{Origin, Propagation};
    use image::namespaces::user::Range;

    #[test]
    fn owners_are_said_as_the_namespace_knows_them() {
        let range = |inside, outside| Range {
            inside,
            outside,
            count: 65536,
        };
        let maps = Users {
            uids: vec![range(0, 100_000)],
            gids: vec![range(0, 200_000)],
        };
        let texts = ["rw", "size=4k", "mode=700", "uid=100007", "gid=200005"];
        let one = Mount {
            id: MountId(1),
            parent: MountId(0),
            mountpoint: "/tmp".into(),
            root: "/".into(),
            fstype: "tmpfs".into(),
            source: "none".into(),
            options: vec![],
            super_options: texts.map(String::from).into(),
            propagation: Propagation::Private,
            peers: None,
            master: None,
            covered: false,
            origin: Origin::Tmpfs { tree: 0 },
        };
        assert_eq!(
            of_inside(&one, &maps),
            ["size=4k", "mode=700", "uid=7", "gid=5"]
        );
    }
}
