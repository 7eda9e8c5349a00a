//! Bytes that somebody damaged, cut short or made up: each is refused, with the entry and the offset.

mod sample;

use image::{CopyWriter, DirectoryWriter, Error, Member, MemberKind, Writer};
use sample::{Shared, header, read_all, sample};
use std::io::Write;

/// Where the header block of an entry is.
fn block_of(image: &[u8], path: &str) -> usize {
    (0..image.len())
        .step_by(512)
        .find(|at| image[*at..].starts_with(path.as_bytes()) && image[at + path.len()] == 0)
        .unwrap()
}

/// Writes over the header block at `block` and makes its checksum right again.
fn patch(image: &mut [u8], block: usize, at: usize, with: &[u8]) {
    image[block + at..block + at + with.len()].copy_from_slice(with);
    image[block + 148..block + 156].copy_from_slice(b"        ");
    let sum: u32 = image[block..block + 512]
        .iter()
        .map(|byte| u32::from(*byte))
        .sum();
    image[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn two_blobs() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer
        .blob("data/1000", 3)
        .unwrap()
        .write_all(b"abc")
        .unwrap();
    writer
        .blob("data/1001", 3)
        .unwrap()
        .write_all(b"abc")
        .unwrap();
    writer.record("tree.json", "tree").unwrap();
    writer.finish().unwrap()
}

/// What a reader says of an image that must not come out whole.
fn refused(image: &[u8]) -> Error {
    let copy = Shared::default();
    let tap = CopyWriter::new(copy.clone());
    let error = read_all(image, Some(Box::new(tap)))
        .err()
        .expect("it was believed");
    assert!(error.is_bad_archive(), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("entry ") && text.contains("offset "),
        "{text}"
    );
    let copied = copy.bytes();
    assert!(
        read_all(&copied, None).is_err(),
        "a whole image was passed on"
    );
    assert!(image.starts_with(&copied));
    error
}

fn damaged(image: &[u8]) -> (String, u64, String) {
    match refused(image) {
        Error::Damaged {
            entry,
            offset,
            what,
        } => (entry, offset, what),
        other => panic!("{other}"),
    }
}

#[test]
fn a_bit_flipped_anywhere_is_found() {
    let image = two_blobs();
    for at in 0..image.len() {
        for bit in [at % 8, (at + 3) % 8] {
            let mut bad = image.clone();
            bad[at] ^= 1 << bit;
            refused(&bad);
        }
    }
    let image = sample();
    for at in (0..image.len()).step_by(7) {
        let mut bad = image.clone();
        bad[at] ^= 1 << (at % 8);
        refused(&bad);
    }
}

#[test]
fn an_image_cut_anywhere_is_no_image() {
    let image = sample();
    for len in (0..image.len())
        .step_by(512)
        .chain((1..image.len()).step_by(499))
    {
        refused(&image[..len]);
    }
    refused(&image[..image.len() - 1]);
}

#[test]
fn a_directory_is_not_left_of_an_image_cut_anywhere() {
    let place = tempfile::tempdir().unwrap();
    let image = sample();
    for len in (512..image.len()).step_by(4096) {
        let directory = place.path().join("web");
        let writer = DirectoryWriter::create(&directory).unwrap();
        assert!(read_all(&image[..len], Some(Box::new(writer))).is_err());
        assert_eq!(place.path().read_dir().unwrap().count(), 0);
    }
}

#[test]
fn another_version_is_refused_by_name() {
    let mut header = header();
    header.format = 2;
    let image = Writer::new(Vec::new(), &header).unwrap().finish().unwrap();
    let error = refused(&image);
    assert!(
        matches!(
            error,
            Error::Version {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn a_header_with_a_field_of_the_future_is_refused() {
    let image = two_blobs();
    let at = image
        .windows(6)
        .position(|bytes| bytes == b"\"name\"")
        .unwrap();
    let mut bad = image.clone();
    bad[at..at + 6].copy_from_slice(b"\"nome\"");
    let (entry, _, what) = damaged(&bad);
    assert_eq!(entry, "header.json");
    assert!(what.contains("unknown field `nome`"), "{what}");
}

#[test]
fn an_entry_that_is_there_twice_is_refused() {
    let mut image = two_blobs();
    let block = block_of(&image, "data/1001");
    patch(&mut image, block, 0, b"data/1000");
    let (entry, offset, what) = damaged(&image);
    assert_eq!((entry.as_str(), offset), ("data/1000", block as u64));
    assert!(what.contains("twice"), "{what}");
}

#[test]
fn a_path_that_leaves_its_root_is_refused() {
    for (path, says) in [
        ("../../etc", "leaves its root"),
        ("data/../1", "leaves its root"),
        ("/etc/pass", "absolute"),
        ("data//100", "empty component"),
        ("./data/10", "component `.`"),
        ("Data/1001", "byte other than"),
    ] {
        let mut image = two_blobs();
        let block = block_of(&image, "data/1001");
        patch(&mut image, block, 0, path.as_bytes());
        let (_, offset, what) = damaged(&image);
        assert!(what.contains(says), "{path}: {what}");
        assert!(offset >= block as u64 && offset <= block as u64 + 512);
    }
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_allocated() {
    // A record of 8 GiB.
    let mut image = two_blobs();
    let block = block_of(&image, "tree.json");
    patch(&mut image, block, 124, b"77777777777");
    let (entry, offset, what) = damaged(&image);
    assert_eq!((entry.as_str(), offset), ("tree.json", block as u64));
    assert!(what.contains("8589934591 bytes are more than"), "{what}");
    // PAX records of 8 GiB, and a file of more than an address space.
    let mut made = Shared::default();
    let mut writer = Writer::new(made.clone(), &header()).unwrap();
    writer
        .member(&Member::new("rootfs", MemberKind::Directory))
        .unwrap();
    let huge = MemberKind::Regular { size: 1 << 47 };
    // Enough to have the header of the next go out, too.
    let mut entry = writer.member(&Member::new("rootfs/huge", huge)).unwrap();
    entry.write_all(&vec![0; 1 << 20]).unwrap();
    made.flush().unwrap();
    let image = made.bytes();
    let block = block_of(&image, "PaxHeaders");
    let mut bad = image.clone();
    patch(&mut bad, block, 124, b"77777777777");
    assert!(
        damaged(&bad)
            .2
            .contains("bytes of PAX records are more than")
    );
    let mut bad = image.clone();
    let at = image
        .windows(5)
        .position(|bytes| bytes == b"size=")
        .unwrap()
        + 5;
    bad[at..at + 15].copy_from_slice(b"999999999999999");
    assert!(
        damaged(&bad).2.contains("bytes of content are more than"),
        "{}",
        damaged(&bad).2
    );
    assert!(damaged(&image).2.contains("ends here"));
}

#[test]
fn what_only_looks_like_a_header_is_refused() {
    for (at, with) in [
        (156, &b"9"[..]),
        (100, b"0000644"),
        (108, b"0000001"),
        (257, b"ustar  "),
        (265, b"root"),
        (500, b"x"),
    ] {
        let mut image = two_blobs();
        let block = block_of(&image, "data/1001");
        patch(&mut image, block, at, with);
        refused(&image);
    }
}

#[test]
fn other_files_are_not_taken_for_images() {
    for bytes in [
        &b""[..],
        b"x",
        b"#!/bin/sh\nexit 0\n",
        &[0; 4096],
        &[0x28, 0xb5, 0x2f, 0xfd],
        &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0],
        &[0x5b, 0x2a, 0x4d, 0x18, 255, 255, 255, 255],
    ] {
        refused(bytes);
    }
}

#[test]
fn pages_that_no_record_announces_are_refused() {
    let image = sample();
    let record = block_of(&image, "pages/0.json");
    let mut bad = image.clone();
    patch(&mut bad, record, 0, b"blobs/0.json");
    let (entry, _, what) = damaged(&bad);
    assert_eq!(entry, "pages/0");
    assert!(what.contains("no record announces"), "{what}");
}
