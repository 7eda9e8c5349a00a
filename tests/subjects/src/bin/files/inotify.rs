//! Watches on a directory and on a file, by the numbers they had; one on a file without a name; and events not yet read,
//! of which the program hears that it has lost them.
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
    let gone = stage.path("gone");
    std::fs::write(&gone, b"one").expect("write");
    let held = std::fs::File::options()
        .write(true)
        .open(&gone)
        .expect("open");
    let on_gone = watches
        .add_watch(&gone, AddWatchFlags::IN_MODIFY)
        .expect("watch");
    std::fs::remove_file(&gone).expect("unlink");

    let unread = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    let quiet = stage.path("quiet");
    std::fs::create_dir(&quiet).expect("mkdir");
    let on_quiet = unread
        .add_watch(&quiet, AddWatchFlags::IN_CREATE)
        .expect("watch");
    std::fs::write(quiet.join("seen-later"), b"").expect("create a file");

    stage.wait();

    let told = events(&unread);
    let heard = told.first().map(|e| (e.wd, e.mask));
    let moved = heard.is_some_and(|(_, mask)| mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
    let kept = heard == Some((on_quiet, AddWatchFlags::IN_CREATE));
    stage.holds(
        "events not read are there, or said to be lost",
        moved || kept,
    );
    stage.same("there is one such word", 1, told.len());
    std::io::Write::write_all(&mut &held, b"two").expect("write");
    let found = events(&watches);
    stage.holds(
        "a change of the file without a name",
        found
            .iter()
            .any(|e| e.wd == on_gone && e.mask.contains(AddWatchFlags::IN_MODIFY)),
    );

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
