//! Threads that have descriptors of their own, or a working directory, root and umask of their own (unshare(2)), and threads
//! that share these with them.
#![forbid(unsafe_code)]

use kernel::kcmp::Kind;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, close, gettid, pipe, read, write};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::spawn;
use std::time::Duration;
use subject::Stage;

/// How many further threads there are.
const THREADS: usize = 6;
/// How long one waits for another.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a thread has of its own, as it is seen from itself.
#[derive(Debug, Clone, PartialEq)]
struct Has {
    tid: i32,
    place: PathBuf,
    umask: String,
    descriptors: Vec<String>,
}

/// Who looks has descriptors for a moment, which nobody else is to see or to copy.
static LOOKING: Mutex<()> = Mutex::new(());

fn part_with(flags: CloneFlags) {
    let _nobody_looks = LOOKING.lock().expect("lock");
    unshare(flags).expect("unshare");
}

fn has() -> Has {
    let _alone = LOOKING.lock().expect("lock");
    let own = Path::new("/proc/thread-self");
    let place = std::fs::read_link(own.join("cwd")).expect("cwd");
    let status = std::fs::read_to_string(own.join("status")).expect("status");
    let umask = status.lines().find(|line| line.starts_with("Umask"));
    let mut descriptors = Vec::new();
    for entry in std::fs::read_dir(own.join("fd")).expect("fd").flatten() {
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        let link = link.to_string_lossy();
        // But for that of this very directory. Pipes have other numbers after a move.
        if !link.contains("/fd") {
            let kind = link.split('[').next().unwrap_or_default();
            let number = entry.file_name();
            let info = std::fs::read_to_string(own.join("fdinfo").join(&number));
            let info = kernel::proc::fdinfo::parse(&info.expect("fdinfo")).expect("fdinfo");
            descriptors.push(format!("{number:?} {kind} {:?}", info.locks));
        }
    }
    descriptors.sort();
    Has {
        tid: gettid().as_raw(),
        place,
        umask: umask.unwrap_or_default().to_owned(),
        descriptors,
    }
}

/// A thread's way to say what it has, and to be told.
struct Part {
    number: usize,
    say: Sender<(usize, Has)>,
    told: Receiver<()>,
}

impl Part {
    /// Says what it has, waits to be told, says what it has then, and waits again.
    fn play(&self) {
        for _ in 0..2 {
            self.say.send((self.number, has())).expect("say");
            self.told.recv().expect("be told");
        }
    }
}

/// Descriptors of its own, standard input among what is another file there; its child reads what it writes.
fn with_files(part: Part, beside: [Part; 2], directory: PathBuf) {
    part_with(CloneFlags::CLONE_FILES);
    close(0).expect("close standard input");
    let (from, to) = pipe().expect("pipe");
    assert_eq!(from.as_raw_fd(), 0, "the lowest number");
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    let event = EpollEvent::new(EpollFlags::EPOLLIN, 5);
    epoll.add(&from, event).expect("watch a pipe");
    let locked = File::open(directory.join("locked")).expect("open");
    let shared = libc::flock {
        l_type: libc::F_RDLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 1,
        l_len: 2,
        l_pid: 0,
    };
    fcntl(&locked, FcntlArg::F_SETLK(&shared)).expect("lock");
    write(&to, b"w").expect("write");
    let [same, elsewhere] = beside;
    let sibling = spawn(move || same.play());
    let apart = spawn(move || {
        part_with(CloneFlags::CLONE_FS);
        chdir(&directory.join("elsewhere")).expect("chdir");
        elsewhere.play();
        // It has the descriptors of who has made it.
        let mut byte = [0];
        let waited = epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO);
        assert_eq!(waited, Ok(1), "the pipe is watched");
        assert_eq!(read(&from, &mut byte), Ok(1), "what was written before");
        assert_eq!(read(&from, &mut byte), Ok(1), "what is written now");
        assert_eq!(&byte, b"n");
    });
    part.play();
    write(&to, b"n").expect("write");
    sibling.join().expect("a thread");
    apart.join().expect("a thread");
    drop(locked);
}

/// A working directory and umask of its own; its child has the same, and descriptors of its own.
fn with_place(part: Part, beside: Part, directory: PathBuf) {
    part_with(CloneFlags::CLONE_FS);
    chdir(&directory.join("elsewhere")).expect("chdir");
    umask(Mode::from_bits_truncate(0o27));
    let sibling = spawn(move || {
        part_with(CloneFlags::CLONE_FILES);
        close(0).expect("close standard input");
        beside.play();
        umask(Mode::from_bits_truncate(0o31));
    });
    part.play();
    sibling.join().expect("a thread");
    assert!(has().umask.ends_with("0031"), "the umask of both");
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let directory = stage.path("");
    for (name, text) in [("locked", "0123456789"), ("elsewhere/file", "x")] {
        let path = stage.path(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("make a directory");
        std::fs::write(path, text).expect("write a file");
    }
    let (say, heard) = channel();
    let mut tell = Vec::new();
    let mut parts = (0..THREADS).map(|number| {
        let (go, told) = channel();
        tell.push(go);
        let say = say.clone();
        Part { number, say, told }
    });
    let mut part = || parts.next().expect("a part");
    let files = (part(), [part(), part()], directory.clone());
    let place = (part(), part(), directory.clone());
    let both = (part(), directory);
    drop(parts);
    let threads = [
        spawn(move || with_files(files.0, files.1, files.2)),
        spawn(move || with_place(place.0, place.1, place.2)),
        spawn(move || {
            part_with(CloneFlags::CLONE_FILES | CloneFlags::CLONE_FS);
            chdir(&both.1.join("elsewhere")).expect("chdir");
            close(0).expect("close standard input");
            both.0.play();
        }),
    ];
    let all = || -> Vec<Has> {
        let mut all: Vec<(usize, Has)> = (0..THREADS)
            .filter_map(|_| heard.recv_timeout(PATIENCE).ok())
            .collect();
        all.sort_by_key(|(number, _)| *number);
        let has = all.into_iter().map(|(_, has)| has);
        has.chain([self::has()]).collect()
    };
    let before = all();
    let tids: Vec<i32> = before.iter().map(|has| has.tid).collect();
    // Where we may ask (kcmp(2)).
    let shared = || -> Vec<_> {
        let pairs = tids
            .iter()
            .flat_map(|one| tids.iter().map(move |other| (one, other)));
        let same = |kind: Kind, (one, other): (&i32, &i32)| {
            kind.order(*one, *other).ok().map(|order| order.is_eq())
        };
        pairs
            .map(|pair| [Kind::Table, Kind::Fs].map(|kind| same(kind, pair)))
            .collect()
    };
    let sharing = shared();
    stage.wait();
    stage.same("who shares what", sharing, shared());
    for tell in &tell {
        tell.send(()).expect("tell");
    }
    stage.same("what each has", before, all());
    for tell in &tell {
        tell.send(()).expect("tell");
    }
    for thread in threads {
        stage.holds("a thread finds its own", thread.join().is_ok());
    }
    stage.holds("our umask is ours", !has().umask.ends_with("0031"));
    stage.leave()
}
