//! Overlays (Documentation/filesystems/overlayfs.rst): where the layers of a container's root are on the host.

use super::failed;
use crate::{Blocker, Error, Result};
use kernel::Pid;
use kernel::beneath::{self, Way};
use kernel::proc::mountinfo::{self, Mount};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, major, minor};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What an overlay's mount options say of its layers; paths as whoever mounted it wrote them, which may be relative.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Where changes go; none where nothing can be changed.
    pub upper: Option<PathBuf>,
    /// What lies below, the topmost first.
    pub lower: Vec<PathBuf>,
    /// Layers of mere data lie below that.
    pub data: bool,
    /// Its marks are in `user.overlay.*`, not in `trusted.overlay.*`.
    pub user_marks: bool,
}

impl Options {
    /// Reads those of a mount; none where it is no overlay.
    pub fn of(mount: &Mount) -> Option<Options> {
        if mount.fstype != "overlay" {
            return None;
        }
        let mut found = Options::default();
        for option in &mount.super_options {
            match option.split_once('=') {
                Some(("lowerdir", list)) => {
                    let (lower, data) = split(list);
                    found.lower = lower;
                    found.data |= data;
                }
                // As it was made by fsconfig(2), one by one.
                Some(("lowerdir+", one)) => found.lower.push(one.into()),
                Some(("datadir+", _)) => found.data = true,
                Some(("upperdir", one)) => found.upper = Some(one.into()),
                None if option == "userxattr" => found.user_marks = true,
                _ => {}
            }
        }
        (!found.lower.is_empty()).then_some(found)
    }
}

/// Directories with colons between them, a colon in a name escaped; after two colons come layers of mere data.
fn split(list: &str) -> (Vec<PathBuf>, bool) {
    let mut all = vec![String::new()];
    let mut letters = list.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' => all.push(String::new()),
            '\\' => {
                if let (Some(last), Some(next)) = (all.last_mut(), letters.next()) {
                    last.push(next);
                }
            }
            letter => {
                if let Some(last) = all.last_mut() {
                    last.push(letter);
                }
            }
        }
    }
    let layers = all.iter().take_while(|name| !name.is_empty());
    let layers: Vec<PathBuf> = layers.map(PathBuf::from).collect();
    let data = layers.len() < all.len();
    (layers, data)
}

/// The overlay that is a container's root file system, its directories opened on the host.
#[derive(Debug)]
pub(super) struct Overlay {
    /// What its mount says.
    pub(super) options: Options,
    /// The device number of its file system, as `/proc/PID/mountinfo` has it.
    device: String,
    /// Where relative names of layers may begin.
    bases: Vec<PathBuf>,
}

impl Overlay {
    /// The root of process `pid`; none where it is no overlay.
    pub(super) fn of(pid: Pid) -> Result<Option<Overlay>> {
        let mounts = crate::namespaces::mount::beginning::mounts(pid)?;
        let root = mounts.iter().rev().find(|m| m.mountpoint == b"/");
        let Some((root, options)) = root.and_then(|root| Some((root, Options::of(root)?))) else {
            return Ok(None);
        };
        // An engine mounts it from within its storage, and may name layers from there.
        let upper = options.upper.clone().filter(|path| path.is_absolute());
        let places = merged(&root.device)?;
        let below = |path: &PathBuf| path.ancestors().map(Path::to_path_buf).collect::<Vec<_>>();
        Ok(Some(Overlay {
            bases: places.iter().chain(&upper).flat_map(below).collect(),
            device: root.device.clone(),
            options,
        }))
    }

    /// The directory that changes are in, as the container sees them now: it must stand still.
    pub(super) fn upper(&self, root: &OwnedFd) -> Result<OwnedFd> {
        let name = self.options.upper.as_deref();
        let name = name.ok_or_else(|| lost(Path::new("for changes"), "it has none"))?;
        let upper = directory(&self.layer(name)?)?;
        let seen = |file: &OwnedFd| fstat(file).map_err(|e| failed("fstat", e));
        let state = |s: FileStat| {
            (
                (s.st_mode, s.st_uid, s.st_gid),
                (s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec),
            )
        };
        // An overlay shows of a directory what its upper one has.
        if state(seen(&upper)?) != state(seen(root)?) {
            return Err(lost(name, "another directory is there"));
        }
        Ok(upper)
    }

    /// The directories that lie below, the topmost first.
    pub(super) fn lower(&self) -> Result<Vec<PathBuf>> {
        if self.options.data {
            return Err(lost(Path::new("of mere data"), "it cannot be taken yet"));
        }
        let layers = self.options.lower.iter();
        layers.map(|name| self.layer(name)).collect()
    }

    /// A mount of it on the host, which shows all of it with nothing mounted on top.
    pub(super) fn merged(&self) -> Result<Option<OwnedFd>> {
        for place in merged(&self.device)? {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            if let Ok(dir) = open(&place, flags, Mode::empty())
                && let Ok(stat) = fstat(&dir)
                && self.device == format!("{}:{}", major(stat.st_dev), minor(stat.st_dev))
            {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    }

    /// The path of a layer on the host.
    fn layer(&self, name: &Path) -> Result<PathBuf> {
        // A path from the root stays what it is, wherever it is joined.
        let top = PathBuf::from("/");
        let bases = [&top].into_iter().filter(|_| name.is_absolute());
        let paths = bases.chain(&self.bases).map(|base| base.join(name));
        let rest = unmapped(name);
        let others = rest
            .iter()
            .flat_map(|rest| self.bases.iter().map(move |base| base.join(rest)));
        let found = paths.chain(others).find(|path| path.is_dir());
        found.ok_or_else(|| lost(name, "no such directory"))
    }
}

/// The name of a layer in its storage, where podman showed that to a user namespace with other owners, for as long as it took
/// to mount the overlay: what comes after `LAYER/mapped/0`.
fn unmapped(name: &Path) -> Option<PathBuf> {
    let mut components = name.components();
    components.find(|part| part.as_os_str() == "mapped")?;
    let number = components.next()?.as_os_str().to_str()?;
    let rest = components.as_path();
    (number.parse::<u32>().is_ok() && rest.is_relative() && rest.components().next().is_some())
        .then(|| rest.to_path_buf())
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|e| failed(format!("open {}", path.display()), e))
}

fn lost(layer: &Path, why: &str) -> Error {
    Error::Refused(format!(
        "the layer {} of the container's root file system is not found on this host ({why}); run checkpoint where the \
         engine that made it runs",
        layer.display()
    ))
}

/// Where on the host a file system is mounted whole.
fn merged(device: &str) -> Result<Vec<PathBuf>> {
    let host = mountinfo::read_own()?.into_iter();
    let whole = host.filter(|m| m.device == device && m.root == b"/");
    Ok(whole
        .map(|m| OsStr::from_bytes(&m.mountpoint).into())
        .collect())
}

/// The whole root file system of process `pid` as a directory of the host's that nothing is mounted on, and that can be
/// written to where the container may not; none where the host does not have it mounted.
pub(super) fn of_host(pid: Pid) -> Result<Option<OwnedFd>> {
    match Overlay::of(pid)? {
        Some(overlay) => overlay.merged(),
        None => Ok(None),
    }
}

/// What of a root file system's layers cannot be found.
pub fn blockers(root: Pid, with_image: bool) -> Result<Vec<Blocker>> {
    let Some(overlay) = Overlay::of(root)? else {
        return Ok(Vec::new());
    };
    let upper = overlay.options.upper.as_deref();
    let mut found = upper.map_or(Ok(()), |name| overlay.layer(name).map(drop));
    if with_image {
        found = found.and(overlay.lower().map(drop));
    }
    Ok(found.err().map_or(Vec::new(), |why| {
        vec![Blocker {
            pid: root,
            place: "root file system".into(),
            what: why.to_string(),
            remedy: "or leave it out: checkpoint --ignore-rootfs".into(),
        }]
    }))
}

/// What an overlay has noted in the attributes of a file of its upper directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// Nothing of what lies below this directory's place shows.
    pub(super) opaque: bool,
    /// What lies below it is at another place: the directory was renamed.
    pub(super) redirect: bool,
    /// Its content lies below, only its attributes are here.
    pub(super) metacopy: bool,
    /// A file that stands for what was removed, as a device does.
    pub(super) whiteout: bool,
}

impl Marks {
    /// Takes the overlay's notes out of a file's attributes. What a container's own overlays have noted is left, with
    /// the name it has here: `trusted.overlay.overlay.…`.
    pub(super) fn take(attributes: &mut BTreeMap<OsString, Vec<u8>>, user: bool) -> Marks {
        let prefix: &[u8] = if user {
            b"user.overlay."
        } else {
            b"trusted.overlay."
        };
        let mut marks = Marks::default();
        attributes.retain(|name, value| {
            let Some(note) = name.as_bytes().strip_prefix(prefix) else {
                return true;
            };
            match note {
                b"opaque" => marks.opaque = value == b"y",
                b"redirect" => marks.redirect = true,
                b"metacopy" => marks.metacopy = true,
                b"whiteout" => marks.whiteout = true,
                note => return note.starts_with(b"overlay."),
            }
            false
        });
        marks
    }
}

/// The attribute that says in an image that nothing below a directory shows.
pub(super) const OPAQUE: &str = "trusted.overlay.opaque";

/// The name under which an attribute is set: an overlay adds to the names of its own kind when they are set through it.
pub(super) fn as_seen(name: &OsStr) -> OsString {
    let bytes = name.as_bytes();
    for prefix in [&b"trusted.overlay."[..], b"user.overlay."] {
        if let Some(rest) = bytes.strip_prefix(prefix)
            && let Some(rest) = rest.strip_prefix(b"overlay.")
        {
            return OsString::from(OsStr::from_bytes(&[prefix, rest].concat()));
        }
    }
    name.to_os_string()
}

/// A file of the merged view, by its path there.
pub(super) fn beneath(merged: &OwnedFd, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let flags = flags | OFlag::O_NOFOLLOW;
    Ok(beneath::open(
        merged.as_fd(),
        path,
        Way::SameMount,
        flags,
        0,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Option<Options> {
        let line = format!("1 0 0:9 / / rw - {text}\n");
        Options::of(&mountinfo::parse(line.as_bytes()).unwrap()[0])
    }

    #[test]
    fn layers_are_read_from_a_mounts_options() {
        assert_eq!(options("ext4 /dev/vda rw"), None);
        let podman = options(
            "overlay overlay rw,lowerdir=l/IO:/b\\134:c:d,upperdir=db/diff,workdir=w,uuid=on",
        );
        let podman = podman.unwrap();
        let names = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(podman.lower, names(&["l/IO", "/b:c", "d"]));
        assert_eq!(podman.upper, Some("db/diff".into()));
        assert!(!podman.data && !podman.user_marks);
        let parts =
            options("overlay x ro,lowerdir+=/a,lowerdir+=/b\\054c,datadir+=/d,userxattr").unwrap();
        assert_eq!(parts.lower, names(&["/a", "/b,c"]));
        assert!(parts.upper.is_none() && parts.data && parts.user_marks);
        assert!(options("overlay x ro,lowerdir=/a::/d").unwrap().data);
    }

    #[test]
    fn a_layer_shown_with_other_owners_is_found_by_its_own_name() {
        let of = |name: &str| unmapped(Path::new(name));
        assert_eq!(of("/s/overlay/4f/mapped/0/l/IO"), Some("l/IO".into()));
        for none in ["/s/overlay/l/IO", "/s/mapped/x/l", "/s/mapped/0", "mapped"] {
            assert_eq!(of(none), None);
        }
    }

    #[test]
    fn an_overlays_notes_do_not_travel_but_for_those_it_hides() {
        let names = ["origin", "impure", "opaque", "overlay.opaque", "redirect"];
        let own = names.map(|name| (format!("trusted.overlay.{name}").into(), b"y".to_vec()));
        let mut all = BTreeMap::from(own);
        all.insert("user.overlay.opaque".into(), b"y".to_vec());
        let marks = Marks::take(&mut all, false);
        assert!(marks.opaque && marks.redirect && !marks.metacopy && !marks.whiteout);
        let left: Vec<_> = all.keys().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(
            left,
            ["trusted.overlay.overlay.opaque", "user.overlay.opaque"]
        );
        assert_eq!(as_seen(OsStr::new(left[0])), OPAQUE);
        assert_eq!(as_seen(OsStr::new(left[1])), left[1]);
    }
}
