//! Pieces of an image in memory, shared between threads and used again.

use crate::source::Part;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that are not in use. Fresh memory costs a page fault for each page, again and again.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// An empty buffer, with whatever capacity its last use gave it.
    pub fn take(&self) -> Vec<u8> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = free.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    /// Gives a buffer back.
    pub fn give(&self, buffer: Vec<u8>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(buffer);
    }

    /// Bytes that go back to the pool when the last that shares them drops them.
    pub fn share(&self, bytes: Vec<u8>) -> Chunk {
        Chunk(Arc::new(Inner {
            bytes,
            pool: self.clone(),
        }))
    }
}

/// Bytes that several threads read.
#[derive(Clone)]
pub(crate) struct Chunk(Arc<Inner>);

struct Inner {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.bytes));
    }
}

/// What runs of a chunk are, in order.
#[derive(Default)]
pub(crate) struct Marks(pub Vec<Mark>);

/// What a run of a chunk is.
pub(crate) enum Mark {
    /// Bytes, and what part of the image they are.
    Bytes(Part, Range<usize>),
    /// An entry ends here, padding and all.
    End {
        /// Its path as text.
        path: String,
        /// Where in the image it starts.
        offset: u64,
        /// Bytes of its content.
        size: u64,
    },
}

impl Marks {
    /// Marks the bytes from where the last mark ended.
    pub fn bytes(&mut self, part: Part, range: Range<usize>) {
        match self.0.last_mut() {
            Some(Mark::Bytes(last, before)) if *last == part && before.end == range.start => {
                before.end = range.end;
            }
            _ => self.0.push(Mark::Bytes(part, range)),
        }
    }

    /// Marks the end of an entry.
    pub fn end(&mut self, path: &str, offset: u64, size: u64) {
        let path = path.to_owned();
        self.0.push(Mark::End { path, offset, size });
    }
}
