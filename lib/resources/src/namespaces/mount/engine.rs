//! What an engine has mounted for a container: its volumes, and what lies in the directory that the engine keeps for that
//! container alone (`…/overlay-containers/ID/userdata` of podman, `…/containers/ID` of docker).

use super::KEPT;
use crate::vessel::kept::FILES;
use image::engine::Configuration;
use kernel::proc::mountinfo;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most bytes of a file that an engine writes for a container.
const MOST: u64 = 1 << 20;

/// What a mount is to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Made {
    /// A file that was written for this container.
    File(Vec<u8>),
    /// A directory, or a file system, that was made for this container.
    Directory,
    /// Nothing of the engine's.
    Elsewhere,
}

/// Gives the content of a file, or none for a directory.
type Reads<'a> = &'a dyn Fn(&Path) -> io::Result<Option<Vec<u8>>>;

/// The mounts of one container as its engine made them.
pub(super) struct Mounts<'a> {
    configuration: Option<&'a Configuration>,
    read: Reads<'a>,
    /// How many trees of volumes there are so far.
    trees: u32,
}

impl<'a> Mounts<'a> {
    pub(super) fn new(configuration: Option<&'a Configuration>, read: Reads<'a>) -> Self {
        Mounts {
            configuration,
            read,
            trees: 0,
        }
    }

    /// The number of the next volume's tree.
    pub(super) fn next_tree(&mut self) -> u32 {
        self.trees += 1;
        self.trees - 1
    }

    /// The name of the volume that is mounted at a place.
    pub(super) fn volume(&self, place: &Path) -> Option<&str> {
        let volumes = self.configuration.map_or(&[][..], |c| &c.volumes);
        let found = volumes.iter().find(|v| Path::new(&v.destination) == place);
        found.map(|volume| &*volume.name)
    }

    /// Who made what is mounted, which is `source` on the host.
    pub(super) fn made(&self, source: &Path, fstype: &str) -> Result<Made, String> {
        if !is_its_own(source, self.configuration.map(|c| &*c.id)) {
            return Ok(Made::Elsewhere);
        }
        match (self.read)(source) {
            // On most hosts /run, where podman writes them, is a tmpfs.
            Ok(Some(content)) => Ok(Made::File(content)),
            Ok(None) => Ok(Made::Directory),
            Err(_) if fstype == "tmpfs" => Ok(Made::Directory),
            Err(e) => Err(format!("{}, which cannot be read: {e}", source.display())),
        }
    }
}

/// Whether a path leads into the directory that an engine keeps for one container: this one, or any where its id is not
/// known. A native container has in its own what its engine once wrote.
fn is_its_own(path: &Path, id: Option<&str>) -> bool {
    if let Ok(below) = path.strip_prefix(KEPT) {
        return below.iter().nth(1) == Some(OsStr::new(FILES));
    }
    let names: Vec<&str> = path.iter().filter_map(|name| name.to_str()).collect();
    names.windows(2).any(|pair| {
        let [above, name] = pair else { return false };
        let is_id = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        above.ends_with("containers") && id.map_or(is_id, |id| *name == id)
    })
}

/// Reads what an engine has written; none for a directory.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let kind = std::fs::metadata(path)?;
    if kind.is_dir() {
        return Ok(None);
    }
    let mut content = Vec::new();
    if kind.is_file() {
        File::open(path)?.take(MOST + 1).read_to_end(&mut content)?;
    }
    if kind.is_file() && content.len() as u64 <= MOST {
        Ok(Some(content))
    } else {
        Err(io::Error::other(format!(
            "it is no file of at most {MOST} bytes"
        )))
    }
}

/// A mount that comes back as a tmpfs of its own.
pub(super) fn as_tmpfs(mount: &mut mountinfo::Mount) {
    if mount.fstype != "tmpfs" {
        mount.fstype = "tmpfs".into();
        mount.source = b"tmpfs".to_vec();
        mount.super_options = vec!["rw".into()];
    }
    mount.root = b"/".to_vec();
}
