//! An image with one entry of every kind, for the tests.
#![allow(dead_code)] // each test uses some of it

use image::header::{Created, Header};
use image::{Error, Member, MemberKind, Pages, Range, Reader, Segment, Space, Tap, Writer};
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

pub fn header() -> Header {
    let mut header = Header::new("test 0", "web", "4711");
    header.created = Created::at(UNIX_EPOCH + Duration::from_secs(1_732_356_000));
    header
}

pub fn members() -> Vec<(Member, Vec<u8>)> {
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

pub fn pages() -> Pages {
    let range = |start, len| Range { start, len };
    Pages {
        space: Space::Mm(image::ids::SpaceId(7)),
        ranges: vec![range(0x7fff_0000_0000, 8192), range(0, 4096)],
    }
}

pub fn sample() -> Vec<u8> {
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

/// A place in memory that several hands write to and read from.
#[derive(Clone, Default)]
pub struct Shared(pub Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads an image to its end, with a tap if one is given.
pub fn read_all(image: &[u8], tap: Option<Box<dyn Tap>>) -> Result<Reader, Error> {
    finish(Reader::open(Cursor::new(image.to_vec()))?, tap)
}

/// Reads an opened image to its end.
pub fn finish(mut reader: Reader, tap: Option<Box<dyn Tap>>) -> Result<Reader, Error> {
    if let Some(tap) = tap {
        reader.set_tap(tap)?;
    }
    reader.parallel();
    while reader.next()?.is_some() {}
    Ok(reader)
}
