//! Mounts: peer groups and who takes from which, binds of parts, read-only ones, a tmpfs with options, an overlay of one's
//! own, a mount over another. Where none may be made, in a container of an engine's, those that are there.
#![forbid(unsafe_code)]

use kernel::proc::mountinfo::{self, Mount};
use nix::mount::{MntFlags, MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use subject::Stage;

/// What a mount looks like, its groups numbered in the order of places.
type Look = (PathBuf, String, Vec<String>, Vec<String>);

fn look(below: &Path) -> Vec<Look> {
    let place = |m: &Mount| PathBuf::from(String::from_utf8_lossy(&m.mountpoint).into_owned());
    let mut all = mountinfo::read_own().expect("mountinfo");
    all.retain(|m| place(m).starts_with(below));
    all.sort_by_key(place);
    let mut groups: BTreeMap<String, usize> = BTreeMap::new();
    let mut tag = |tag: &String| {
        let Some((kind, number)) = tag.split_once(':') else {
            return tag.clone();
        };
        let next = groups.len();
        let group = groups.entry(number.into()).or_insert(next);
        format!("{kind}:{group}")
    };
    all.iter()
        .map(|m| {
            let tags: Vec<String> = m.tags.iter().map(&mut tag).collect();
            let said = [m.options.clone(), m.super_options.clone()].concat();
            (place(m), m.fstype.clone(), said, tags)
        })
        .collect()
}

const NONE: Option<&str> = None;

fn new(kind: &str, at: &Path, options: &str) {
    fs::create_dir_all(at).expect("make a mount point");
    let flags = MsFlags::empty();
    mount(Some("own"), at, Some(kind), flags, Some(options)).expect("mount");
}

fn bind(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a mount point");
    mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE).expect("bind");
}

fn change(at: &Path, flags: MsFlags) {
    mount(NONE, at, NONE, flags, NONE).expect("change a mount");
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        let places = || {
            let all = look(Path::new("/")).into_iter();
            all.map(|(place, kind, ..)| (place, kind))
                .collect::<Vec<_>>()
        };
        let before = places();
        stage.wait();
        stage.same("the engine's mounts", before, places());
        return stage.leave();
    }
    change(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    let top = stage.path("mounts");
    let at = |name: &str| top.join(name);
    new(
        "tmpfs",
        &at("one"),
        "size=2m,nr_inodes=600,mode=2750,uid=5,gid=6",
    );
    for name in ["one/part", "one/in", "one/deep/er"] {
        fs::create_dir_all(at(name)).expect("make a directory");
    }
    fs::write(at("one/file"), "content").expect("write");
    fs::hard_link(at("one/file"), at("one/part/linked")).expect("link");
    let sparse = fs::File::create(at("one/sparse")).expect("make a file");
    sparse.set_len(1 << 20).expect("set its length");
    change(&at("one"), MsFlags::MS_SHARED);
    bind(&at("one"), &at("peer"));
    bind(&at("one/part"), &at("part")); // a peer that shows less
    bind(&at("one"), &at("slave"));
    change(&at("slave"), MsFlags::MS_SLAVE);
    bind(&at("slave"), &at("both"));
    change(&at("both"), MsFlags::MS_SHARED);
    bind(&at("both"), &at("both-too"));
    bind(&at("one/deep"), &at("alone"));
    change(&at("alone"), MsFlags::MS_PRIVATE);
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    change(
        &at("alone"),
        read_only | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
    );
    // Not for a user namespace's root to say (tmpfs(5)).
    let swap = match fs::read_to_string("/proc/self/uid_map") {
        Ok(map) if map.split_whitespace().eq(["0", "0", "4294967295"]) => "noswap,size=64k",
        _ => "size=64k",
    };
    new("tmpfs", &at("unbindable"), swap);
    change(&at("unbindable"), MsFlags::MS_UNBINDABLE);
    new("tmpfs", &at("layers"), "");
    for name in ["low", "up", "work", "merged"] {
        fs::create_dir(at("layers").join(name)).expect("make a directory");
    }
    for name in ["low/gone", "low/stays"] {
        fs::write(at("layers").join(name), "low").expect("write");
    }
    let layer = |name: &str| at("layers").join(name).display().to_string();
    let (low, up, work) = (layer("low"), layer("up"), layer("work"));
    let options = format!("lowerdir={low},upperdir={up},workdir={work}");
    new("overlay", &at("layers/merged"), &options);
    fs::remove_file(at("layers/merged/gone")).expect("remove");
    fs::write(at("layers/merged/new"), "up").expect("write");
    new("tmpfs", &at("over"), "size=64k");
    fs::write(at("over/which"), "upper").expect("write");
    new("proc", &at("proc"), "");
    let before = look(&top);

    stage.wait();

    stage.same("mounts", before, look(&top));
    let one = fs::metadata(at("one")).expect("stat");
    let owner = (one.permissions().mode() & 0o7777, one.uid(), one.gid());
    stage.same("the root of a tmpfs", (0o2750, 5, 6), owner);
    let read = |name: &str| fs::read_to_string(at(name)).unwrap_or_default();
    stage.same("content by another mount", "content", &read("part/linked"));
    let inode = |name: &str| fs::metadata(at(name)).map(|m| m.ino()).ok();
    stage.same("a hard link", inode("one/file"), inode("peer/part/linked"));
    let sparse = fs::metadata(at("one/sparse")).expect("stat");
    stage.same("a hole", (1 << 20, 0), (sparse.len(), sparse.blocks()));
    stage.holds("only to be read", fs::write(at("alone/no"), "").is_err());
    let twice = mount(
        Some(&at("unbindable")),
        &at("proc"),
        NONE,
        MsFlags::MS_BIND,
        NONE,
    );
    stage.holds("not to be bound", twice.is_err());
    stage.holds("what an overlay hides", !at("layers/merged/gone").exists());
    stage.same("what it adds", "up", &read("layers/merged/new"));
    stage.same("what it shows", "low", &read("layers/merged/stays"));
    // What is mounted in a peer shows in the others and in who takes from them; what is mounted there shows in its own.
    let shows = |name: &str| {
        let places = look(&at(name)).into_iter().map(|(place, ..)| place);
        places.filter(|place| place.ends_with("in")).count()
    };
    new("tmpfs", &at("peer/in"), "size=4k");
    for (name, count) in [
        ("one", 1),
        ("peer", 1),
        ("slave", 1),
        ("both", 1),
        ("both-too", 1),
    ] {
        stage.same(&format!("{name} sees it"), count, shows(name));
    }
    umount(&at("one/in")).expect("umount");
    stage.same("and that it goes", 0, shows("slave"));
    new("tmpfs", &at("both/in"), "size=4k");
    for (name, count) in [("one", 0), ("slave", 0), ("both-too", 1)] {
        stage.same(
            &format!("{name} and what is mounted in who takes"),
            count,
            shows(name),
        );
    }
    umount(&at("both-too/in")).expect("umount");
    nix::mount::umount2(&at("over"), MntFlags::MNT_DETACH).expect("umount");
    stage.leave()
}
