//! The fixed points of the format: version, limits, and what a path may look like.

use crate::ids::{SharedId, SpaceId};
use serde::{Deserialize, Serialize};

/// Version of the format, apart from the version of the programs. `docs/FORMAT.md` describes it.
pub const VERSION: u32 = 1;
/// Unit of a tar stream, in bytes.
pub const BLOCK: usize = 512;
/// Page data starts at multiples of this in the uncompressed image, in bytes.
pub const PAGE: u64 = 4096;
/// Most bytes a JSON record may have.
pub const MAX_RECORD: u64 = 64 << 20;
/// Most bytes the record before a `pages/N` entry may have.
pub const MAX_PAGES_RECORD: u64 = 4 << 20;
/// Most ranges one `pages/N` entry may have: split what has more.
pub const MAX_RANGES: usize = 1 << 15;
/// Most bytes an entry's PAX records may have.
pub const MAX_PAX: u64 = 1 << 20;
/// Most bytes the content of an entry may have (an address space has no more).
pub const MAX_CONTENT: u64 = 1 << 47;
/// Most segments the map of a sparse file may have.
pub const MAX_SEGMENTS: usize = 1 << 16;
/// Most entries outside file trees.
pub const MAX_ENTRIES: usize = 1 << 20;
/// Most bytes of a path, and of a link's target (PATH_MAX, less the zero that ends it).
pub const MAX_PATH: usize = 4095;
/// Most bytes of one component of a path (NAME_MAX).
pub const MAX_NAME: usize = 255;

/// Path of the first entry.
pub const HEADER: &str = "header.json";
/// Path of the last entry.
pub const END: &str = "end.json";

/// The record before the entry `pages/N`: whose pages these are and where they belong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    /// What the addresses are addresses of.
    pub space: Space,
    /// The ranges, in the order in which their bytes follow in `pages/N`.
    pub ranges: Vec<Range>,
}

/// What a range of pages belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Space {
    /// An address space, by the id its record has; `start` is a virtual address.
    Mm(SpaceId),
    /// A shared memory object (memfd, shared anonymous, System V), by the id its record has;
    /// `start` is an offset in it.
    Shared(SharedId),
}

/// A run of whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// First byte: an address or an offset, as [`Space`] says.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Pages {
    /// Sum of the ranges in bytes, or what is wrong with them.
    pub fn bytes(&self) -> Result<u64, String> {
        if self.ranges.is_empty() {
            return Err("it has no ranges".into());
        }
        if self.ranges.len() > MAX_RANGES {
            return Err(format!(
                "{} ranges are more than {MAX_RANGES}",
                self.ranges.len()
            ));
        }
        let mut sum = 0u64;
        for Range { start, len } in &self.ranges {
            if *len == 0 || start % PAGE != 0 || len % PAGE != 0 {
                return Err(format!(
                    "the range {start:#x}+{len:#x} is not of whole pages"
                ));
            }
            if start.checked_add(*len).is_none() {
                return Err(format!("the range {start:#x}+{len:#x} wraps around"));
            }
            sum = sum
                .checked_add(*len)
                .filter(|sum| *sum <= MAX_CONTENT)
                .ok_or_else(|| format!("the ranges are more than {MAX_CONTENT} bytes"))?;
        }
        Ok(sum)
    }
}

/// Says what is wrong with a path that is to be resolved beneath a root.
pub(crate) fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the path is empty");
    }
    if path.len() > MAX_PATH {
        return Err("the path is longer than 4095 bytes");
    }
    if path.starts_with(b"/") {
        return Err("the path is absolute");
    }
    if path.contains(&0) {
        return Err("the path has a zero byte");
    }
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" => return Err("the path has an empty component"),
            b"." => return Err("the path has a component `.`"),
            b".." => return Err("the path leaves its root by `..`"),
            _ if name.len() > MAX_NAME => return Err("the path has a component over 255 bytes"),
            _ => (),
        }
    }
    Ok(())
}

/// Says what is wrong with the path of an entry outside file trees, or with the path of a tree.
pub(crate) fn check_own_path(path: &[u8]) -> Result<(), &'static str> {
    check_path(path)?;
    let fits = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/');
    if path.iter().all(fits) {
        Ok(())
    } else {
        Err("the path has a byte other than a-z 0-9 . _ - /")
    }
}

/// A path as text: printable ASCII as it is, every other byte, and `%`, as `%` and two hex digits.
pub fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path {
        match byte {
            b'%' => text.push_str("%25"),
            0x21..=0x7e => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leaves_its_root_is_refused() {
        for path in [
            &b""[..],
            b"/",
            b"/etc",
            b"..",
            b"a/../b",
            b"a//b",
            b"a/",
            b"./a",
            b"a\0b",
        ] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        assert!(check_path(&[b'a'; 256]).is_err());
        assert!(check_path(b"rootfs/a b/\xff..").is_ok());
        assert!(check_own_path(b"MANIFEST").is_err());
    }

    #[test]
    fn a_path_as_text_is_one_line_without_spaces() {
        assert_eq!(escape(b"a b\n%\xff"), "a%20b%0a%25%ff");
    }

    #[test]
    fn ranges_that_are_not_whole_pages_are_refused() {
        let pages = |ranges: &[(u64, u64)]| Pages {
            space: Space::Mm(SpaceId(1)),
            ranges: ranges
                .iter()
                .map(|(start, len)| Range {
                    start: *start,
                    len: *len,
                })
                .collect(),
        };
        assert_eq!(pages(&[(0, 4096), (8192, 8192)]).bytes(), Ok(12288));
        for bad in [
            &[][..],
            &[(0, 0)],
            &[(1, 4096)],
            &[(0, 100)],
            &[(u64::MAX - 4095, 4096)],
            &[(0, 1 << 47), (1 << 47, 4096)],
        ] {
            assert!(pages(bad).bytes().is_err(), "{bad:?}");
        }
    }
}
