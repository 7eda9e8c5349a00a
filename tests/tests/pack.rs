//! `pack`: an image becomes an archive, or nothing that could be taken for one.
#![forbid(unsafe_code)]

mod forms;

use forms::{on_a_terminal, packed, run, small, tool};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

#[test]
fn an_archive_gives_back_the_image_at_every_level() {
    let image = small();
    for level in ["-5", "0", "1", "3", "19"] {
        let archive = run("pack", &["--level", level], &image).ok();
        assert!(run("unpack", &[], &archive).ok() == image, "level {level}");
        assert!(
            run("pack", &["-l", level], &archive).ok() == archive,
            "level {level}"
        );
    }
    for level in ["23", "-1000", "x"] {
        run("pack", &["-l", level], &image).fails(2);
    }
}

#[test]
fn a_directory_is_packed_like_the_image_it_came_from() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("web").display().to_string();
    run("unpack", &["-C", &directory], &packed(&small())).ok();
    assert!(run("pack", &[&directory], b"").ok() == packed(&small()));
}

#[test]
fn tar_lists_what_zstd_makes_of_an_archive() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("web.ckpt");
    std::fs::write(&file, packed(&small())).unwrap();
    let line = format!("set -o pipefail; zstd -dc {} | tar -t", file.display());
    let output = std::process::Command::new("bash")
        .args(["-c", &line])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "header.json\ntree.json\npages/0.json\npages/0\ndata/1\nrootfs/\nrootfs/etc/\n\
         rootfs/etc/hostname\nrootfs/shadow\nend.json\n"
    );
}

#[test]
fn what_is_no_image_becomes_no_archive() {
    let image = small();
    let mut flipped = image.clone();
    flipped[9000] ^= 1;
    for bad in [&b"no image"[..], b"", &image[..image.len() - 1], &flipped] {
        let ended = run("pack", &[], bad);
        assert_eq!(run("verify", &[], &ended.out).code, 3);
        let words = ended.fails(3);
        assert!(words.starts_with("pack: "), "{words}");
        assert!(
            words.contains("entry ") && words.contains("offset "),
            "{words}"
        );
    }
}

#[test]
fn a_terminal_is_refused_on_either_side() {
    let words = on_a_terminal("pack", &[], true).fails(2);
    assert!(words.contains("standard input is a terminal"), "{words}");
    let words = on_a_terminal("pack", &[], false).fails(2);
    assert!(words.contains("standard output is a terminal"), "{words}");
}

#[test]
fn a_full_disk_and_a_dead_reader_are_errors() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("bare");
    std::fs::write(&file, small()).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = tool("pack").arg(&file).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("no space left on device"), "{words}");

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = tool("pack").arg(&file).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("what reads the pipe has ended"), "{words}");
}

#[test]
fn stats_are_microseconds_and_bytes_in_a_private_file() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("stats.json");
    let archive = run("pack", &["--stats", file.to_str().unwrap()], &small()).ok();
    let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(stats["tool"], "pack");
    assert_eq!(stats["counts"]["image_bytes"], small().len());
    assert_eq!(stats["counts"]["archive_bytes"], archive.len());
    assert_eq!(stats["counts"]["entries"], 10);
    assert!(stats["microseconds"]["total"].as_u64().unwrap() > 0);
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn it_is_silent_unless_asked() {
    let image = small();
    assert_eq!(run("pack", &[], &image).err, "");
    assert_eq!(run("pack", &["--quiet"], &image).err, "");
    let words = run("pack", &["--verbose"], &image).err;
    assert!(words.contains("10 entries"), "{words}");
    run("pack", &["-q", "-v"], &image).fails(2);
    run("pack", &["--no-such-flag"], &image).fails(2);
}

#[test]
fn its_version_and_its_help_go_to_standard_output() {
    for name in ["pack", "unpack", "verify"] {
        let version = String::from_utf8(run(name, &["--version"], b"").ok()).unwrap();
        assert!(version.starts_with(&format!("{name} ")), "{version}");
        let help = String::from_utf8(run(name, &["--help"], b"").ok()).unwrap();
        assert!(help.contains("Exit status"), "{help}");
        let closed = tool(name)
            .arg("--help")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(closed.success());
    }
}
