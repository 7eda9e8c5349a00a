//! Threads in a mount namespace of their own, of which their process knows nothing: one that has made it (and with it has a
//! working directory, root and umask of its own), and one that shares these with it.
#![forbid(unsafe_code)]

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chdir;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::thread::spawn;
use subject::Stage;

/// Mounts memory at a place, and goes there; gives a file in it, read half-way.
fn move_in(place: &Path) -> File {
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
    let none = None::<&str>;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, flags, none).expect("make private");
    let memory = Some("tmpfs");
    mount(memory, place, memory, MsFlags::MS_NOSUID, Some("size=1m")).expect("mount");
    std::fs::write(place.join("file"), "in memory").expect("write");
    chdir(place).expect("chdir");
    let mut file = File::open(place.join("file")).expect("open");
    file.seek(std::io::SeekFrom::Start(3)).expect("seek");
    file
}

/// What a thread does not find as it left it.
fn missing(place: &Path, told: &Receiver<()>) -> Vec<String> {
    let own = std::fs::read_link("/proc/thread-self/ns/mnt").expect("a namespace");
    let of_process = std::fs::read_link("/proc/self/ns/mnt").expect("a namespace");
    let apart = own != of_process;
    told.recv().expect("be told");
    let own = std::fs::read_link("/proc/thread-self/ns/mnt").expect("a namespace");
    let of_process = std::fs::read_link("/proc/self/ns/mnt").expect("a namespace");
    let at = std::fs::read_link("/proc/thread-self/cwd");
    let is = |path: &Path| std::fs::read_to_string(path).is_ok_and(|text| text == "in memory");
    let checks = [
        ("it was apart", apart),
        ("it is apart", own != of_process),
        ("the working directory", at.is_ok_and(|at| at == place)),
        ("the file in it", is(Path::new("file"))),
        ("the file by its path", is(&place.join("file"))),
    ];
    let wrong = checks.iter().filter(|(_, right)| !right);
    wrong.map(|(what, _)| (*what).to_owned()).collect()
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let place: PathBuf = stage.path("place");
    std::fs::create_dir(&place).expect("make a directory");
    let ((tell_maker, maker_told), (tell_guest, guest_told)) = (channel(), channel());
    let (say, heard) = channel();
    let there = place.clone();
    let maker = spawn(move || {
        let mut file = move_in(&there);
        let (beside, say_too) = (there.clone(), say.clone());
        let guest = spawn(move || {
            say_too.send(()).expect("say");
            missing(&beside, &guest_told)
        });
        say.send(()).expect("say");
        let mut wrong = missing(&there, &maker_told);
        wrong.extend(guest.join().expect("the guest"));
        let mut rest = String::new();
        file.read_to_string(&mut rest).expect("read");
        if rest != "memory" {
            wrong.push(format!("the open file goes on with {rest:?}"));
        }
        wrong
    });
    for _ in 0..2 {
        heard.recv().expect("hear");
    }
    let unseen = |stage: &Stage| !stage.path("place/file").exists();
    stage.holds("nothing is there", unseen(&stage));
    stage.wait();
    stage.holds("nothing is there afterwards", unseen(&stage));
    tell_guest.send(()).expect("tell");
    tell_maker.send(()).expect("tell");
    let wrong = maker.join().expect("the maker");
    stage.same("what is wrong", Vec::new(), wrong);
    stage.leave()
}
