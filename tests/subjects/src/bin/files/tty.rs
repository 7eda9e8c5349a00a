//! A terminal with both sides in the tree: a session on it, whose job in the foreground waits for the rest of a line, and
//! one that hung up with something unread.
#![forbid(unsafe_code)]

use kernel::own::{self, child};
use kernel::tty::{self, Window};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, setpgid, setsid, tcgetpgrp, tcsetpgrp};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use subject::Stage;

fn pair() -> (OwnedFd, PathBuf) {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let master = options.custom_flags(libc::O_NOCTTY).open("/dev/ptmx");
    let master = OwnedFd::from(master.expect("open /dev/ptmx"));
    tty::lock(master.as_fd(), false).expect("unlock");
    let index = tty::index(master.as_fd()).expect("its number");
    (master, format!("/dev/pts/{index}").into())
}

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).custom_flags(flags);
    options.open(path).expect("open a slave")
}

/// The leader of a session on the terminal: its first open file is what makes it so.
fn shell(path: &Path) -> i32 {
    setsid().expect("setsid");
    let mut terminal = open(path, 0);
    let job = child::fork(|| job(path)).expect("fork the job");
    let job = Pid::from_raw(job);
    let _ = setpgid(job, job);
    tcsetpgrp(&terminal, job).expect("bring the job to the foreground");
    let ended = waitpid(job, None).expect("wait for the job");
    // From the background, as a shell does it.
    SigSet::from(Signal::SIGTTOU)
        .thread_block()
        .expect("block SIGTTOU");
    tcsetpgrp(&terminal, getpid()).expect("come to the foreground");
    let words = match ended {
        WaitStatus::Exited(_, status) => format!("ended with {status}"),
        other => format!("{other:?}"),
    };
    terminal
        .write_all(words.as_bytes())
        .expect("say how it ended");
    0
}

fn job(path: &Path) -> i32 {
    // It may be ignored: we were started in the background.
    own::signal::count(libc::SIGINT, 0).expect("handle SIGINT");
    let me = getpid();
    let _ = setpgid(me, me);
    let mut terminal = open(Path::new("/dev/tty"), 0);
    let slave = open(path, libc::O_NOCTTY);
    while tcgetpgrp(&slave) != Ok(me) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut line = [0; 64];
    let count = terminal.read(&mut line).expect("read a line");
    terminal.write_all(&line[..count]).expect("repeat it");
    while own::signal::counted(libc::SIGINT) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    7
}

/// Reads from a master until `wanted` has come.
fn hears(master: &OwnedFd, wanted: &str) -> String {
    let mut heard = String::new();
    let start = Instant::now();
    while !heard.contains(wanted) && start.elapsed() < Duration::from_secs(10) {
        match tty::take(master.as_fd()).expect("read the master") {
            Some(bytes) => heard += &String::from_utf8_lossy(&bytes),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    heard
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let (master, path) = pair();
    let side = master.as_fd();
    let window = Window {
        rows: 24,
        columns: 97,
        ..Window::default()
    };
    tty::set_window(side, &window).expect("set the size");
    let mut settings = tty::termios(side).expect("settings");
    settings.local &= !libc::ECHO;
    settings.characters[libc::VINTR] = 0x18;
    tty::set_termios(side, &settings).expect("set settings");
    let leader = child::fork(|| shell(&path)).expect("fork the shell");
    tty::put(side, b"half a ").expect("type");
    let slave = open(&path, libc::O_NOCTTY);
    tty::put(slave.as_fd(), b"on the screen").expect("write");

    let (lost, lost_path) = pair();
    let mut gone = open(&lost_path, libc::O_NOCTTY);
    gone.write_all(b"last words").expect("write");
    drop(gone);

    // The job has come to the foreground, and waits for its line.
    while tcgetpgrp(&master).is_ok_and(|group| group.as_raw() == leader || group.as_raw() == 0) {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(100));

    stage.wait();

    stage.same("the size", window, tty::window(side).expect("size"));
    stage.same(
        "the settings",
        settings,
        tty::termios(side).expect("settings"),
    );
    stage.same(
        "the session",
        Ok(Some(leader)),
        tty::session(side).map_err(drop),
    );
    stage.same(
        "what was written",
        "on the screen".to_owned(),
        hears(&master, "screen"),
    );
    tty::put(side, b"line\n").expect("type");
    stage.same(
        "the line",
        "half a line\r\n".to_owned(),
        hears(&master, "\n"),
    );
    tty::put(side, b"\x18").expect("interrupt");
    stage.same("the job", "ended with 7".to_owned(), hears(&master, "7"));
    let shell = waitpid(Pid::from_raw(leader), None);
    stage.same(
        "the shell",
        Ok(WaitStatus::Exited(Pid::from_raw(leader), 0)),
        shell,
    );
    stage.holds(
        "the other hung up",
        tty::ready(lost.as_fd()).is_ok_and(|r| r.hung_up),
    );
    stage.same(
        "its last words",
        "last words".to_owned(),
        hears(&lost, "words"),
    );
    stage.leave()
}
