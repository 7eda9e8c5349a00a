//! Which entry may follow which: no entry twice, nothing beneath what is not a directory.
//!
//! The writer keeps the same book as the reader, so that what it writes can be read.

use crate::format::{END, HEADER, MAX_ENTRIES, MAX_PAGES_RECORD, MAX_RECORD, check_own_path};
use crate::member::{Member, MemberKind};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What an entry is in an image, by its path and its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// `*.json` outside file trees.
    Record,
    /// `pages/N.json`.
    PagesRecord,
    /// `pages/N`.
    Pages,
    /// Any other regular file outside file trees.
    Blob,
    /// Part of a file tree.
    Tree,
}

/// The content of the last entry, `end.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct End {
    /// Entries before this one.
    pub entries: u64,
    /// Bytes before this entry.
    pub bytes: u64,
    /// XXH3-128 (seed 0) of those bytes, 32 hex digits.
    pub xxh3_128: String,
}

/// The entries so far: constant in size for file trees, eight bytes for each entry beside them.
///
/// A file tree starts with the directory that is its root and goes on without a break. In it each
/// path comes after the one before, compared component by component: so parents come first,
/// nothing comes twice, and one path is all there is to remember. Of other entries keyed hashes are
/// kept; that two differ and collide has a chance of 1 in 10^7 in the fullest image.
#[derive(Default)]
pub(crate) struct Book {
    keys: RandomState,
    /// Hash of a path outside trees, and whether entries may lie beneath it.
    seen: HashMap<u64, bool>,
    tree: Option<Tree>,
    entries: u64,
    ended: bool,
}

struct Tree {
    root: PathBuf,
    last: PathBuf,
    last_is_directory: bool,
}

impl Book {
    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Enters an entry with `content` bytes, or says why it may not come here.
    pub fn enter(&mut self, member: &Member, content: u64) -> Result<Place, String> {
        if self.ended {
            return Err("an entry follows the end record".into());
        }
        let path = member.path.as_path();
        if (path == Path::new(HEADER)) != (self.entries == 0) {
            return Err(format!("{HEADER} is not the first entry, or there are two"));
        }
        let is_directory = member.kind == MemberKind::Directory;
        let place = match &mut self.tree {
            Some(tree) if path != tree.root && path.starts_with(&tree.root) => {
                tree.follow(path, is_directory)?;
                Place::Tree
            }
            _ if is_directory => {
                self.tree = None;
                self.once(path)?;
                if path.starts_with("pages") || path.starts_with("data") {
                    return Err("a file tree may not have this root".into());
                }
                self.tree = Some(Tree {
                    root: path.to_owned(),
                    last: path.to_owned(),
                    last_is_directory: true,
                });
                Place::Tree
            }
            _ => {
                self.tree = None;
                let place = own_place(member, content)?;
                self.once(path)?;
                place
            }
        };
        self.entries += 1;
        self.ended = path == Path::new(END);
        Ok(place)
    }

    /// Enters a path outside trees, or the root of one.
    fn once(&mut self, path: &Path) -> Result<(), String> {
        check_own_path(path.as_os_str().as_bytes())?;
        if self.seen.len() >= MAX_ENTRIES {
            return Err(format!("there are more than {MAX_ENTRIES} entries"));
        }
        for above in path
            .ancestors()
            .skip(1)
            .filter(|above| !above.as_os_str().is_empty())
        {
            let hash = self.keys.hash_one(above.as_os_str().as_bytes());
            if !*self.seen.entry(hash).or_insert(true) {
                return Err("it is beneath an entry that ended before".into());
            }
        }
        let hash = self.keys.hash_one(path.as_os_str().as_bytes());
        match self.seen.insert(hash, false) {
            None => Ok(()),
            Some(_) => Err("the entry is there twice".into()),
        }
    }
}

impl Tree {
    fn follow(&mut self, path: &Path, is_directory: bool) -> Result<(), String> {
        match path.cmp(self.last.as_path()) {
            std::cmp::Ordering::Equal => return Err("the entry is there twice".into()),
            std::cmp::Ordering::Less => {
                return Err("it is out of order in its file tree, or there twice".into());
            }
            std::cmp::Ordering::Greater => (),
        }
        if !self.last_is_directory && path.starts_with(&self.last) {
            return Err("it is beneath an entry that is not a directory".into());
        }
        self.last = path.to_owned();
        self.last_is_directory = is_directory;
        Ok(())
    }
}

/// What a regular file outside file trees is, if it is one and no longer than it may be.
fn own_place(member: &Member, content: u64) -> Result<Place, String> {
    let plain = member.mode == 0o600
        && (member.uid, member.gid, member.mtime_ns) == (0, 0, 0)
        && member.xattrs.is_empty();
    if !plain || !matches!(member.kind, MemberKind::Regular { .. }) {
        return Err("only regular files of mode 0600 may be outside file trees".into());
    }
    let path = member.path.as_os_str().as_bytes();
    let (place, most) = match path.strip_suffix(b".json") {
        Some(stem) if is_pages(stem) => (Place::PagesRecord, MAX_PAGES_RECORD),
        Some(_) => (Place::Record, MAX_RECORD),
        None if is_pages(path) => (Place::Pages, u64::MAX),
        None if path.starts_with(b"pages/") => {
            return Err("only numbers may be beneath pages/".into());
        }
        None => (Place::Blob, u64::MAX),
    };
    if content > most {
        return Err(format!(
            "{content} bytes are more than the {most} a record may have"
        ));
    }
    Ok(place)
}

/// Whether a path is `pages/N`.
pub(crate) fn is_pages(path: &[u8]) -> bool {
    path.strip_prefix(b"pages/").is_some_and(|number| {
        !number.is_empty() && number.len() <= 9 && number.iter().all(u8::is_ascii_digit)
    })
}
