//! The archive: an image in independent zstd frames, each behind a skippable frame that says how long
//! it is and which digests end in it, and a seal last. `zstd -dc` sees the image and nothing else.
//!
//! Here are the frames; [`pack`] writes and [`unpack`] reads them, with all cores.

mod pack;
mod unpack;

pub use pack::{ArchiveWriter, Compression};
pub(crate) use unpack::ArchiveSource;

/// Skippable frame that opens an archive.
const OPENING: u32 = 0x184d_2a5b;
/// Skippable frame before each frame of the image.
const PRELUDE: u32 = 0x184d_2a5c;
/// Skippable frame that ends an archive.
const SEAL: u32 = 0x184d_2a5d;

/// Content of the opening frame: its first words, and the version of the archive form.
const TITLE: &str = "ferry archive ";
/// Version of the archive form.
const ARCHIVE_VERSION: u32 = 1;

/// Bytes of a prelude before its lines: frame length, content length, checksum of the frame.
const PRELUDE_FIXED: usize = 16;
/// Most bytes of the image in one frame.
const MAX_CHUNK: usize = 8 << 20;
/// Most bytes of lines in a prelude: an entry takes 512 bytes of the chunk and fewer in its line, but
/// for a path that is written with `%`.
const MAX_LINES: usize = 4 * MAX_CHUNK;
/// Most bytes of the opening frame and of the seal.
const MAX_TEXT: usize = 4096;

/// Threads that compress or decompress: all cores, within reason for the memory they need.
fn workers() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(16)
}

/// The header of a skippable frame (RFC 8878, 3.1.2).
fn skippable(magic: u32, len: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + len);
    frame.extend_from_slice(&magic.to_le_bytes());
    frame.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    frame
}
