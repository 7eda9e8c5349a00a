//! The format between all tools: little memory whatever the size, versions, and hostile paths.
#![forbid(unsafe_code)]

mod forms;

use forms::{header, packed, pages, run, small, start, tool};
use image::Writer;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// Most memory that a tool may ever have had, in KiB.
const MOST: u64 = 96 << 10;

fn stage(name: &str, arguments: &[&str]) -> (Child, ChildStdin, ChildStdout) {
    let mut child = tool(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the tool");
    let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    (child, stdin, stdout)
}

/// The most memory a process has had so far, in KiB; 0 when it has ended.
fn high_water(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or(0, |line| {
        line.trim().trim_end_matches(" kB").parse().unwrap()
    })
}

/// Sends an image of `gib` GiB through a tool and gives its high-water mark when all is through.
fn memory_of(
    name: &str,
    arguments: &[&str],
    gib: u64,
    feed: impl FnOnce(ChildStdin, u64) + Send + 'static,
) -> u64 {
    let (mut child, stdin, mut stdout) = stage(name, arguments);
    let feeder = std::thread::spawn(move || feed(stdin, gib));
    let mut buffer = vec![0; 1 << 20];
    let mut most = 0;
    let mut seen = Instant::now();
    while stdout.read(&mut buffer).unwrap() > 0 {
        if seen.elapsed() > Duration::from_millis(20) {
            most = high_water(child.id()).max(most);
            seen = Instant::now();
        }
    }
    feeder.join().unwrap();
    assert!(child.wait().unwrap().success(), "{name}");
    assert!(most > 0, "{name} was too fast to be seen");
    most
}

fn image_of(out: impl Write, gib: u64) {
    let mut writer: Writer<_> = start(out, &header());
    for _ in 0..gib {
        pages(&mut writer, 1 << 30);
    }
    writer.finish().unwrap();
}

#[test]
fn the_memory_of_each_tool_does_not_grow_with_the_image() {
    let bare = |stdin, gib| image_of(stdin, gib);
    let archive = |stdin, gib| {
        let (mut pack, input, mut output) = stage("pack", &["-l", "0"]);
        let feeder = std::thread::spawn(move || image_of(input, gib));
        // Not io::copy: its splice(2) fails when the reader has all it wants before the writer has ended.
        let (mut stdin, mut buffer): (ChildStdin, _) = (stdin, vec![0; 1 << 16]);
        loop {
            let len = output.read(&mut buffer).unwrap();
            if len == 0 {
                break;
            }
            stdin.write_all(&buffer[..len]).unwrap();
        }
        feeder.join().unwrap();
        assert!(pack.wait().unwrap().success());
    };
    for (name, arguments) in [
        ("pack", &["-l", "-5"][..]),
        ("unpack", &[]),
        ("verify", &["--pass"]),
    ] {
        let gib = if name == "pack" { 1 } else { 2 };
        let most = memory_of(name, arguments, gib, bare);
        assert!(most < MOST, "{name} of a bare image: {most} KiB");
    }
    for (name, arguments) in [("unpack", &[][..]), ("verify", &["--pass"])] {
        let most = memory_of(name, arguments, 1, archive);
        assert!(most < MOST, "{name} of an archive: {most} KiB");
    }
}

#[test]
fn many_small_files_need_no_more_memory_than_few() {
    let feed = |stdin, thousands| {
        let mut writer = start(stdin, &header());
        let directory = image::Member::new("rootfs", image::MemberKind::Directory);
        writer.member(&directory).unwrap();
        for number in 0..thousands * 1000 {
            let kind = image::MemberKind::Regular { size: 100 };
            let member = image::Member::new(format!("rootfs/{number:09}"), kind);
            writer
                .member(&member)
                .unwrap()
                .write_all(&[7; 100])
                .unwrap();
        }
        writer.finish().unwrap();
    };
    let most = memory_of("pack", &[], 200, feed);
    assert!(most < MOST, "{most} KiB");
}

#[test]
fn a_version_of_the_future_is_refused_by_every_reader() {
    let mut header = header();
    header.format = 2;
    let image = start(Vec::new(), &header).finish().unwrap();
    for name in ["pack", "unpack", "verify"] {
        let ended = run(name, &[], &image);
        assert_eq!(ended.out, b"", "{name} wrote something");
        let words = ended.fails(3);
        assert!(
            words.contains("format version 2 is not known here, only 1"),
            "{words}"
        );
    }
    let mut archive = packed(&small());
    let at = archive
        .windows(14)
        .position(|bytes| bytes == b"ferry archive ")
        .unwrap()
        + 14;
    archive[at] = b'2';
    let words = run("unpack", &[], &archive).fails(3);
    assert!(words.contains("format version 2"), "{words}");
}

#[test]
fn a_path_that_leaves_the_directory_writes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let inner = place.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let image = small();
    for (path, evil) in [("data/1", "../abc"), ("data/1", "/tmp/x")] {
        let mut image = image.clone();
        let block = (0..image.len())
            .step_by(512)
            .find(|at| image[*at..].starts_with(path.as_bytes()))
            .unwrap();
        image[block..block + evil.len()].copy_from_slice(evil.as_bytes());
        image[block + 148..block + 156].copy_from_slice(b"        ");
        let sum: u32 = image[block..block + 512]
            .iter()
            .map(|byte| u32::from(*byte))
            .sum();
        image[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let directory = inner.join("web");
        let words = run("unpack", &["-C", directory.to_str().unwrap()], &image).fails(3);
        assert!(
            words.contains("leaves its root") || words.contains("absolute"),
            "{words}"
        );
        assert!(
            words.contains("entry ") && words.contains(&format!("offset {}", block + 512)),
            "{words}"
        );
        assert_eq!(forms::listed(place.path()), ["755 inner"]);
    }
}
