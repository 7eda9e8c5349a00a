//! Who else gets the bytes of an image that is being read: what makes archives, copies, directories.

use crate::error::Result;
use crate::member::Member;

/// Gets every byte of an image as it is read, and its last entry only when all was found right.
///
/// For each entry: its [`start`](Tap::start), its header as frame, its content, its padding as
/// frame, its [`end`](Tap::end).
pub trait Tap: Send {
    /// An entry starts.
    fn start(&mut self, member: &Member) -> Result<()>;
    /// Headers and padding.
    fn frame(&mut self, bytes: &[u8]) -> Result<()>;
    /// Content of the current entry; a sparse file's map comes first, in one piece.
    fn content(&mut self, bytes: &[u8]) -> Result<()>;
    /// The entry that started at `offset` is complete, with `size` bytes of content.
    fn end(&mut self, path: &str, offset: u64, size: u64) -> Result<()>;
    /// All was right, and all of it was handed over.
    fn finish(&mut self) -> Result<()>;
}

/// An entry that is small enough to be kept.
pub(super) struct Whole {
    pub member: Member,
    pub head: Vec<u8>,
    pub json: Vec<u8>,
    pub padding: Vec<u8>,
}

impl Whole {
    /// Hands all of it over.
    pub fn tap(self, path: &str, offset: u64, tap: &mut dyn Tap) -> Result<()> {
        tap.start(&self.member)?;
        tap.frame(&self.head)?;
        tap.content(&self.json)?;
        tap.frame(&self.padding)?;
        tap.end(path, offset, self.json.len() as u64)
    }
}
