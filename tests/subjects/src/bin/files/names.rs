//! Names of open files: one was renamed, or its directory was; names that look like the kernel's
//! remarks, and bytes of all kinds; a file of a terabyte without a name, all holes but six bytes.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;
use subject::Stage;

const FAR: u64 = 1 << 40;

fn made(path: &Path, text: &str) -> File {
    fs::create_dir_all(path.parent().expect("a parent")).expect("make directories");
    fs::write(path, text).expect("write");
    let mut options = File::options();
    options.read(true).write(true).open(path).expect("open")
}

fn text(file: &File) -> String {
    let mut bytes = [0; 64];
    let got = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..got]).into_owned()
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let at = |name: &str| stage.path(name);
    let renamed = made(&at("before"), "renamed");
    fs::rename(at("before"), at("after")).expect("rename");
    let below = made(&at("old/file"), "below");
    fs::rename(at("old"), at("new")).expect("rename");
    let above = made(&at("old/file"), "above");
    let remark = made(&at("name (deleted)"), "is there");
    let remarked = made(&at("other (deleted)"), "is not");
    fs::remove_file(at("other (deleted)")).expect("unlink");
    let odd = stage.path(OsStr::from_bytes(b"odd \n\t\\ \xff\xfe"));
    let odd = (made(&odd, "odd"), odd);
    let sparse = made(&at("sparse"), "");
    sparse.set_len(FAR).expect("make it long");
    sparse.write_all_at(b"middle", FAR / 2).expect("write");
    fs::remove_file(at("sparse")).expect("unlink");

    stage.wait();

    let files = [
        ("renamed", &renamed, 1),
        ("below", &below, 1),
        ("above", &above, 1),
        ("is there", &remark, 1),
        ("is not", &remarked, 0),
        ("odd", &odd.0, 1),
    ];
    let same = |file: &File, path: &Path| {
        let key = |m: fs::Metadata| (m.dev(), m.ino());
        fs::metadata(path).map(key).ok() == file.metadata().map(key).ok()
    };
    let at = [
        (&renamed, "after"),
        (&below, "new/file"),
        (&above, "old/file"),
        (&remark, "name (deleted)"),
    ]
    .map(|(file, name)| (name, same(file, &stage.path(name))));
    for (name, is_there) in at {
        stage.holds(&format!("{name} is the file"), is_there);
    }
    stage.holds("a name of odd bytes is the file's", same(&odd.0, &odd.1));
    for (wanted, file, links) in files {
        stage.same("the content", wanted, &text(file));
        let now = file.metadata().map(|m| m.nlink()).ok();
        stage.same(&format!("the names of what is {wanted}"), Some(links), now);
    }
    let metadata = sparse.metadata().expect("stat");
    stage.same("the length", FAR, metadata.len());
    stage.holds("the holes", metadata.blocks() < 64);
    let mut bytes = [0; 6];
    let read = sparse.read_exact_at(&mut bytes, FAR / 2).is_ok();
    stage.same("what is between them", (true, *b"middle"), (read, bytes));
    stage.leave()
}
