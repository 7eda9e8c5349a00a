//! Watches on a directory and on a file, by the numbers they had.
#![forbid(unsafe_code)]

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use subject::Stage;

fn events(watches: &Inotify) -> Vec<InotifyEvent> {
    watches.read_events().unwrap_or_default()
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (directory, file) = (stage.path("watched"), stage.path("file"));
    std::fs::create_dir(&directory).expect("mkdir");
    std::fs::write(&file, b"one").expect("write");
    let watches = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    let first = watches
        .add_watch(&stage.path("."), AddWatchFlags::IN_DELETE_SELF)
        .expect("watch");
    watches.rm_watch(first).expect("unwatch");
    let on_directory = watches
        .add_watch(&directory, AddWatchFlags::IN_CREATE)
        .expect("watch");
    let on_file = watches
        .add_watch(&file, AddWatchFlags::IN_MODIFY)
        .expect("watch");
    events(&watches);

    stage.wait();

    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the time");
    let name = format!("new-{}", now.as_nanos());
    std::fs::write(directory.join(&name), b"").expect("create a file");
    let found = events(&watches);
    stage.holds(
        "a file made in the directory",
        found.iter().any(|e| {
            e.wd == on_directory && e.name.as_ref().is_some_and(|n| n.to_string_lossy() == name)
        }),
    );
    std::fs::write(&file, b"two").expect("write");
    let found = events(&watches);
    stage.holds(
        "a change of the file",
        found
            .iter()
            .any(|e| e.wd == on_file && e.mask.contains(AddWatchFlags::IN_MODIFY)),
    );
    let next = watches
        .add_watch(&stage.path("."), AddWatchFlags::IN_DELETE_SELF)
        .expect("watch");
    stage.holds(
        "a new number for a new watch",
        ![first, on_directory, on_file].contains(&next),
    );
    stage.same("watches can be removed", Ok(()), watches.rm_watch(on_file));
    stage.leave()
}
