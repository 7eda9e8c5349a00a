//! Mounts of every file system of the kernel's, with options: each looks in mountinfo as it did. What this kernel does not
//! have is counted and said. Where none may be made, in a container of an engine's, those that are there are looked at.
#![forbid(unsafe_code)]

use kernel::proc::mountinfo;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use subject::Stage;

/// Type, options, and flags.
const KINDS: &[(&str, &str, MsFlags)] = &[
    ("proc", "hidepid=2,gid=5", MsFlags::MS_NOSUID),
    ("proc", "subset=pid", MsFlags::MS_NOEXEC),
    ("proc", "hidepid=ptraceable", MsFlags::MS_RDONLY),
    ("sysfs", "", MsFlags::MS_RDONLY),
    (
        "devpts",
        "newinstance,ptmxmode=666,gid=5,mode=620,max=50",
        MsFlags::MS_NOEXEC,
    ),
    (
        "devpts",
        "newinstance,ptmxmode=600,uid=7",
        MsFlags::MS_NOATIME,
    ),
    ("mqueue", "", MsFlags::MS_NODEV),
    ("securityfs", "", MsFlags::empty()),
    ("debugfs", "", MsFlags::MS_RDONLY),
    ("tracefs", "", MsFlags::MS_NOSUID),
    ("fusectl", "", MsFlags::empty()),
    ("pstore", "", MsFlags::empty()),
    ("cgroup2", "", MsFlags::MS_RDONLY),
    ("binfmt_misc", "", MsFlags::MS_RELATIME),
    ("bpf", "mode=711,uid=3,gid=4", MsFlags::MS_NOSUID),
    (
        "hugetlbfs",
        "pagesize=2M,size=4M,mode=700,uid=3",
        MsFlags::MS_STRICTATIME,
    ),
    ("ramfs", "mode=711", MsFlags::MS_NODIRATIME),
    (
        "tmpfs",
        "huge=within_size,nr_blocks=100,nr_inodes=77",
        MsFlags::MS_NOEXEC,
    ),
    (
        "tmpfs",
        "mpol=bind:0,inode32,mode=1777",
        MsFlags::MS_NOATIME,
    ),
    ("tmpfs", "ro,size=1m,noswap", MsFlags::MS_RDONLY),
];

/// All that is said of a mount but numbers that are given out anew.
fn look(below: &Path) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut seen: Vec<String> = mountinfo::read_own()
        .expect("mountinfo")
        .into_iter()
        .filter(|m| PathBuf::from(text(&m.mountpoint)).starts_with(below))
        .map(|m| {
            let names = [&m.mountpoint, &m.root, &m.source].map(|name| text(name));
            let tags: Vec<_> = m
                .tags
                .iter()
                .filter_map(|tag| tag.split(':').next())
                .collect();
            format!(
                "{names:?} {:?} {tags:?} {} {:?}",
                m.options, m.fstype, m.super_options
            )
        })
        .collect();
    seen.sort();
    seen
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        let before = look(Path::new("/proc"));
        stage.wait();
        stage.same("the engine's mounts", before, look(Path::new("/proc")));
        return stage.leave();
    }
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).expect("make all mounts private");
    let known = fs::read_to_string("/proc/filesystems").expect("the file systems there are");
    let top = stage.path("kinds");
    let mut missing = Vec::new();
    for (i, (kind, options, flags)) in KINDS.iter().enumerate() {
        if !known
            .lines()
            .any(|line| line.split_whitespace().last() == Some(kind))
        {
            missing.push(kind);
            continue;
        }
        let at = top.join(format!("{i}-{kind}"));
        fs::create_dir_all(&at).expect("make a mount point");
        let source = format!("source of {kind}");
        let options = options.strip_prefix("ro,").unwrap_or(options);
        mount(Some(&*source), &at, Some(*kind), *flags, Some(options))
            .unwrap_or_else(|e| panic!("mount {kind} with {options}: {e}"));
    }
    if !missing.is_empty() {
        println!(
            "{} kinds of file systems are not here: {missing:?}",
            missing.len()
        );
    }
    let before = look(&top);

    stage.wait();

    let after = look(&top);
    for (before, after) in before.iter().zip(&after) {
        stage.same("a mount", before, after);
    }
    stage.same("how many there are", before.len(), after.len());
    stage.leave()
}
