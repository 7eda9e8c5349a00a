//! Overlays (Documentation/filesystems/overlayfs.rst): where the layers of a container's root are on the host.

use kernel::proc::mountinfo::Mount;
use std::path::PathBuf;

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
