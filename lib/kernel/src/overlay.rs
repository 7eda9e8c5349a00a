//! Overlays to look into (overlayfs(5)), which nobody else sees.

use crate::error::Named;
use crate::within::on_a_thread;
use crate::{Error, Result};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What layers show that lie over one another, the topmost first: the root directory of an overlay that cannot be written
/// to and is mounted nowhere. `user`: its marks are in `user.overlay.*`.
pub fn view(layers: &[PathBuf], user: bool) -> Result<OwnedFd> {
    let make = || {
        // A mount namespace that goes with this thread; the descriptor keeps the mount.
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
            .named(|| "unshare the mount namespace of a thread".into())?;
        let (none, place) = (None::<&str>, Path::new("/dev"));
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).named(|| "make all mounts private".into())?;
        let open = |path: &Path| {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            open(path, flags, Mode::empty()).named(|| format!("open {}", path.display()))
        };
        // Here, for an overlay takes only what is mounted in its own namespace.
        let layers = layers.iter().map(|path| open(path));
        let mut layers = layers.collect::<Result<Vec<_>>>()?;
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), none)
            .named(|| "mount a tmpfs".into())?;
        let directory = |name: &str| {
            let path = place.join(name);
            std::fs::create_dir(&path)
                .map_err(|e| Error::io(format!("make {}", path.display()), &e))?;
            Ok::<_, Error>(path)
        };
        let count = layers.len();
        if count == 1 {
            // A single layer is none to the kernel (fs/overlayfs/super.c): an empty one lies below it.
            layers.push(open(&directory("empty")?)?);
        }
        let view = directory("view")?;
        let name = |layer: &OwnedFd| format!("/proc/self/fd/{}", layer.as_raw_fd());
        let names: Vec<String> = layers.iter().map(name).collect();
        let marks = if user { ",userxattr" } else { "" };
        let options = format!("lowerdir={}{marks}", names.join(":"));
        let kind = Some("overlay");
        mount(kind, &view, kind, MsFlags::MS_RDONLY, Some(&*options))
            .named(|| format!("mount an overlay of {count} layers"))?;
        open(&view)
    };
    on_a_thread(make)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_shows_what_its_layers_leave_and_is_mounted_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let layer = |name: &str, files: &[&str]| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            for file in files {
                std::fs::write(path.join(file), name).unwrap();
            }
            path
        };
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let before = mounts();
        let low = layer("low", &["a", "b", "gone"]);
        let high = layer("high", &["b", "c"]);
        let device = nix::sys::stat::SFlag::S_IFCHR;
        nix::sys::stat::mknod(&high.join("gone"), device, Mode::empty(), 0).unwrap();
        let names = |view: &OwnedFd| {
            let path = format!("/proc/self/fd/{}", view.as_raw_fd());
            let mut found: Vec<_> = std::fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            (found, std::fs::read_to_string(format!("{path}/b")).unwrap())
        };
        let view = super::view(&[high, low.clone()], false).unwrap();
        assert_eq!(
            names(&view),
            (["a", "b", "c"].map(String::from).into(), "high".into())
        );
        let single = super::view(&[low], false).unwrap();
        assert_eq!(names(&single).0, ["a", "b", "gone"]);
        assert_eq!(mounts(), before);
    }
}
