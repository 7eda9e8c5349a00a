//! Mount namespaces inside the container: one with a file system in memory and a read-only bind; one
//! with a proc of its own pid namespace; one whose root directory was made by pivot_root(2). Files are open and mapped, and
//! working directories are, on mounts that the container does not have.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::{File, Permissions, read_to_string};
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use subject::Stage;

fn ended(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, status)) => status,
        _ => 99,
    }
}

fn mounted(kind: Option<&str>, from: &Path, at: &Path, flags: MsFlags, data: Option<&str>) {
    mount(Some(from), at, kind, flags, data).expect("mount");
}

/// A mount namespace of its own, from which nothing shows elsewhere.
fn alone(more: CloneFlags) {
    unshare(CloneFlags::CLONE_NEWNS | more).expect("unshare");
    let none = Path::new("none");
    mounted(
        None,
        none,
        Path::new("/"),
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None,
    );
}

fn tmpfs(at: &Path, data: &str) {
    mounted(
        Some("tmpfs"),
        Path::new("mem"),
        at,
        MsFlags::MS_NOSUID,
        Some(data),
    );
}

fn bind(from: &Path, at: &Path) {
    mounted(None, from, at, MsFlags::MS_BIND, None);
}

/// What is mounted, without the numbers that are new with each mount: only below `place`, for the container's own may be others.
fn mounts(place: &str) -> String {
    let text = read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let (root, at, options) = (fields.get(3)?, fields.get(4)?, fields.get(5)?);
        let kind = fields.iter().skip_while(|f| **f != "-").nth(1)?;
        at.starts_with(place)
            .then(|| format!("{root} {at} {options} {kind}"))
    });
    lines.collect::<Vec<_>>().join(", ")
}

/// Says that all is set up, and waits to be told.
fn rest(say: &OwnedFd, told: &OwnedFd) -> bool {
    nix::unistd::write(say, b"x") == Ok(1) && nix::unistd::read(told, &mut [0]) == Ok(1)
}

/// How many of these do not hold.
fn failed(checks: &[(&str, bool)]) -> i32 {
    let bad: Vec<&str> = checks
        .iter()
        .filter(|(_, ok)| !ok)
        .map(|(what, _)| *what)
        .collect();
    if !bad.is_empty() {
        println!("{}", bad.join("; "));
    }
    bad.len() as i32
}

fn ordinary(dir: &Path, say: &OwnedFd, told: &OwnedFd) -> i32 {
    alone(CloneFlags::empty());
    let (memory, bound) = (dir.join("memory"), dir.join("bound"));
    tmpfs(&memory, "size=1m,mode=700");
    std::fs::create_dir(memory.join("below")).expect("mkdir");
    std::fs::write(memory.join("below/file"), "kept in memory").expect("write");
    let hollow = memory.join("hollow");
    std::fs::create_dir(&hollow).expect("mkdir");
    std::fs::write(hollow.join("file"), "under a mount").expect("write");
    tmpfs(&hollow, "size=64k");
    bind(&dir.join("shown"), &bound);
    let mut open = File::options()
        .read(true)
        .write(true)
        .open(memory.join("below/file"))
        .expect("open");
    open.seek(std::io::SeekFrom::Start(8)).expect("seek");
    let read_only = Some(Path::new("none"));
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(read_only, &bound, None::<&str>, flags, None::<&str>).expect("remount");
    let listening = UnixListener::bind(memory.join("below/socket")).expect("listen");
    let _ = std::fs::set_permissions(memory.join("below/socket"), Permissions::from_mode(0o640));
    std::env::set_current_dir(memory.join("below")).expect("chdir");
    let place = dir.display().to_string();
    let before = mounts(&place);
    if !rest(say, told) {
        return 9;
    }
    let mut rest = String::new();
    let read = open.read_to_string(&mut rest);
    let wrote = open.write_all(b"!");
    failed(&[
        ("the open file", read.is_ok() && rest == "memory"),
        (
            "it is the one at its path",
            wrote.is_ok()
                && read_to_string(memory.join("below/file")).is_ok_and(|t| t == "kept in memory!"),
        ),
        (
            "the socket at its path",
            UnixStream::connect(memory.join("below/socket")).is_ok()
                && listening.accept().is_ok()
                && std::fs::metadata("socket").is_ok_and(|m| m.mode() & 0o777 == 0o640),
        ),
        (
            "the working directory",
            read_to_string("file").is_ok_and(|t| t == "kept in memory!"),
        ),
        (
            "the bind",
            read_to_string(bound.join("file")).is_ok_and(|t| t == "shown"),
        ),
        (
            "the bind is read-only",
            std::fs::write(bound.join("file"), "").is_err(),
        ),
        ("the mounts", {
            let after = mounts(&place);
            if after != before {
                println!("were {before}; are {after}");
            }
            after == before
        }),
        (
            "what lies under a mount",
            !hollow.join("file").exists()
                && umount2(&hollow, MntFlags::empty()).is_ok()
                && read_to_string(hollow.join("file")).is_ok_and(|t| t == "under a mount"),
        ),
    ])
}

fn with_proc(dir: &Path, say: &OwnedFd, told: &OwnedFd) -> i32 {
    alone(CloneFlags::CLONE_NEWPID);
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mounted(None, Path::new("none"), Path::new("/"), read_only, None);
    let is_read_only = || {
        let flags = nix::sys::statvfs::statvfs("/").map(|s| s.flags());
        flags.is_ok_and(|f| f.contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
    };
    let child = fork(|| {
        let proc = dir.join("proc");
        let none = MsFlags::empty();
        mounted(Some("proc"), Path::new("proc"), &proc, none, None);
        let all = || {
            let names = std::fs::read_dir(&proc).into_iter().flatten().flatten();
            let names = names.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
            names.collect::<Vec<_>>()
        };
        let mut status = File::open(proc.join("self/status")).expect("open");
        let before = all();
        if !rest(say, told) {
            return 9;
        }
        let mut text = String::new();
        let read = status.read_to_string(&mut text);
        failed(&[
            ("one process", before == [1]),
            ("its root is read-only", is_read_only()),
            ("the processes", before == all()),
            (
                "the open status",
                read.is_ok() && text.contains("NSpid:") && text.contains("\nPid:\t1\n"),
            ),
        ])
    });
    ended(child.expect("fork"))
}

fn pivoted(dir: &Path, say: &OwnedFd, told: &OwnedFd) -> i32 {
    alone(CloneFlags::empty());
    let root = dir.join("root");
    tmpfs(&root, "mode=755");
    for name in ["old", "shown", "proc", "etc"] {
        std::fs::create_dir(root.join(name)).expect("mkdir");
    }
    std::fs::write(root.join("etc/motd"), "hello").expect("write");
    bind(&dir.join("shown"), &root.join("shown"));
    bind(Path::new("/proc"), &root.join("proc"));
    nix::unistd::pivot_root(&root, &root.join("old")).expect("pivot_root");
    std::env::set_current_dir("/").expect("chdir");
    umount2("/old", MntFlags::MNT_DETACH).expect("umount");
    std::fs::remove_dir("/old").expect("rmdir");
    let before = mounts("/");
    let mut names = list("/");
    names.sort();
    if !rest(say, told) {
        return 9;
    }
    let mut after = list("/");
    after.sort();
    failed(&[
        (
            "the root directory",
            names == ["etc", "proc", "shown"] && after == names,
        ),
        (
            "a file in it",
            read_to_string("/etc/motd").is_ok_and(|t| t == "hello"),
        ),
        (
            "what is bound",
            read_to_string("/shown/file").is_ok_and(|t| t == "shown"),
        ),
        ("the mounts", {
            let after = mounts("/");
            if after != before {
                println!("were {before}; are {after}");
            }
            after == before
        }),
    ])
}

fn list(at: &str) -> Vec<String> {
    let names = std::fs::read_dir(at).into_iter().flatten().flatten();
    names
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (told, tell) = nix::unistd::pipe().expect("pipe");
    let (heard, say) = nix::unistd::pipe().expect("pipe");
    let dir: PathBuf = stage.path("places");
    for name in ["memory", "shown", "bound", "proc", "root"] {
        std::fs::create_dir_all(dir.join(name)).expect("mkdir");
    }
    std::fs::write(dir.join("shown/file"), "shown").expect("write");
    let children: Vec<i32> = [ordinary, with_proc, pivoted]
        .map(|work| fork(|| work(&dir, &say, &told)).expect("fork"))
        .into();
    for _ in &children {
        stage.same(
            "a child is set up",
            Ok(1),
            nix::unistd::read(&heard, &mut [0]),
        );
    }
    stage.wait();
    nix::unistd::write(&tell, b"!!!").expect("tell them all");
    for pid in children {
        stage.same("a child's end", 0, ended(pid));
    }
    stage.leave()
}
