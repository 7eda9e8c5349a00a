//! The container's own directory, `/var/lib/ferry/NAME`: a root file system that came with the image or what was changed
//! in one, volumes, files that an engine had written for it, and that engine's configuration. It goes with the container.

use super::written::{self, Changed};
use crate::{Error, Result};
use image::container::Container;
use image::engine::Configuration;
use image::namespaces::mount::{Mounts, Origin};
use image::path::Name;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// A root file system that came with the image, as it was.
pub(super) const ROOT: &str = "root";
/// The layers of an image that came with it, over which the container has an overlay.
pub(super) const LAYERS: &str = "layers";
/// Volumes, by their names.
pub(crate) const VOLUMES: &str = "volumes";
/// Files that were written for the container, by their number.
pub(crate) const FILES: &str = "files";
const CONFIGURATION: &str = "configuration.json";

/// What it holds before there is a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Directories in it.
    pub(super) directories: Vec<PathBuf>,
    /// Files in it: path, where they are mounted, and what was in them on the source.
    files: Vec<(PathBuf, Name, Vec<u8>)>,
    configuration: Option<Configuration>,
}

impl Kept {
    /// Nothing but what the engine's configuration asks for.
    pub(super) fn new(container: &Container) -> Self {
        Kept {
            configuration: container.configuration.clone(),
            ..Kept::default()
        }
    }

    /// Volumes and written files become binds from the directory.
    pub(super) fn take(&mut self, mounts: &mut Mounts, directory: &Path) -> Result<()> {
        for (i, mount) in mounts.mounts.iter_mut().enumerate() {
            let place = match &mount.origin {
                Origin::Volume { name, .. } => {
                    let place = Path::new(VOLUMES).join(volume(name)?);
                    self.directories.push(VOLUMES.into());
                    self.directories.push(place.clone());
                    place
                }
                Origin::Written { content } => {
                    let place = Path::new(FILES).join(i.to_string());
                    self.directories.push(FILES.into());
                    let file = (place.clone(), mount.mountpoint.clone(), content.0.clone());
                    self.files.push(file);
                    place
                }
                _ => continue,
            };
            let path = Name::from(&*directory.join(place));
            mount.origin = Origin::Bind { path };
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.files.is_empty() && self.configuration.is_none()
    }

    /// Makes it all, in a directory of which nothing is left.
    pub(super) fn make(&self, directory: &Path, changed: &Changed) -> Result<()> {
        make_directory(directory)?;
        for one in &self.directories {
            let path = directory.join(one);
            make_directory(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .map_err(|e| kernel::Error::io(format!("mode of {}", path.display()), &e))?;
        }
        for (path, place, old) in &self.files {
            let path = directory.join(path);
            write(&path, 0o644, &written::content(&place.0, old, changed))?;
        }
        if let Some(configuration) = &self.configuration {
            let text = serde_json::to_vec(configuration);
            let text = text.map_err(|e| Error::Refused(e.to_string()))?;
            write(&directory.join(CONFIGURATION), 0o600, &text)?;
        }
        Ok(())
    }
}

/// What an engine would need to make the container again that has this directory; none where it never was an engine's.
pub fn configuration(directory: &Path) -> Result<Option<Configuration>> {
    let path = directory.join(CONFIGURATION);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(kernel::Error::io(format!("read {}", path.display()), &e).into()),
    };
    let found = serde_json::from_slice(&text);
    Ok(Some(found.map_err(|e| {
        Error::Refused(format!("{}: {e}", path.display()))
    })?))
}

/// The name of a volume as that of a directory.
fn volume(name: &str) -> Result<&str> {
    let mut components = Path::new(name).components();
    let first = components.next();
    if matches!(first, Some(Component::Normal(_)))
        && components.next().is_none()
        && name.len() < 256
    {
        return Ok(name);
    }
    Err(Error::Refused(format!(
        "the image has a volume called {name:?}, which is no name for one"
    )))
}

/// Only for root on the way there: what lies in it may belong to anybody.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    Ok(made.map_err(|e| kernel::Error::io(format!("make {}", path.display()), &e))?)
}

fn write(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(|e| kernel::Error::io(format!("write {}", path.display()), &e).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_directory_beneath_the_containers() {
        for good in ["data", "a.b-c", &"0123456789abcdef".repeat(4)] {
            assert_eq!(volume(good).unwrap(), good);
        }
        for bad in ["", ".", "..", "/", "a/b", "/etc"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }
}
