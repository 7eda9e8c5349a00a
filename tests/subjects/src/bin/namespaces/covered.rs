//! Mounts over which others lie: memory file systems with what is in them, a bind, read-only ones, on the very place and on
//! the way there, on a directory and a file with something in them; what is open in them, and a working directory there. In the end the upper ones are taken off. Where none
//! may be made, in a container of an engine's, there is nothing to see.
#![forbid(unsafe_code)]

use kernel::own::area::Area;
use kernel::proc::mountinfo::{self, Mount};
use libc::{MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE};
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, fstat};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use subject::Stage;

const NONE: Option<&str> = None;

fn new(at: &Path, options: &str) {
    fs::create_dir_all(at).expect("make a mount point");
    let flags = MsFlags::MS_NODEV;
    mount(Some("own"), at, Some("tmpfs"), flags, Some(options)).expect("mount");
}

fn off(at: &Path) {
    umount2(at, MntFlags::empty()).unwrap_or_else(|e| panic!("unmount {}: {e}", at.display()));
}

/// Places, options, and on how many others each lies.
fn look(below: &Path) -> Vec<(PathBuf, Vec<String>, usize)> {
    let place = |m: &Mount| PathBuf::from(String::from_utf8_lossy(&m.mountpoint).into_owned());
    let mut all = mountinfo::read_own().expect("mountinfo");
    all.retain(|m| place(m).starts_with(below));
    let parent = |m: &Mount| all.iter().position(|other| other.id == m.parent);
    let mut seen: Vec<_> = all
        .iter()
        .map(|m| {
            let said = [m.options.clone(), m.super_options.clone()].concat();
            let depth = std::iter::successors(parent(m), |at| parent(&all[*at])).count();
            (place(m), said, depth)
        })
        .collect();
    seen.sort();
    seen
}

/// Whether a descriptor is of a mount that is in the namespace, and not the one that its path leads to.
fn is_beneath(fd: impl AsFd, path: &Path) -> bool {
    let all = mountinfo::read_own().expect("mountinfo");
    let id = |fd: &dyn AsFd| kernel::descriptor::mount(fd.as_fd()).expect("fdinfo");
    let upper = File::open(path).map(|file| id(&file)).unwrap_or_default();
    let mine = id(&fd);
    mine != upper && all.iter().any(|m| m.id == mine)
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        stage.wait();
        return stage.leave();
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).expect("make all mounts private");
    let top = stage.path("mounts");
    let at = |name: &str| top.join(name);
    let write = |name: &str, text: &str| fs::write(at(name), text).expect("write");
    let none = Mode::empty();

    new(&at("two"), "size=1m,mode=750,uid=3");
    fs::create_dir_all(at("two/in/deep")).expect("make a directory");
    write("two/below", "below all");
    write("two/in/here", "in here");
    new(&at("two/sub"), "size=64k");
    write("two/sub/file", "in a mount in it");
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(at("two/below"))
        .expect("open");
    file.seek(SeekFrom::Start(6)).expect("seek");
    let directory = open(&at("two/in"), OFlag::O_DIRECTORY, none).expect("open");
    let place = open(&at("two/sub/file"), OFlag::O_PATH, none).expect("O_PATH");
    write("two/mapped", "mapped there");
    let map = |writes: bool, kind| {
        let mapped = File::options()
            .read(true)
            .write(writes)
            .open(at("two/mapped"))
            .expect("open");
        let access = if writes {
            PROT_READ | PROT_WRITE
        } else {
            PROT_READ
        };
        Area::map(4096, access, kind, Some((mapped.as_fd(), 0))).expect("mmap")
    };
    let (private, shared) = (map(false, MAP_PRIVATE), map(true, MAP_SHARED));
    write("two/gone", "without a name");
    let mut gone = File::open(at("two/gone")).expect("open");
    fs::remove_file(at("two/gone")).expect("unlink");
    std::env::set_current_dir(at("two/in/deep")).expect("chdir");
    new(&at("two"), "size=2m,mode=700");
    write("two/middle", "in the middle");
    let middle = File::open(at("two/middle")).expect("open");
    new(&at("two"), "size=3m");
    write("two/above", "above all");
    fs::create_dir(at("two/sub")).expect("make a directory");
    new(&at("two/sub"), "size=128k");
    write("two/sub/file", "above");
    let above = File::open(at("two/above")).expect("open");

    new(&at("way/in"), "size=64k");
    write("way/in/deep", "deep");
    let deep = File::open(at("way/in/deep")).expect("open");
    new(&at("way"), "size=64k");
    fs::create_dir(at("way/in")).expect("make a directory");
    write("way/in/deep", "not so deep");

    fs::create_dir_all(at("source")).expect("make a directory");
    write("source/bound", "bound");
    fs::create_dir_all(at("bind")).expect("make a directory");
    mount(
        Some(&at("source")),
        &at("bind"),
        NONE,
        MsFlags::MS_BIND,
        NONE,
    )
    .expect("bind");
    let bound = File::open(at("bind/bound")).expect("open");
    new(&at("bind"), "size=64k");

    new(&at("fixed"), "size=64k");
    write("fixed/file", "fixed");
    let fixed = File::open(at("fixed/file")).expect("open");
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC;
    mount(NONE, &at("fixed"), NONE, flags, NONE).expect("remount");
    new(&at("fixed"), "size=64k");

    new(&at("hollow"), "size=1m");
    fs::create_dir_all(at("hollow/dir/deep")).expect("make a directory");
    write("hollow/dir/deep/under", "under a mount");
    write("hollow/file", "under a file");
    new(&at("hollow/dir"), "size=64k");
    write("hollow/dir/over", "over it");
    let (from, to) = (at("source/bound"), at("hollow/file"));
    mount(Some(&from), &to, NONE, MsFlags::MS_BIND, NONE).expect("bind");
    let before = look(&top);

    stage.wait();

    stage.same("mounts", before, look(&top));
    let mut text = String::new();
    let read = file.read_to_string(&mut text).map(|_| text.as_str());
    stage.same("from the offset on", Ok("all"), read.map_err(|e| e.kind()));
    stage.holds(
        "a file below is written to",
        file.write_all(b", still").is_ok(),
    );
    for (what, fd, name) in [
        ("a file", file.as_fd(), "two/below"),
        ("a directory", directory.as_fd(), "two/in"),
        ("a place", place.as_fd(), "two/sub/file"),
        ("a file in the middle", middle.as_fd(), "two/middle"),
        ("a file on the way", deep.as_fd(), "way/in/deep"),
        ("a bound file", bound.as_fd(), "bind/bound"),
        ("a file in a read-only mount", fixed.as_fd(), "fixed/file"),
    ] {
        stage.holds(&format!("{what} is beneath"), is_beneath(fd, &at(name)));
    }
    stage.holds("and above is above", !is_beneath(&above, &at("two/above")));
    let relative = |fd: &OwnedFd, name: &str| {
        let opened = openat(fd, name, OFlag::O_RDONLY, none).map(File::from);
        opened.map(|file| std::io::read_to_string(file).unwrap_or_default())
    };
    stage.same(
        "beneath a directory",
        Ok("in here".into()),
        relative(&directory, "here"),
    );
    let here = fs::read_to_string("../here").map_err(|e| e.kind());
    stage.same("the working directory", Ok("in here".to_owned()), here);
    stage.same("a place", Ok(16), fstat(&place).map(|s| s.st_size));
    text.clear();
    let read = gone.read_to_string(&mut text).map(|_| text.as_str());
    stage.same(
        "one without a name",
        Ok("without a name"),
        read.map_err(|e| e.kind()),
    );
    let devices = [&gone, &file].map(|file| file.metadata().map(|m| m.dev()).ok());
    stage.same("its file system", devices[0], devices[1]);

    let text = |area: &Area| area.read(0, 12).unwrap_or_default();
    stage.same(
        "a private mapping",
        b"mapped there".to_vec(),
        text(&private),
    );
    stage.holds(
        "a shared one is written to",
        shared.write(0, b"MAPPED").is_ok(),
    );

    let read = |name: &str| fs::read_to_string(at(name)).unwrap_or_default();
    stage.same("the uppermost", "above", &read("two/sub/file"));
    off(&at("two/sub"));
    off_busy(&at("two"));
    stage.same("the middle", "in the middle", &read("two/middle"));
    off_busy(&at("two"));
    stage.same("the lowest", "below all, still", &read("two/below"));
    stage.same("what was mapped", "MAPPED there", &read("two/mapped"));
    stage.same(
        "what is mounted in it",
        "in a mount in it",
        &read("two/sub/file"),
    );
    let root = fs::metadata(at("two")).map(|m| (m.mode() & 0o7777, m.uid()));
    stage.same("its root", Some((0o750, 3)), root.ok());
    off(&at("way"));
    stage.same("what lies on the way", "deep", &read("way/in/deep"));
    off(&at("bind"));
    stage.same("a bind", "bound", &read("bind/bound"));
    stage.same("over a directory", "over it", &read("hollow/dir/over"));
    stage.same("over a file", "bound", &read("hollow/file"));
    off(&at("hollow/dir"));
    off(&at("hollow/file"));
    stage.same(
        "under a directory",
        "under a mount",
        &read("hollow/dir/deep/under"),
    );
    stage.same("under a file", "under a file", &read("hollow/file"));
    off(&at("fixed"));
    stage.same("a read-only one", "fixed", &read("fixed/file"));
    stage.holds("which stays so", fs::write(at("fixed/no"), "").is_err());
    stage.leave()
}

/// Something is open there.
fn off_busy(at: &Path) {
    umount2(at, MntFlags::MNT_DETACH).expect("unmount");
}
