//! Root directories: every process has another one (chroot(2)), the first too, whose working directory lies outside of its
//! root; one of a child's is removed.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chroot, pipe, read};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use subject::Stage;

/// What a file says, and of the root and the working directory what tells them from others.
fn seen(file: &str) -> (String, Option<u64>, Option<u64>) {
    let inode = |path: &str| fs::metadata(path).map(|found| found.ino()).ok();
    let text = fs::read_to_string(file).unwrap_or_default();
    (text, inode("/"), inode("."))
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    stage.stay();
    for name in ["jail/inner/most", "other", "removed"] {
        fs::create_dir_all(name).expect("make directories");
    }
    for name in ["which", "jail/which", "jail/inner/which", "other/which"] {
        fs::write(name, name).expect("write");
    }
    let (told, tell) = pipe().expect("pipe");
    let (heard, say) = pipe().expect("pipe");
    type Change = (&'static str, &'static str, &'static str, u32);
    let changes: [Change; 4] = [
        ("other", ".", "/which", 0o22),
        ("jail/inner", "/most", "../which", 0o27),
        ("jail", "/inner", "/which", 0o77),
        ("removed", ".", "which", 0o2),
    ];
    let children = changes.map(|(root, directory, file, mask)| {
        fork(|| {
            let enter = chroot(root).and_then(|()| nix::unistd::chdir(directory));
            if root == "removed" {
                let _ = fs::remove_dir(root);
            }
            umask(Mode::from_bits_truncate(mask));
            let before = seen(file);
            let said = nix::unistd::write(&say, b".");
            if enter.is_err() || said != Ok(1) || before.0.is_empty() {
                return 2;
            }
            let _ = read(&told, &mut [0]);
            let kept = umask(Mode::empty()) == Mode::from_bits_truncate(mask);
            // A removed one is made anew: it is another, in which nothing can be made.
            let (mut before, mut after) = (before, seen(file));
            if root == "removed" {
                (before.1, after.1) = (None, None);
                if fs::write("/new", "").is_ok() {
                    return 3;
                }
            }
            4 * i32::from(before != after) + 8 * i32::from(!kept)
        })
        .expect("fork")
    });
    for _ in &children {
        stage.same("a child is ready", Ok(1), read(&heard, &mut [0]));
    }
    chroot("jail").expect("chroot");
    let open = fs::File::open("/inner/which").expect("open");
    let before = [seen("/which"), seen("which")];

    stage.wait();

    stage.same(
        "the root and what lies outside",
        before,
        [seen("/which"), seen("which")],
    );
    stage.holds(
        "nothing outside has a whole path",
        !fs::exists("/jail").unwrap_or(true),
    );
    let text = std::io::read_to_string(open).unwrap_or_default();
    stage.same("an open file", "jail/inner/which", &text);
    nix::unistd::write(&tell, b"....").expect("tell the children");
    for (child, (root, ..)) in children.into_iter().zip(changes) {
        let ended = waitpid(Pid::from_raw(child), None).ok();
        let good = matches!(ended, Some(WaitStatus::Exited(_, 0)));
        stage.same(&format!("{root}, as a root: {ended:?}"), true, good);
    }
    stage.leave()
}
