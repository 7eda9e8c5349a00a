//! The bytes of files that travel with the image: holes are not sent, and are holes again afterwards.

use super::collect::Collector;
use crate::sink::Sink;
use crate::{Error, Result};
use image::bytes::Bytes;
use image::files::contents::{Contents, Extent, Store};
use kernel::descriptor::{self, O_RDONLY};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a bulk entry is copied from.
#[derive(Debug)]
pub(crate) enum Bulk {
    /// Runs of a file.
    File { fd: OwnedFd, extents: Vec<Extent> },
    /// What was in a pipe.
    Bytes(Vec<u8>),
}

const AT_ONCE: u64 = 1 << 20;

impl Bulk {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Bulk::File { extents, .. } => extents.iter().map(|e| e.length).sum(),
            Bulk::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Gives all bytes, in order and in pieces.
    pub(crate) fn copy(&self, into: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self {
            Bulk::Bytes(bytes) => into(bytes),
            Bulk::File { fd, extents } => {
                let mut buffer = vec![0; AT_ONCE as usize];
                pieces(extents).try_for_each(|piece| {
                    let bytes = &mut buffer[..piece.length as usize];
                    descriptor::read_at(fd.as_fd(), piece.offset, bytes)?;
                    into(bytes)
                })
            }
        }
    }
}

/// Extents in pieces of bounded length.
fn pieces(extents: &[Extent]) -> impl Iterator<Item = Extent> {
    extents.iter().flat_map(|extent| {
        let extent = *extent;
        (0..extent.length.div_ceil(AT_ONCE)).map(move |i| Extent {
            offset: extent.offset + i * AT_ONCE,
            length: AT_ONCE.min(extent.length - i * AT_ONCE),
        })
    })
}

/// Takes a file's bytes: small ones at once, others when they are streamed.
pub(crate) fn dump(file: BorrowedFd, size: u64, collector: &mut Collector) -> Result<Contents> {
    let fd = descriptor::reopen(file, O_RDONLY)?;
    let extents: Vec<Extent> = descriptor::extents(fd.as_fd(), size)?
        .into_iter()
        .map(|(offset, length)| Extent { offset, length })
        .collect();
    let bulk = Bulk::File {
        fd,
        extents: extents.clone(),
    };
    Ok(Contents {
        size,
        extents,
        bytes: store(bulk, collector)?,
    })
}

/// Puts few bytes into the record itself.
pub(crate) fn store(bulk: Bulk, collector: &mut Collector) -> Result<Store> {
    if bulk.length() > Store::INLINE {
        return Ok(Store::Blob(collector.blob(bulk)));
    }
    let mut bytes = Vec::new();
    bulk.copy(&mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(Store::Here(Bytes(bytes)))
}

/// Gives a new, empty file its size and, where the record has them, its bytes.
pub(crate) fn restore(contents: &Contents, fd: BorrowedFd, what: &str) -> Result<()> {
    let length = contents
        .length()
        .ok_or_else(|| Error::Refused(format!("the extents of {what} do not fit its size")))?;
    descriptor::truncate(fd, contents.size)?;
    if let Store::Here(Bytes(bytes)) = &contents.bytes {
        if bytes.len() as u64 != length {
            return Err(Error::Refused(format!(
                "{what} has {} bytes where its extents have {length}",
                bytes.len()
            )));
        }
        fill(fd, &contents.extents, &mut bytes.as_slice(), what)?;
    }
    Ok(())
}

/// Fills a file's extents from a stream of just their bytes.
pub(crate) fn fill(
    fd: BorrowedFd,
    extents: &[Extent],
    from: &mut dyn Read,
    what: &str,
) -> Result<()> {
    let mut sink = Sink::new(fd, descriptor::stat(fd)?.size)?;
    for piece in pieces(extents) {
        let mut bytes = vec![0; piece.length as usize];
        from.read_exact(&mut bytes)
            .map_err(|e| kernel::Error::io(format!("read the contents of {what}"), &e))?;
        sink.put(piece.offset, &bytes)?;
    }
    Ok(())
}
