//! Many tasks: `crowd wide|deep|threads COUNT DIRECTORY` has COUNT processes below one parent, each below the one before,
//! or COUNT threads; `crowd call DIRECTORY COUNT` asks them all whether they are what they were, and prints how many
//! answered so. `scripts/bench` measures it, `tests/many.rs` counts its answers.
//!
//! All wait for a byte from one fifo, then from the other: who has taken one cannot take another's.
#![forbid(unsafe_code)]

use kernel::own::child::fork;
use nix::unistd::{getpid, getppid, gettid};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The fifos, and the file of answers.
struct Place {
    bells: [File; 2],
    answers: File,
}

impl Place {
    fn open(directory: &Path) -> Place {
        // Both ends, so that neither opening nor reading depends on who else is there.
        let both = |name| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(directory.join(name))
        };
        Place {
            bells: ["bell0", "bell1"].map(|name| both(name).expect("open a fifo")),
            answers: OpenOptions::new()
                .append(true)
                .open(directory.join("answers"))
                .expect("open the answers"),
        }
    }

    /// What task `number` does: it says `ready`, then waits to be asked, again and again.
    fn attend(&self, number: usize, depth: Option<i32>) -> i32 {
        let me = || (number, getpid(), gettid(), depth.map(|_| getppid()));
        let was = me();
        let own = vec![number as u8; 3 * 4096];
        self.say(&format!("{number} ready\n"));
        for bell in self.bells.iter().cycle() {
            if (&*bell).read_exact(&mut [0]).is_err() {
                self.say(&format!("{number} heard nothing\n"));
                return 1;
            }
            let whole = me() == was && own.iter().all(|byte| *byte == number as u8);
            self.say(&format!(
                "{number} {}\n",
                if whole { "right" } else { "wrong" }
            ));
        }
        0
    }

    fn say(&self, line: &str) {
        (&self.answers).write_all(line.as_bytes()).expect("answer");
    }
}

fn make(directory: &Path) {
    for name in ["bell0", "bell1"] {
        let path = directory.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600))
            .expect("mkfifo");
    }
    File::create(directory.join("answers")).expect("make the file of answers");
    std::fs::write(directory.join("asked"), "0").expect("write how often");
}

fn wide(place: &Place, count: usize) -> i32 {
    for number in 1..count {
        fork(|| place.attend(number, Some(0))).expect("fork");
    }
    place.attend(0, None)
}

/// Each is a program of its own: forks alone would stand deeper and deeper on one stack.
fn deep(directory: &Path, count: usize, number: usize) -> i32 {
    let place = Place::open(directory);
    let mut child = None;
    if number + 1 < count {
        let next = (number + 1).to_string();
        let mut below = Command::new(std::env::current_exe().expect("our own name"));
        below
            .args(["below", &count.to_string()])
            .arg(directory)
            .arg(next);
        child = Some(below.spawn().expect("spawn"));
    }
    let code = place.attend(number, (number > 0).then_some(0));
    child.map(|mut child| child.wait());
    code
}

fn threads(place: Place, count: usize) -> i32 {
    let place = Arc::new(place);
    for number in 1..count {
        let place = place.clone();
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || place.attend(number, None))
            .expect("spawn");
    }
    place.attend(0, None)
}

/// Rings the bell whose turn it is, and counts the answers.
fn call(directory: &Path, count: usize) -> usize {
    let place = Place::open(directory);
    let at = directory.join("asked");
    let asked: usize = std::fs::read_to_string(&at)
        .expect("read how often")
        .parse()
        .expect("a number");
    std::fs::write(&at, (asked + 1).to_string()).expect("write how often");
    let answers = directory.join("answers");
    if asked == 0 {
        lines(&answers, count);
    }
    place.answers.set_len(0).expect("forget the answers");
    let bell = &place.bells[asked % 2];
    (&*bell).write_all(&vec![b'.'; count]).expect("ring");
    let text = lines(&answers, count);
    let mut right: Vec<&str> = text
        .lines()
        .filter(|line| line.ends_with(" right"))
        .collect();
    right.sort_unstable();
    right.dedup();
    right.len()
}

/// The file, once it has that many lines, or after a minute.
fn lines(file: &Path, count: usize) -> String {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let text = std::fs::read_to_string(file).expect("read the answers");
        if text.lines().count() >= count || Instant::now() > end {
            return text;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.parse::<usize>().expect("a count");
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["call", directory, _] => println!("{}", call(Path::new(directory), number(&words[2]))),
        ["below", _, directory, _] => std::process::exit(deep(
            Path::new(directory),
            number(&words[1]),
            number(&words[3]),
        )),
        [kind, _, directory] => {
            let (directory, count) = (Path::new(directory), number(&words[1]));
            make(directory);
            let place = Place::open(directory);
            std::process::exit(match kind {
                "wide" => wide(&place, count),
                "deep" => deep(directory, count, 0),
                "threads" => threads(place, count),
                _ => panic!("wide, deep or threads, not {kind}"),
            });
        }
        _ => {
            panic!("usage: crowd wide|deep|threads COUNT DIRECTORY, or crowd call DIRECTORY COUNT")
        }
    }
}
