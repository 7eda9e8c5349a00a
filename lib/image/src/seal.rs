//! The digests of an archive.
//!
//! Each entry has a line: SHA-256 of its content, where it starts, bytes of content, path. The lines
//! of the entries that end in a frame stand before that frame, so that neither side has to keep them;
//! the seal at the end has a digest over everything. Both sides compute the same text, and the reader
//! compares: no digest is ever parsed.

use crate::chunk::{Mark, Marks};
use crate::error::Error;
use crate::source::Part;
use sha2::{Digest, Sha256};

/// Computes the digests of an image as it passes.
#[derive(Default)]
pub(crate) struct Sealer {
    content: Sha256,
    /// Every byte that is not content, and at each entry's end its content's digest.
    all: Sha256,
    entries: u64,
    bytes: u64,
    chunks: u64,
}

impl Sealer {
    /// Takes one chunk and gives the lines of the entries that end in it.
    pub fn chunk(&mut self, bytes: &[u8], marks: &Marks) -> Vec<u8> {
        self.chunks += 1;
        self.bytes += bytes.len() as u64;
        let mut lines = Vec::new();
        for mark in &marks.0 {
            match mark {
                Mark::Bytes(part, range) => {
                    let bytes = bytes.get(range.clone()).unwrap_or_default();
                    match part {
                        Part::Frame => self.all.update(bytes),
                        Part::Content => self.content.update(bytes),
                    }
                }
                Mark::End { path, offset, size } => {
                    let digest = self.content.finalize_reset();
                    self.all.update(digest);
                    self.entries += 1;
                    lines.extend_from_slice(hex(&digest).as_bytes());
                    lines.extend_from_slice(format!(" {offset} {size} {path}\n").as_bytes());
                }
            }
        }
        lines
    }

    /// The text of the seal.
    pub fn seal(self) -> Vec<u8> {
        format!(
            "ferry seal 1\nentries {}\nbytes {}\nframes {}\nsha256 {}\n",
            self.entries,
            self.bytes,
            self.chunks,
            hex(&self.all.finalize())
        )
        .into_bytes()
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Says which entry is not the one the archive's lines speak of.
pub(crate) fn compare(computed: &[u8], given: &[u8]) -> Result<(), Error> {
    if computed == given {
        return Ok(());
    }
    let split = |lines| <[u8]>::split(lines, |byte| *byte == b'\n');
    let mut others = split(given);
    let differs = split(computed).find(|line| Some(*line) != others.next());
    let line = String::from_utf8_lossy(differs.unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (digest, offset) = (words.next().unwrap_or_default(), words.next());
    let entry = words.nth(1).unwrap_or("end.json").to_owned();
    Err(Error::Damaged {
        entry,
        offset: offset.and_then(|offset| offset.parse().ok()).unwrap_or(0),
        what: format!("its SHA-256 is {digest}, which is not what the archive's seal says"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_those_of_sha256sum_and_name_the_entry_that_differs() {
        let mut marks = Marks::default();
        marks.bytes(Part::Frame, 0..2);
        marks.bytes(Part::Content, 2..4);
        marks.bytes(Part::Content, 4..5);
        marks.end("a.json", 0, 3);
        marks.end("b", 512, 0);
        let lines = Sealer::default().chunk(b"xxabc", &marks);
        let text = String::from_utf8(lines.clone()).unwrap();
        assert_eq!(
            text,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 0 3 a.json\n\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 512 0 b\n"
        );
        assert!(compare(&lines, &lines).is_ok());
        let other = text.replace("e3b0", "0000");
        let error = compare(&lines, other.as_bytes()).unwrap_err();
        assert!(matches!(&error, Error::Damaged { entry, offset: 512, .. } if entry == "b"));
        assert!(compare(&lines, &lines[..lines.len() / 2]).is_err());
        assert!(compare(&lines[..lines.len() / 2], &lines).is_err());
        assert!(compare(b"", b"x").is_err());
    }
}
