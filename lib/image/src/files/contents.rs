//! The bytes of a file that travels with the image: where it has data, and the data itself.

use crate::bytes::Bytes;
use crate::ids::BlobId;
use serde::{Deserialize, Serialize};

/// A file's bytes, holes left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// Size of the file in bytes.
    pub size: u64,
    /// Where there is data, ascending, not touching (lseek(2), `SEEK_DATA`). The rest reads as zeros.
    pub extents: Vec<Extent>,
    /// The bytes of all extents, one after the other.
    pub bytes: Store,
}

/// A run of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Length in bytes, not 0.
    pub length: u64,
}

/// Where bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    /// Here: at most [`Store::INLINE`].
    Here(Bytes),
    /// In the bulk entry `data/N`.
    Blob(BlobId),
}

impl Store {
    /// The most bytes a record holds itself.
    pub const INLINE: u64 = 64 << 10;
}

impl Contents {
    /// The number of bytes in all extents; `None` where they are out of order, overlap, or leave the file.
    pub fn length(&self) -> Option<u64> {
        let mut end = 0;
        let mut length = 0u64;
        for extent in &self.extents {
            if extent.length == 0 || extent.offset < end {
                return None;
            }
            end = extent.offset.checked_add(extent.length)?;
            length = length.checked_add(extent.length)?;
        }
        (end <= self.size && self.size <= i64::MAX as u64).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(size: u64, extents: &[(u64, u64)]) -> Contents {
        let extents = extents
            .iter()
            .map(|&(offset, length)| Extent { offset, length });
        Contents {
            size,
            extents: extents.collect(),
            bytes: Store::Blob(BlobId(1)),
        }
    }

    #[test]
    fn extents_out_of_order_or_outside_are_found() {
        assert_eq!(contents(100, &[(0, 10), (20, 80)]).length(), Some(90));
        assert_eq!(contents(100, &[]).length(), Some(0));
        for bad in [
            &[(0, 101)][..],
            &[(0, 10), (5, 10)],
            &[(50, 10), (5, 10)],
            &[(0, 0)],
            &[(u64::MAX, 2)],
        ] {
            assert_eq!(contents(100, bad).length(), None, "{bad:?}");
        }
    }
}
