//! An archive gives back the image, byte for byte, or says that it is bad.

mod sample;

use image::{ArchiveWriter, Compression, CopyWriter, Error, Pages, Range, Reader, Space, Writer};
use sample::{Shared, header, read_all, sample};
use std::io::{BufRead, Cursor, Read, Write};
use std::process::{Command, Stdio};

fn pack(image: &[u8], level: i32) -> Vec<u8> {
    let archive = Shared::default();
    let writer = ArchiveWriter::new(archive.clone(), Compression { level });
    read_all(image, Some(Box::new(writer))).unwrap();
    archive.bytes()
}

fn unpack(archive: &[u8]) -> Result<Vec<u8>, Error> {
    let image = Shared::default();
    let reader = read_all(archive, Some(Box::new(CopyWriter::new(image.clone()))))?;
    assert!(reader.sealed());
    Ok(image.bytes())
}

/// A record and a blob.
fn small(blob: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    writer.record("tree.json", "a tree").unwrap();
    let mut entry = writer.blob("data/1", blob.len() as u64).unwrap();
    entry.write_all(blob).unwrap();
    writer.finish().unwrap()
}

/// Some MiB in pages, half of them noise, so that there are several frames.
fn large() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    let len = 4 << 20;
    let pages = Pages {
        space: Space::Mm(image::ids::SpaceId(1)),
        ranges: vec![Range { start: 0, len }],
    };
    let mut noise = 1u64;
    for _ in 0..3 {
        let bytes: Vec<u8> = (0..len)
            .map(|at| {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                if at % 8192 < 4096 {
                    (noise >> 56) as u8
                } else {
                    7
                }
            })
            .collect();
        writer.pages(&pages).unwrap().write_all(&bytes).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn an_archive_gives_back_its_image_at_every_level() {
    for image in [sample(), large()] {
        for level in [-5, 0, 1, 9] {
            assert!(
                unpack(&pack(&image, level)).unwrap() == image,
                "level {level}"
            );
        }
    }
}

#[test]
fn an_archive_is_read_by_one_thread_as_by_many() {
    for archive in [pack(&small(b"abc"), 1), pack(&large(), 1)] {
        let mut reader = alone(archive.clone()).unwrap();
        assert!(reader.sealed());
        reader.expect_nothing_more().unwrap();
        // Cut, and with a wrong digest in the last lines.
        let end = archive.len() - 200;
        let bad = [
            archive[..end].to_vec(),
            [&archive[..end], b"x", &archive[end + 1..]].concat(),
        ];
        for bad in bad {
            let error = alone(bad).err().expect("it was believed");
            assert!(error.is_bad_archive(), "{error}");
        }
    }
}

/// Reads to the end without threads.
fn alone(archive: Vec<u8>) -> Result<Reader, Error> {
    let mut reader = Reader::open(Cursor::new(archive))?;
    while reader.next()?.is_some() {}
    Ok(reader)
}

#[test]
fn the_same_image_gives_the_same_archive() {
    assert!(pack(&large(), 1) == pack(&large(), 1));
}

#[test]
fn an_archive_of_an_archive_is_the_same_archive() {
    let archive = pack(&large(), 1);
    assert!(pack(&archive, 1) == archive);
}

#[test]
fn zstd_sees_the_image_in_an_archive() {
    for level in [0, 1] {
        let mut zstd = Command::new("zstd")
            .args(["-dcq"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut to, archive) = (zstd.stdin.take().unwrap(), pack(&large(), level));
        let feeder = std::thread::spawn(move || to.write_all(&archive).unwrap());
        let mut image = Vec::new();
        zstd.stdout.take().unwrap().read_to_end(&mut image).unwrap();
        feeder.join().unwrap();
        assert!(zstd.wait().unwrap().success());
        assert!(image == large());
    }
}

#[test]
fn an_image_that_zstd_compressed_is_read_and_has_no_seal() {
    let compressed = zstd::bulk::compress(&sample(), 3).unwrap();
    let reader = read_all(&compressed, None).unwrap();
    assert!(!reader.sealed());
    let error = read_all(&compressed[..compressed.len() - 9], None)
        .err()
        .unwrap();
    assert!(error.is_bad_archive(), "{error}");
}

#[test]
fn a_bit_flipped_anywhere_in_an_archive_is_found() {
    for (image, level) in [(small(b"abc"), 0), (sample(), 1)] {
        let archive = pack(&image, level);
        for at in 0..archive.len() {
            let mut bad = archive.clone();
            bad[at] ^= 1 << (at % 8);
            let image = Shared::default();
            let copy = CopyWriter::new(image.clone());
            let error = read_all(&bad, Some(Box::new(copy))).err();
            let error = error.unwrap_or_else(|| panic!("byte {at} of {}", archive.len()));
            assert!(error.is_bad_archive(), "byte {at}: {error}");
            assert!(
                read_all(&image.bytes(), None).is_err(),
                "byte {at}: a whole image came out"
            );
        }
    }
}

#[test]
fn an_archive_cut_anywhere_is_no_archive() {
    let archive = pack(&sample(), 1);
    for len in 0..archive.len() {
        let error = read_all(&archive[..len], None)
            .err()
            .unwrap_or_else(|| panic!("{len} bytes"));
        assert!(error.is_bad_archive(), "{len} bytes: {error}");
    }
}

#[test]
fn nothing_may_follow_an_archive() {
    let mut archive = pack(&sample(), 1);
    read_all(&archive, None)
        .unwrap()
        .expect_nothing_more()
        .unwrap();
    archive.push(0);
    let error = read_all(&archive, None)
        .unwrap()
        .expect_nothing_more()
        .unwrap_err();
    assert!(error.is_bad_archive());
}

#[test]
fn a_bad_image_does_not_become_an_archive() {
    let mut image = large();
    let middle = image.len() / 2;
    image[middle] ^= 1;
    let archive = Shared::default();
    let writer = ArchiveWriter::new(archive.clone(), Compression::default());
    assert!(read_all(&image, Some(Box::new(writer))).is_err());
    // Threads are still at it when the writer is dropped; whatever they write, it is no archive.
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(read_all(&archive.bytes(), None).is_err());
}

#[test]
fn an_entry_exchanged_for_another_that_is_as_good_is_named() {
    // The image is right in itself, the frame's checksum too: only the digest can tell.
    let (first, second) = (pack(&small(b"abc"), 0), pack(&small(b"abd"), 0));
    // Opening (8 + 16 bytes), skippable header, then length, content length, checksum, lines.
    let lines = u32::from_le_bytes(first[28..32].try_into().unwrap()) as usize - 16;
    let (start, end) = (48, 48 + lines);
    let mut forged = second.clone();
    forged[start..end].copy_from_slice(&first[start..end]);
    let error = read_all(&forged, None).err().unwrap();
    assert!(
        matches!(&error, Error::Damaged { entry, .. } if entry == "data/1"),
        "{error}"
    );
}

#[test]
fn a_dead_output_ends_the_packing_with_its_error() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for image in [sample(), large()] {
        let writer = ArchiveWriter::new(Full, Compression::default());
        let error = read_all(&image, Some(Box::new(writer))).err().unwrap();
        assert!(matches!(error, Error::Write(_)), "{error}");
    }
}

#[test]
fn a_reader_that_is_dropped_half_way_leaves_no_deadlock() {
    let archive = pack(&large(), 1);
    let mut reader = Reader::open(Cursor::new(archive)).unwrap();
    let mut entry = reader.next().unwrap().unwrap();
    entry.read_exact(&mut [0; 100]).unwrap();
    drop(reader);
}

#[test]
fn content_is_read_in_place_and_checked_all_the_same() {
    for bytes in [large(), pack(&large(), 1), pack(&small(b"abc"), 1)] {
        let (mut reader, mut read) = (Reader::open(Cursor::new(bytes)).unwrap(), 0);
        let copy = Shared::default();
        let tap = CopyWriter::new(copy.clone());
        reader.set_tap(Box::new(tap)).unwrap();
        while let Some(mut entry) = reader.next().unwrap() {
            loop {
                let len = entry.fill_buf().unwrap().len();
                // Past the end, too: that is no reason to go on to the next entry.
                entry.consume(len);
                if len == 0 {
                    break;
                }
                read += len;
            }
            entry.consume(1);
        }
        assert!(read > 0);
        read_all(&copy.bytes(), None).unwrap();
    }
}

#[test]
fn no_thread_is_started_before_the_caller_allows_it() {
    // In a process of its own: the tests of this file run in threads.
    const ALONE: &str = "FERRY_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "no_thread_is_started_before_the_caller_allows_it",
            ])
            .env(ALONE, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let archive = pack(&large(), 1);
    // The writer's threads end with it, though not at once.
    while threads() > before {
        std::thread::yield_now();
    }
    let mut reader = Reader::open(Cursor::new(archive)).unwrap();
    reader.next().unwrap().unwrap();
    assert_eq!(threads(), before);
    reader.parallel();
    assert!(threads() > before);
    while reader.next().unwrap().is_some() {}
    assert!(reader.sealed());
}
