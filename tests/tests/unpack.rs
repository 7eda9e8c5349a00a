//! `unpack`: an archive becomes an image or a directory, whole or not at all.
#![forbid(unsafe_code)]

mod forms;

use forms::{listed, on_a_terminal, packed, run, small};
use std::process::Command;

#[test]
fn a_directory_is_private_and_has_the_contents() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("web");
    run(
        "unpack",
        &["--directory", directory.to_str().unwrap()],
        &packed(&small()),
    )
    .ok();
    assert_eq!(
        listed(place.path()),
        [
            "600 web/MANIFEST",
            "600 web/data/1",
            "600 web/end.json",
            "600 web/header.json",
            "600 web/pages/0",
            "600 web/pages/0.json",
            "600 web/rootfs/etc/hostname",
            "600 web/tree.json",
            "700 web",
            "700 web/data",
            "700 web/pages",
            "700 web/rootfs",
            "700 web/rootfs/etc",
        ]
    );
    assert_eq!(
        std::fs::read(directory.join("rootfs/etc/hostname")).unwrap(),
        b"alder\n"
    );
    // Not into what is there.
    let words = run("unpack", &["-C", directory.to_str().unwrap()], &small()).fails(1);
    assert!(words.contains("not empty"), "{words}");
    assert_eq!(listed(place.path()).len(), 13);
    // A file in it is missing, or has another length: then it is no image.
    assert!(run("unpack", &[directory.to_str().unwrap()], b"").ok() == small());
    std::fs::write(directory.join("data/1"), "abcd").unwrap();
    let words = run("unpack", &[directory.to_str().unwrap()], b"").fails(3);
    assert!(words.contains("entry data/1"), "{words}");
    std::fs::write(directory.join("data/1"), "abd").unwrap();
    let words = run("unpack", &[directory.to_str().unwrap()], b"").fails(3);
    assert!(words.contains("checksum"), "{words}");
    std::fs::remove_file(directory.join("data/1")).unwrap();
    run("unpack", &[directory.to_str().unwrap()], b"").fails(3);
}

#[test]
fn a_bad_archive_yields_no_whole_image_and_leaves_no_directory() {
    let archive = packed(&small());
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("web");
    for at in (0..archive.len()).step_by(61).chain([archive.len() - 1]) {
        let mut bad = archive.clone();
        bad[at] ^= 1 << (at % 8);
        let ended = run("unpack", &[], &bad);
        assert_eq!(run("verify", &[], &ended.out).code, 3, "byte {at}");
        let words = ended.fails(3);
        assert!(
            words.contains("entry ") && words.contains("offset "),
            "byte {at}: {words}"
        );
        run("unpack", &["-C", directory.to_str().unwrap()], &bad).fails(3);
        assert!(listed(place.path()).is_empty(), "byte {at}");
    }
    for len in (0..archive.len()).step_by(101) {
        let ended = run(
            "unpack",
            &["-C", directory.to_str().unwrap()],
            &archive[..len],
        );
        ended.fails(3);
        assert!(listed(place.path()).is_empty(), "{len} bytes");
    }
}

#[test]
fn a_seal_is_asked_for_before_anything_is_written() {
    let words = run("unpack", &["--require-seal"], &small()).fails(3);
    assert!(words.contains("no seal"), "{words}");
    run("unpack", &["--require-seal"], &packed(&small())).ok();
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("web");
    let arguments = ["--require-seal", "-C", directory.to_str().unwrap()];
    run("unpack", &arguments, &small()).fails(3);
    assert!(!directory.exists());
}

#[test]
fn on_a_full_file_system_nothing_is_left() {
    let place = tempfile::tempdir().unwrap();
    let bare = place.path().join("bare");
    let mut writer = forms::start(Vec::new(), &forms::header());
    forms::pages(&mut writer, 4 << 20);
    std::fs::write(&bare, writer.finish().unwrap()).unwrap();
    let disk = place.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    // In a mount namespace of its own: nothing to clean up.
    let line = format!(
        "mount -t tmpfs -o size=1m tmpfs {disk} && {unpack} -C {disk}/web {bare}; \
         code=$?; ls {disk}; exit $code",
        disk = disk.display(),
        bare = bare.display(),
        unpack = ferry_tests::built().join("unpack").display(),
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &line])
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("no space left on device"), "{words}");
    assert!(words.contains("pages/0"), "{words}");
    assert_eq!(output.stdout, b"", "something is left");
}

#[test]
fn a_terminal_is_refused_for_data_and_not_needed_for_a_directory() {
    let words = on_a_terminal("unpack", &[], true).fails(2);
    assert!(words.contains("standard input is a terminal"), "{words}");
    on_a_terminal("unpack", &[], false).fails(2);
    let place = tempfile::tempdir().unwrap();
    let bare = place.path().join("bare");
    std::fs::write(&bare, small()).unwrap();
    let directory = place.path().join("web");
    let arguments = ["-C", directory.to_str().unwrap(), bare.to_str().unwrap()];
    on_a_terminal("unpack", &arguments, false).ok();
}

#[test]
fn every_form_is_read() {
    let image = small();
    let compressed = {
        let place = tempfile::tempdir().unwrap();
        let bare = place.path().join("bare");
        std::fs::write(&bare, &image).unwrap();
        let output = Command::new("zstd")
            .args(["-qc"])
            .arg(&bare)
            .output()
            .unwrap();
        assert!(output.status.success());
        output.stdout
    };
    for form in [&image, &compressed, &packed(&image)] {
        assert!(run("unpack", &[], form).ok() == image);
    }
}
