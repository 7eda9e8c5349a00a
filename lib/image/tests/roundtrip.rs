//! What the writer writes, the reader reads, and `tar` lists.

use image::format::PAGE;
use image::header::Header;
use image::{
    DirectoryWriter, Error, Kind, Member, MemberKind, Pages, Range, Reader, Segment, Space, Tap,
    Writer,
};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

fn header() -> Header {
    let mut header = Header::new("test 0", "web", "4711");
    header.created.unix_ns = 1_732_356_000_000_000_000;
    header
}

fn members() -> Vec<(Member, Vec<u8>)> {
    let directory = |path: &str| {
        let mut member = Member::new(path, MemberKind::Directory);
        member.mode = 0o1777;
        (member, Vec::new())
    };
    let mut plain = Member::new("rootfs/etc/passwd", MemberKind::Regular { size: 5 });
    (plain.mtime, plain.mtime_ns) = (-2, 500_000_000);
    (plain.uid, plain.gid, plain.mode) = (u32::MAX - 1, 0o7_777_777, 0o4755);
    plain.xattrs = BTreeMap::from([
        ("security.capability".into(), vec![0, 1, b'\n', 255]),
        ("user.a=b%c".into(), b"x".to_vec()),
    ]);
    let sparse = |name: &str, size, segments: &[(u64, u64)]| {
        let segments: Vec<Segment> = segments
            .iter()
            .map(|(start, len)| Segment {
                start: *start,
                len: *len,
            })
            .collect();
        let bytes = segments
            .iter()
            .flat_map(|s| vec![b'0' + (s.start / 4096 % 10) as u8; s.len as usize])
            .collect();
        (
            Member::new(
                format!("rootfs/{name}"),
                MemberKind::Sparse { size, segments },
            ),
            bytes,
        )
    };
    let other = |name: Vec<u8>, kind| {
        let mut path = b"rootfs/".to_vec();
        path.extend(name);
        (
            Member::new(std::ffi::OsString::from_vec(path), kind),
            Vec::new(),
        )
    };
    let long = "long/".repeat(30);
    vec![
        directory("rootfs"),
        directory("rootfs/etc"),
        (plain, b"root\n".to_vec()),
        sparse("holes", 1 << 20, &[(4096, 8192), (65536, 4096)]),
        sparse("holes-to-the-end", 100_000, &[(98_304, 1696)]),
        sparse("holes-without-end", 1 << 30, &[]),
        other(
            format!("{long}file").into_bytes(),
            MemberKind::Regular { size: 0 },
        ),
        other(
            b"z1".to_vec(),
            MemberKind::Symlink {
                target: "../../etc/shadow".into(),
            },
        ),
        other(
            b"z2".to_vec(),
            MemberKind::HardLink {
                target: "rootfs/etc/passwd".into(),
            },
        ),
        other(
            b"z3".to_vec(),
            MemberKind::CharDevice { major: 1, minor: 3 },
        ),
        other(
            b"z4".to_vec(),
            MemberKind::BlockDevice {
                major: 4095,
                minor: 1_048_575,
            },
        ),
        other(b"z5".to_vec(), MemberKind::Fifo),
        other(
            "z6-ä".into(),
            MemberKind::Symlink {
                target: "x".repeat(300).into(),
            },
        ),
        other(b"z7-\xff\xfe".to_vec(), MemberKind::Regular { size: 0 }),
    ]
}

fn pages() -> Pages {
    let range = |start, len| Range { start, len };
    Pages {
        space: Space::Mm(image::ids::SpaceId(7)),
        ranges: vec![range(0x7fff_0000_0000, 8192), range(0, 4096)],
    }
}

fn sample() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer.record("tree.json", &[1, 2, 3]).unwrap();
    for fill in [1, 2] {
        let mut entry = writer.pages(&pages()).unwrap();
        entry.write_all(&[fill; 12288]).unwrap();
    }
    writer
        .blob("data/17", 3)
        .unwrap()
        .write_all(b"abc")
        .unwrap();
    for (member, bytes) in members() {
        writer.member(&member).unwrap().write_all(&bytes).unwrap();
    }
    writer.record("process/1.json", "one").unwrap();
    writer.finish().unwrap()
}

#[test]
fn what_is_written_is_read_again() {
    let mut reader = Reader::open(Cursor::new(sample())).unwrap();
    assert_eq!(reader.header(), &header());
    let mut entry = reader.next().unwrap().unwrap();
    assert_eq!((entry.path(), entry.kind()), ("tree.json", &Kind::Record));
    assert_eq!(entry.json::<Vec<u32>>().unwrap(), [1, 2, 3]);
    for fill in [1u8, 2] {
        let mut entry = reader.next().unwrap().unwrap();
        assert_eq!(entry.kind(), &Kind::Pages(pages()));
        assert_eq!(entry.content_offset() % PAGE, 0, "pages lie on pages");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [fill; 12288]);
    }
    assert_eq!(reader.next().unwrap().unwrap().path(), "data/17");
    for (member, bytes) in members() {
        let mut entry = reader.next().unwrap().unwrap();
        assert_eq!(entry.member(), Some(&member));
        let mut read = Vec::new();
        entry.read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes, "{:?}", member.path);
    }
    let mut entry = reader.next().unwrap().unwrap();
    assert_eq!(entry.json::<String>().unwrap(), "one");
    assert!(reader.next().unwrap().is_none());
    assert!(!reader.sealed());
    reader.expect_nothing_more().unwrap();
}

#[test]
fn gnu_tar_lists_and_extracts_an_image() {
    let directory = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar")
        .args(["-x", "--no-same-owner", "--exclude=rootfs/z[34]", "-C"])
        .arg(directory.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(&sample()).unwrap();
    assert!(tar.wait().unwrap().success());
    for (member, bytes) in members() {
        let path = directory.path().join(&member.path);
        match &member.kind {
            MemberKind::Regular { .. } => assert_eq!(std::fs::read(path).unwrap(), bytes),
            MemberKind::Sparse { size, segments } => {
                assert_eq!(std::fs::metadata(&path).unwrap().len(), *size, "{path:?}");
                if *size > 1 << 20 {
                    continue;
                }
                let file = std::fs::read(path).unwrap();
                let read: Vec<u8> = segments
                    .iter()
                    .flat_map(|s| file[s.start as usize..(s.start + s.len) as usize].to_vec())
                    .collect();
                assert_eq!(read, bytes);
            }
            MemberKind::Symlink { target } => {
                assert_eq!(&std::fs::read_link(path).unwrap(), target)
            }
            _ => (),
        }
    }
    assert_eq!(
        std::fs::read(directory.path().join("pages/0")).unwrap(),
        [1; 12288]
    );
}

#[test]
fn another_implementation_of_tar_reads_the_same() {
    let image = sample();
    let mut archive = tar::Archive::new(image.as_slice());
    let paths: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path_bytes().into_owned())
        .collect();
    assert_eq!(paths.first().unwrap(), b"header.json");
    assert_eq!(paths.last().unwrap(), b"end.json");
    assert_eq!(paths.len(), 9 + members().len());
}

#[test]
fn an_entry_that_is_not_written_whole_is_no_image() {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer
        .blob("data/1", 10)
        .unwrap()
        .write_all(b"short")
        .unwrap();
    assert!(matches!(writer.finish(), Err(Error::Refused { .. })));
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    assert!(
        writer
            .blob("data/1", 3)
            .unwrap()
            .write_all(b"long")
            .is_err()
    );
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer.record("a.json", &1).unwrap();
    assert!(writer.record("a.json", &1).is_err(), "twice");
    assert!(writer.record("header.json", &1).is_err(), "two headers");
    assert!(writer.record("../a.json", &1).is_err());
    assert!(writer.blob("a.json/b", 0).is_err(), "beneath a file");
    let member = |path: &str, kind| Member::new(path, kind);
    assert!(
        writer
            .member(&member("rootfs/a", MemberKind::Fifo))
            .is_err(),
        "no tree yet"
    );
    writer
        .member(&member("rootfs", MemberKind::Directory))
        .unwrap();
    writer
        .member(&member("rootfs/b", MemberKind::Fifo))
        .unwrap();
    assert!(
        writer
            .member(&member("rootfs/a", MemberKind::Fifo))
            .is_err(),
        "out of order"
    );
    assert!(
        writer
            .member(&member("rootfs/b/c", MemberKind::Fifo))
            .is_err(),
        "beneath a fifo"
    );
    writer.record("b.json", &1).unwrap();
    assert!(
        writer
            .member(&member("rootfs", MemberKind::Directory))
            .is_err(),
        "a second root"
    );
}

#[test]
fn an_image_and_its_directory_are_made_from_each_other_byte_for_byte() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("web");
    let mut reader = Reader::open(Cursor::new(sample())).unwrap();
    reader
        .set_tap(Box::new(DirectoryWriter::create(&directory).unwrap()))
        .unwrap();
    while reader.next().unwrap().is_some() {}
    assert_eq!(
        std::fs::read(directory.join("rootfs/etc/passwd")).unwrap(),
        b"root\n"
    );
    assert!(
        !directory.join("rootfs/z1").exists(),
        "links are lines of the manifest only"
    );
    let mut again = Reader::open_directory(&directory).unwrap();
    let copy = Arc::new(Mutex::new(Vec::new()));
    again.set_tap(Box::new(Copy(copy.clone()))).unwrap();
    while again.next().unwrap().is_some() {}
    assert!(*copy.lock().unwrap() == sample());
}

struct Copy(Arc<Mutex<Vec<u8>>>);

impl Tap for Copy {
    fn start(&mut self, _member: &Member) -> image::Result<()> {
        Ok(())
    }
    fn frame(&mut self, bytes: &[u8]) -> image::Result<()> {
        self.0.lock().unwrap().extend(bytes);
        Ok(())
    }
    fn content(&mut self, bytes: &[u8]) -> image::Result<()> {
        self.frame(bytes)
    }
    fn end(&mut self, _path: &str, _offset: u64, _size: u64) -> image::Result<()> {
        Ok(())
    }
}

#[test]
fn a_directory_whose_image_was_bad_is_taken_away() {
    let place = tempfile::tempdir().unwrap();
    let mut image = sample();
    let last = image.len() - 1;
    image[last] = 1;
    for made_before in [false, true] {
        let directory = place.path().join("web");
        if made_before {
            std::fs::create_dir(&directory).unwrap();
        }
        let mut reader = Reader::open(Cursor::new(image.clone())).unwrap();
        reader
            .set_tap(Box::new(DirectoryWriter::create(&directory).unwrap()))
            .unwrap();
        let error = loop {
            match reader.next() {
                Ok(entry) => assert!(entry.is_some(), "the end was believed"),
                Err(error) => break error,
            }
        };
        assert!(error.is_bad_archive());
        drop(reader);
        assert_eq!(directory.exists(), made_before);
        if made_before {
            assert_eq!(directory.read_dir().unwrap().count(), 0);
        }
    }
}

#[test]
fn a_symbolic_link_in_a_directory_leads_nowhere() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("web");
    let mut reader = Reader::open(Cursor::new(sample())).unwrap();
    reader
        .set_tap(Box::new(DirectoryWriter::create(&directory).unwrap()))
        .unwrap();
    while reader.next().unwrap().is_some() {}
    let outside = place.path().join("outside");
    std::fs::write(&outside, "abc").unwrap();
    std::fs::remove_file(directory.join("data/17")).unwrap();
    std::os::unix::fs::symlink(&outside, directory.join("data/17")).unwrap();
    let mut reader = Reader::open_directory(&directory).unwrap();
    let error = loop {
        match reader.next() {
            Ok(entry) => assert!(entry.is_some(), "the link was followed"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, Error::Damaged { entry, .. } if entry == "data/17"),
        "{error}"
    );
}
