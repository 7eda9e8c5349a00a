//! `verify`: says whether an image is whole, what is in it, and whether it would run here.
#![forbid(unsafe_code)]

mod forms;

use forms::{header, on_a_terminal, packed, run, small, start};
use serde_json::Value;
use std::io::Write;

fn text(out: Vec<u8>) -> String {
    String::from_utf8(out).unwrap()
}

#[test]
fn it_says_what_it_read() {
    let said = text(run("verify", &[], &small()).ok());
    assert!(
        said.starts_with("web: whole, without a seal; image with 10 entries"),
        "{said}"
    );
    assert!(said.contains("on alder ("), "{said}");
    let said = text(run("verify", &[], &packed(&small())).ok());
    assert!(
        said.starts_with("web: whole and sealed; archive with 10 entries"),
        "{said}"
    );
    assert_eq!(run("verify", &["--quiet"], &small()).ok(), b"");
}

#[test]
fn programs_read_it_as_json() {
    let said = run("verify", &["--json"], &packed(&small())).ok();
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(said["name"], "web");
    assert_eq!(said["sealed"], true);
    assert_eq!(said["form"], "archive");
    assert_eq!(said["bytes"], small().len());
    assert_eq!(said["contents"], Value::Null);
    let said = run("verify", &["--json", "--show"], &small()).ok();
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_eq!(said["contents"]["tree"]["processes"][1]["pid"], 7);
    assert_eq!(said["contents"]["trees"][0]["root"], "rootfs");
}

#[test]
fn it_shows_what_is_inside() {
    let said = text(run("verify", &["--show"], &small()).ok());
    assert!(said.contains("sleep (zombie)"), "{said}");
    assert!(said.contains("rootfs: 4 entries"), "{said}");
}

#[test]
fn passed_on_it_is_the_same_and_a_bad_one_loses_its_end() {
    for good in [small(), packed(&small())] {
        let ended = run("verify", &["--pass"], &good);
        assert_eq!(ended.err, "");
        assert!(ended.ok() == good);
        for at in (0..good.len()).step_by(good.len() / 40) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            let ended = run("verify", &["-p"], &bad);
            assert!(
                bad.starts_with(&ended.out) && ended.out.len() < bad.len(),
                "byte {at}"
            );
            assert_eq!(run("unpack", &[], &ended.out).code, 3, "byte {at}");
            ended.fails(3);
        }
    }
    let words = run("verify", &["--pass", "--verbose"], &small()).err;
    assert!(words.contains("whole, without a seal"), "{words}");
}

#[test]
fn passing_on_needs_pipes_on_both_sides() {
    on_a_terminal("verify", &["--pass"], true).fails(2);
    on_a_terminal("verify", &["--pass"], false).fails(2);
    run("verify", &["--pass", "file"], &small()).fails(2);
    run("verify", &["--pass", "--show"], &small()).fails(2);
}

#[test]
fn this_host_is_compared_when_asked() {
    let said = text(run("verify", &["--host"], &small()).ok());
    assert!(said.contains("this host has all it needs"), "{said}");
    let mut other = header();
    other.cpu.features = vec!["fpu".into(), "xyz_of_the_future".into()];
    let image = start(Vec::new(), &other).finish().unwrap();
    run("verify", &[], &image).ok();
    let words = run("verify", &["--host"], &image).fails(4);
    assert!(words.contains("xyz_of_the_future"), "{words}");
    other.host.architecture = "pdp11".into();
    let image = start(Vec::new(), &other).finish().unwrap();
    let words = run("verify", &["--host"], &image).fails(4);
    assert!(words.contains("it ran on pdp11"), "{words}");
}

#[test]
fn a_seal_may_be_required() {
    run("verify", &["--require-seal"], &small()).fails(3);
    run("verify", &["--require-seal"], &packed(&small())).ok();
}

#[test]
fn a_record_that_is_not_known_is_refused_by_name() {
    let mut writer = start(Vec::new(), &header());
    writer.record("future.json", &1).unwrap();
    let words = run("verify", &[], &writer.finish().unwrap()).fails(3);
    assert!(
        words.contains("future.json is a record that is not known"),
        "{words}"
    );
}

#[test]
fn what_follows_an_image_is_refused() {
    for mut long in [small(), packed(&small())] {
        long.push(0);
        let words = run("verify", &[], &long).fails(3);
        assert!(words.contains("bytes follow the end"), "{words}");
    }
}

#[test]
fn names_from_an_image_cannot_command_the_terminal() {
    let mut evil = header();
    evil.name = "\u{1b}[2Jweb".into();
    let said = text(run("verify", &[], &start(Vec::new(), &evil).finish().unwrap()).ok());
    assert!(!said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn what_is_not_there_is_an_error_with_its_name() {
    let words = run("verify", &["/no/such/file"], b"").fails(1);
    assert!(words.contains("cannot open /no/such/file"), "{words}");
    let place = tempfile::tempdir().unwrap();
    let words = run("verify", &[place.path().to_str().unwrap()], b"").fails(3);
    assert!(words.contains("no MANIFEST"), "{words}");
    let file = place.path().join("stats");
    let mut bare = std::fs::File::create(place.path().join("bare")).unwrap();
    bare.write_all(&small()).unwrap();
    let arguments = ["--stats", file.to_str().unwrap()];
    run("verify", &arguments, &small()).ok();
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .contains("\"tool\":\"verify\"")
    );
}
