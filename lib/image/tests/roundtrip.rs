//! What the writer writes, the reader reads, and `tar` lists.

mod sample;

use image::format::PAGE;
use image::{CopyWriter, DirectoryWriter, Error, Kind, Member, MemberKind, Reader, Writer};
use sample::{Shared, finish, header, members, pages, read_all, sample};
use std::io::{Cursor, Read, Write};
use std::process::{Command, Stdio};

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
    let writer = DirectoryWriter::create(&directory).unwrap();
    read_all(&sample(), Some(Box::new(writer))).unwrap();
    assert_eq!(
        std::fs::read(directory.join("rootfs/etc/passwd")).unwrap(),
        b"root\n"
    );
    assert!(
        !directory.join("rootfs/z1").exists(),
        "links are lines of the manifest only"
    );
    let copy = Shared::default();
    let again = Reader::open_directory(&directory).unwrap();
    finish(again, Some(Box::new(CopyWriter::new(copy.clone())))).unwrap();
    assert!(copy.bytes() == sample());
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
        let writer = DirectoryWriter::create(&directory).unwrap();
        let error = read_all(&image, Some(Box::new(writer)))
            .err()
            .expect("the end was believed");
        assert!(error.is_bad_archive());
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
    let writer = DirectoryWriter::create(&directory).unwrap();
    read_all(&sample(), Some(Box::new(writer))).unwrap();
    let outside = place.path().join("outside");
    std::fs::write(&outside, "abc").unwrap();
    std::fs::remove_file(directory.join("data/17")).unwrap();
    std::os::unix::fs::symlink(&outside, directory.join("data/17")).unwrap();
    let reader = Reader::open_directory(&directory).unwrap();
    let error = finish(reader, None).err().expect("the link was followed");
    assert!(
        matches!(&error, Error::Damaged { entry, .. } if entry == "data/17"),
        "{error}"
    );
}
