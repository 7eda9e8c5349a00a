//! The directory form: the contents of entries as files, and a `MANIFEST` that keeps their order and
//! what tar says of them, so that directory and image can be made from each other byte for byte.
//!
//! Links, devices and pipes are lines of the manifest only. So nothing in the directory leads out of
//! it, and every file is opened with openat2(2) and RESOLVE_BENEATH all the same.

use crate::error::{Error, Result};
use crate::format::{BLOCK, VERSION, escape};
use crate::manifest::{First, Line};
use crate::member::{Member, MemberKind, Segment};
use crate::reader::Tap;
use crate::stream;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use std::collections::VecDeque;
use std::fs::{DirBuilder, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

/// Name of the manifest; no entry's path has capital letters at its start.
const MANIFEST: &str = "MANIFEST";
/// Name of the manifest while it is being written: a directory without a manifest is no image.
const PARTIAL: &str = "MANIFEST.partial";
/// Most bytes of a line of the manifest.
const MAX_LINE: u64 = 8 << 20;

/// A directory, beneath which everything is opened.
struct Root {
    directory: File,
    path: PathBuf,
}

impl Root {
    fn open(path: &Path) -> Result<Root> {
        let directory = File::open(path).map_err(|error| Error::Directory {
            path: path.display().to_string(),
            error,
        })?;
        Ok(Root {
            directory,
            path: path.to_owned(),
        })
    }

    /// Opens a file beneath the directory, by no symbolic link.
    fn file(&self, path: &Path, flags: OFlag) -> Result<File> {
        let mut how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        if flags.contains(OFlag::O_CREAT) {
            how = how.mode(Mode::S_IRUSR | Mode::S_IWUSR);
        }
        let fd =
            openat2(&self.directory, path, how).map_err(|errno| unusable(path, errno.into()))?;
        let file = File::from(fd);
        let metadata = file.metadata().map_err(|error| unusable(path, error))?;
        let wants_directory = flags.contains(OFlag::O_DIRECTORY);
        if metadata.is_file() || (wants_directory && metadata.is_dir()) {
            Ok(file)
        } else {
            Err(unusable(path, io::Error::other("it is not a regular file")))
        }
    }

    /// Makes one directory; its parent must be there.
    fn make_directory(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default();
        let made = match path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            Some(parent) => {
                let parent = self.file(parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                mkdirat(&parent, name, Mode::S_IRWXU)
            }
            None => mkdirat(&self.directory, name, Mode::S_IRWXU),
        };
        match made {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
            Err(errno) => Err(unusable(path, errno.into())),
        }
    }
}

fn unusable(path: &Path, error: io::Error) -> Error {
    Error::Directory {
        path: escape(path.as_os_str().as_bytes()),
        error,
    }
}

/// Writes the directory form of an image; dropped before the image's end, it takes away what it made.
pub struct DirectoryWriter {
    root: Root,
    made_root: bool,
    manifest: BufWriter<File>,
    /// Directories that are there: the last one made, so also those above it.
    parent: PathBuf,
    file: Option<Output>,
    complete: bool,
}

struct Output {
    file: File,
    path: PathBuf,
    /// Bytes of content that are not the file's: the map of a sparse one.
    map: usize,
    /// Where content goes, in order.
    segments: VecDeque<Segment>,
}

impl DirectoryWriter {
    /// Starts in a new directory with mode 0700, or in an empty one.
    pub fn create(path: &Path) -> Result<DirectoryWriter> {
        let failed = |error| Error::Directory {
            path: path.display().to_string(),
            error,
        };
        let made_root = match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if path.read_dir().map_err(failed)?.next().is_some() {
                    return Err(failed(io::Error::other("the directory is not empty")));
                }
                false
            }
            Err(error) => return Err(failed(error)),
        };
        let root = Root::open(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let mut manifest = BufWriter::new(root.file(Path::new(PARTIAL), flags)?);
        let first = First {
            ferry_directory: VERSION.into(),
        };
        write_line(&mut manifest, &first).map_err(|error| unusable(Path::new(MANIFEST), error))?;
        Ok(DirectoryWriter {
            root,
            made_root,
            manifest,
            parent: PathBuf::new(),
            file: None,
            complete: false,
        })
    }

    fn make_parents(&mut self, path: &Path) -> Result<()> {
        let Some(parent) = path
            .parent()
            .filter(|parent| !self.parent.starts_with(parent))
        else {
            return Ok(());
        };
        let missing: Vec<_> = parent
            .ancestors()
            .take_while(|above| !self.parent.starts_with(above))
            .collect();
        for directory in missing.iter().rev() {
            self.root.make_directory(directory)?;
        }
        self.parent = parent.to_owned();
        Ok(())
    }
}

fn write_line(out: &mut impl Write, line: &impl serde::Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    out.write_all(&text)
}

impl Tap for DirectoryWriter {
    fn start(&mut self, member: &Member) -> Result<()> {
        let path = member.path.as_path();
        write_line(&mut self.manifest, &Line::from(member))
            .map_err(|error| unusable(Path::new(MANIFEST), error))?;
        let (sparse, segments) = match &member.kind {
            MemberKind::Regular { size } => {
                let whole = Segment {
                    start: 0,
                    len: *size,
                };
                (None, VecDeque::from([whole]))
            }
            MemberKind::Sparse { size, segments } => {
                (Some(*size), segments.iter().copied().collect())
            }
            MemberKind::Directory => {
                self.make_parents(path)?;
                self.root.make_directory(path)?;
                path.clone_into(&mut self.parent);
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.make_parents(path)?;
        let file = self
            .root
            .file(path, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)?;
        if let Some(size) = sparse {
            file.set_len(size).map_err(|error| unusable(path, error))?;
        }
        let map = stream::map_len(member)
            .map_err(|what| Error::refused(&escape(path.as_os_str().as_bytes()), what))?;
        self.file = Some(Output {
            file,
            path: path.to_owned(),
            map,
            segments,
        });
        Ok(())
    }

    fn frame(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(output) = &mut self.file else {
            return Ok(());
        };
        let map = output.map.min(bytes.len());
        output.map -= map;
        let mut bytes = bytes.get(map..).unwrap_or_default();
        while let (false, Some(segment)) = (bytes.is_empty(), output.segments.front_mut()) {
            let len = usize::try_from(segment.len)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let (now, later) = bytes.split_at_checked(len).unwrap_or_default();
            output
                .file
                .write_all_at(now, segment.start)
                .map_err(|error| unusable(&output.path, error))?;
            segment.start += len as u64;
            segment.len -= len as u64;
            if segment.len == 0 {
                output.segments.pop_front();
            }
            bytes = later;
        }
        Ok(())
    }

    fn end(&mut self, _path: &str, _offset: u64, _size: u64) -> Result<()> {
        self.file = None;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.manifest
            .flush()
            .and_then(|()| {
                std::fs::rename(self.root.path.join(PARTIAL), self.root.path.join(MANIFEST))
            })
            .map_err(|error| unusable(Path::new(MANIFEST), error))?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for DirectoryWriter {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        if self.made_root {
            let _ = std::fs::remove_dir_all(&self.root.path);
            return;
        }
        let Ok(entries) = self.root.path.read_dir() else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let _ = if path.is_dir() {
                std::fs::remove_dir_all(path)
            } else {
                std::fs::remove_file(path)
            };
        }
    }
}

/// The bytes of the image whose directory form this is.
pub(crate) struct DirectoryReader {
    root: Root,
    lines: BufReader<File>,
    offset: u64,
    /// Bytes before the content of the current entry.
    head: io::Cursor<Vec<u8>>,
    file: Option<Input>,
    ended: bool,
}

struct Input {
    file: File,
    path: PathBuf,
    segments: VecDeque<Segment>,
}

impl DirectoryReader {
    pub fn open(directory: &Path) -> Result<DirectoryReader> {
        let root = Root::open(directory)?;
        let manifest =
            root.file(Path::new(MANIFEST), OFlag::O_RDONLY)
                .map_err(|error| match error {
                    Error::Directory { error, .. } if error.kind() == io::ErrorKind::NotFound => {
                        Error::Unrecognised {
                            what: "the directory has no MANIFEST".into(),
                        }
                    }
                    error => error,
                })?;
        let mut reader = DirectoryReader {
            root,
            lines: BufReader::new(manifest),
            offset: 0,
            head: io::Cursor::default(),
            file: None,
            ended: false,
        };
        let first: First = reader
            .line()?
            .ok_or_else(|| reader.damaged("it is empty"))?;
        if first.ferry_directory != u64::from(VERSION) {
            return Err(Error::Version {
                entry: MANIFEST.to_owned(),
                found: first.ferry_directory,
                known: VERSION,
            });
        }
        Ok(reader)
    }

    fn damaged(&self, what: impl Into<String>) -> Error {
        Error::Damaged {
            entry: MANIFEST.to_owned(),
            offset: self.offset,
            what: what.into(),
        }
    }

    fn line<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = Vec::new();
        let read = (&mut self.lines)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line);
        match read.map_err(|error| unusable(Path::new(MANIFEST), error))? {
            0 => return Ok(None),
            _ if line.last() != Some(&b'\n') => {
                return Err(self.damaged("a line of it has no end"));
            }
            _ => (),
        }
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|error| self.damaged(format!("a line of it is wrong: {error}")))
    }

    /// Goes on to the next entry, or to the blocks that end the stream.
    fn advance(&mut self) -> Result<()> {
        let padding = stream::padding(self.offset);
        let mut head = vec![0; padding];
        match self.line::<Line>()? {
            Some(line) => self.enter(&Member::from(line), &mut head)?,
            None => {
                head.resize(padding + 2 * BLOCK, 0);
                self.ended = true;
            }
        }
        self.head = io::Cursor::new(head);
        Ok(())
    }

    fn enter(&mut self, member: &Member, head: &mut Vec<u8>) -> Result<()> {
        let path = member.path.as_path();
        let bytes = path.as_os_str().as_bytes();
        let damaged = |offset, what: String| Error::Damaged {
            entry: escape(bytes),
            offset,
            what,
        };
        let at = self.offset + head.len() as u64;
        let blocks = stream::encode(member, at, crate::check::is_pages(bytes))
            .map_err(|what| damaged(at, what))?;
        head.extend_from_slice(&blocks.head);
        head.extend_from_slice(&blocks.map);
        let (size, segments) = match &member.kind {
            MemberKind::Regular { size } => (
                *size,
                VecDeque::from([Segment {
                    start: 0,
                    len: *size,
                }]),
            ),
            MemberKind::Sparse { size, segments } => (*size, segments.iter().copied().collect()),
            _ => return Ok(()),
        };
        let file = match self.root.file(path, OFlag::O_RDONLY) {
            Err(Error::Directory { error, .. })
                if error.kind() != io::ErrorKind::PermissionDenied =>
            {
                return Err(damaged(at, format!("its file cannot be opened: {error}")));
            }
            other => other?,
        };
        let len = file
            .metadata()
            .map_err(|error| unusable(path, error))?
            .len();
        if len != size {
            return Err(damaged(at, format!("the file has {len} bytes, not {size}")));
        }
        self.file = Some(Input {
            file,
            path: path.to_owned(),
            segments,
        });
        Ok(())
    }
}

impl Input {
    /// Reads on; 0 when all is read.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        while let Some(segment) = self.segments.front_mut() {
            if segment.len == 0 {
                self.segments.pop_front();
                continue;
            }
            let most = usize::try_from(segment.len)
                .unwrap_or(usize::MAX)
                .min(buf.len());
            let buf = buf.get_mut(..most).unwrap_or_default();
            let len = self
                .file
                .read_at(buf, segment.start)
                .map_err(|error| unusable(&self.path, error))?;
            if len == 0 {
                return Err(unusable(&self.path, io::ErrorKind::UnexpectedEof.into()));
            }
            segment.start += len as u64;
            segment.len -= len as u64;
            return Ok(len);
        }
        Ok(0)
    }
}

impl Read for DirectoryReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let mut len = self.head.read(buf)?;
            if let (0, Some(input)) = (len, &mut self.file) {
                len = input.read(buf).map_err(io::Error::other)?;
            }
            self.offset += len as u64;
            if len > 0 || self.ended {
                return Ok(len);
            }
            self.file = None;
            self.advance().map_err(io::Error::other)?;
        }
    }
}
