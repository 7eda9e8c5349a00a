//! Files without a name: an unlinked one with holes, open twice and shared with a child; and one that never had a name.
#![forbid(unsafe_code)]

use nix::fcntl::OFlag;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::ExitCode;
use subject::Stage;

const FAR: u64 = 3 << 30;

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 11 + i / 253) as u8).collect()
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let path = stage.path("gone");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&path)
        .expect("create");
    file.write_all_at(&bytes(300_000), 8192).expect("write");
    file.write_all_at(b"far", FAR).expect("write far off");
    let second = File::open(&path).expect("open again");
    std::fs::remove_file(&path).expect("unlink");
    let mark = OsStr::new("user.mark");
    kernel::xattr::set(file.as_fd(), mark, b"kept").expect("an extended attribute");
    kernel::descriptor::set_mtime(file.as_fd(), 1000, 7).expect("the time of its change");
    file.seek(SeekFrom::Start(8192)).expect("seek");
    let mode = file.metadata().expect("stat").mode();

    let mut nameless = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(stage.path("."))
        .expect("O_TMPFILE");
    nameless.write_all(b"never had a name").expect("write");

    let (told, tell) = nix::unistd::pipe().expect("pipe");
    let child_file = file.try_clone().expect("dup");
    let child = kernel::own::child::fork(move || {
        let heard = nix::unistd::read(&told, &mut [0]);
        let wrote = child_file.write_all_at(b"the child's", 0);
        i32::from(heard.is_err() || wrote.is_err())
    })
    .expect("fork");

    stage.wait();

    let metadata = file.metadata().expect("stat");
    stage.same("the mode", mode, metadata.mode());
    stage.same("the size", FAR + 3, metadata.len());
    let changed = (metadata.mtime(), metadata.mtime_nsec());
    stage.same("when it was changed", (1000, 7), changed);
    let marks = kernel::xattr::all(file.as_fd()).expect("its attributes");
    let kept = marks.get(mark).map(Vec::as_slice);
    stage.same("its attribute", Some(&b"kept"[..]), kept);
    stage.same("the number of names", 0, metadata.nlink());
    stage.holds("the holes", metadata.blocks() * 512 < 2 << 20);
    stage.same(
        "its twin is the same file",
        metadata.ino(),
        second.metadata().expect("stat").ino(),
    );
    let mut start = vec![0; 300_000];
    file.read_exact(&mut start)
        .expect("read on from the offset");
    stage.holds("the bytes at the offset", start == bytes(300_000));
    let mut far = [0; 3];
    second.read_exact_at(&mut far, FAR).expect("read far off");
    stage.same("the bytes far off", *b"far", far);
    nix::unistd::write(&tell, b"!").expect("tell the child");
    let child = nix::unistd::Pid::from_raw(child);
    stage.same(
        "the child",
        Ok(nix::sys::wait::WaitStatus::Exited(child, 0)),
        nix::sys::wait::waitpid(child, None),
    );
    let mut word = [0; 11];
    second.read_exact_at(&mut word, 0).expect("read");
    stage.same("the child's word", *b"the child's", word);

    stage.same(
        "the nameless file's offset",
        Ok(16),
        nameless.stream_position().map_err(|e| e.kind()),
    );
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("the time");
    let named = stage.path(format!("named-{}", now.as_nanos()));
    let linked = nix::unistd::linkat(
        nix::fcntl::AT_FDCWD,
        format!("/proc/self/fd/{}", nameless.as_raw_fd()).as_str(),
        nix::fcntl::AT_FDCWD,
        &named,
        nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW,
    );
    stage.same("it can be given a name", Ok(()), linked);
    stage.same(
        "what is in it",
        Ok("never had a name".to_owned()),
        std::fs::read_to_string(&named).map_err(|e| e.kind()),
    );
    stage.leave()
}
