//! Bytes from a generator: whatever comes in, a reader comes to an end, without a panic, in little
//! memory, and believes only what a writer wrote.

mod sample;

use image::{ArchiveWriter, Compression, CopyWriter, Member, MemberKind, Reader, Segment, Writer};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use sample::{Shared, header, read_all, sample};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, Cursor, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::LazyLock;

static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(sample);
static ARCHIVE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let archive = Shared::default();
    let writer = ArchiveWriter::new(archive.clone(), Compression::default());
    read_all(&IMAGE, Some(Box::new(writer))).unwrap();
    archive.bytes()
});

/// A change to good bytes.
#[derive(Debug, Clone)]
enum Change {
    Set(usize, u8),
    Cut(usize),
    Remove(usize, usize),
    Repeat(usize, usize),
    Insert(usize, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<usize>();
    let len = prop_oneof![1..64usize, Just(512), Just(1024)];
    prop_oneof![
        (at, any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        at.prop_map(Change::Cut),
        (at, len.clone()).prop_map(|(at, len)| Change::Remove(at, len)),
        (at, len).prop_map(|(at, len)| Change::Repeat(at, len)),
        (at, vec(any::<u8>(), 1..600)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
    ]
}

fn changed(good: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for change in changes {
        let place = |at: &usize| at % (bytes.len() + 1);
        match change {
            Change::Set(at, byte) => {
                let at = place(at);
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Change::Cut(at) => bytes.truncate(place(at)),
            Change::Remove(at, len) => {
                // Often at a block, where the tar stream is most easily led astray.
                let at = place(at) / 512 * 512;
                let end = (at + len).min(bytes.len());
                bytes.drain(at..end);
            }
            Change::Repeat(at, len) => {
                let at = place(at) / 512 * 512;
                let piece = bytes[at..(at + len).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            Change::Insert(at, more) => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
    bytes
}

/// Reads in each way there is, and says whether the image was believed.
fn believed(bytes: &[u8]) -> bool {
    let Ok(mut reader) = Reader::open(Cursor::new(bytes.to_vec())) else {
        return false;
    };
    loop {
        let mut entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let way = entry.offset() / 512 % 3;
        let failed = match way {
            0 => entry.read_to_end(&mut Vec::new()).is_err(),
            1 => entry
                .fill_buf()
                .map(<[u8]>::len)
                .map(|len| entry.consume(len / 2))
                .is_err(),
            _ => entry.json::<serde_json::Value>().is_err() && entry.size() == u64::MAX,
        };
        if failed {
            return false;
        }
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> + Clone {
    let byte = any::<u8>().prop_filter("no part of a name", |byte| *byte != 0 && *byte != b'/');
    vec(byte, 1..120).prop_filter("not . or ..", |name| name != b"." && name != b"..")
}

fn kind() -> impl Strategy<Value = MemberKind> {
    let target = name().prop_map(|name| PathBuf::from(OsString::from_vec(name)));
    let number = 0..0o7_777_777u32;
    prop_oneof![
        (0..5000u64).prop_map(|size| MemberKind::Regular { size }),
        vec((1..20u64, 1..9u64), 0..40).prop_map(|pieces| {
            let mut at = 0;
            let segments = pieces.iter().map(|(hole, len)| {
                let start = at + hole * 512;
                at = start + len * 512;
                Segment {
                    start,
                    len: len * 512,
                }
            });
            let segments = segments.collect();
            MemberKind::Sparse {
                size: at + 100,
                segments,
            }
        }),
        target
            .clone()
            .prop_map(|target| MemberKind::Symlink { target }),
        target.prop_map(|target| MemberKind::HardLink { target }),
        (number.clone(), number).prop_map(|(major, minor)| MemberKind::CharDevice { major, minor }),
        Just(MemberKind::Fifo),
        Just(MemberKind::Directory),
    ]
}

fn member() -> impl Strategy<Value = Member> {
    let xattrs = btree_map(
        name().prop_map(OsString::from_vec),
        vec(any::<u8>(), 0..300),
        0..3,
    );
    let owner = (any::<u32>(), any::<u32>(), 0..0o10000u32);
    let time = (any::<i64>(), 0..1_000_000_000u32);
    (kind(), owner, time, xattrs).prop_map(|(kind, (uid, gid, mode), (mtime, mtime_ns), xattrs)| {
        Member {
            path: PathBuf::new(),
            kind,
            mode,
            uid,
            gid,
            mtime,
            mtime_ns,
            xattrs,
        }
    })
}

/// A file tree: sorted names, each with a member.
fn tree() -> impl Strategy<Value = BTreeMap<PathBuf, Member>> {
    let path = name().prop_map(|name| PathBuf::from(OsString::from_vec(name)));
    btree_map(path, member(), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn bytes_of_any_kind_are_no_image(bytes in vec(any::<u8>(), 0..3000), magic in 0..4u8) {
        let mut bytes = bytes;
        let start: &[u8] = match magic {
            0 => &[],
            1 => &[0x28, 0xb5, 0x2f, 0xfd],
            2 => &ARCHIVE[..24],
            _ => &IMAGE[..512],
        };
        bytes.splice(0..0, start.iter().copied());
        prop_assert!(!believed(&bytes));
    }

    #[test]
    fn a_changed_image_is_no_image(changes in vec(change(), 1..4)) {
        let bytes = changed(&IMAGE, &changes);
        // What follows the two last blocks is no part of it.
        prop_assert!(bytes.starts_with(&IMAGE) || !believed(&bytes));
    }

    #[test]
    fn a_changed_archive_is_no_archive(changes in vec(change(), 1..4)) {
        let bytes = changed(&ARCHIVE, &changes);
        prop_assert!(bytes.starts_with(&ARCHIVE) || !believed(&bytes));
    }

    #[test]
    fn every_file_tree_survives(tree in tree()) {
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        writer.member(&Member::new("rootfs", MemberKind::Directory)).unwrap();
        let members: Vec<Member> = tree
            .into_iter()
            .map(|(path, mut member)| {
                member.path = PathBuf::from("rootfs").join(path);
                member
            })
            .collect();
        for member in &members {
            let bytes = vec![7; member.payload() as usize];
            writer.member(member).unwrap().write_all(&bytes).unwrap();
        }
        let image = writer.finish().unwrap();
        let mut reader = Reader::open(Cursor::new(image.clone())).unwrap();
        let copy = Shared::default();
        reader.set_tap(Box::new(CopyWriter::new(copy.clone()))).unwrap();
        reader.next().unwrap();
        for member in &members {
            let entry = reader.next().unwrap().unwrap();
            prop_assert_eq!(entry.member().unwrap(), member);
        }
        prop_assert!(reader.next().unwrap().is_none());
        prop_assert!(copy.bytes() == image);
    }
}
