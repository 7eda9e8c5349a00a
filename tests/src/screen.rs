//! Somebody at a terminal: a command on a pseudoterminal of the test's, typed into and read.

use crate::{Host, LONG};
use kernel::tty::{self, Window};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// A command whose controlling terminal is ours.
#[derive(Debug)]
pub struct Screen {
    master: OwnedFd,
    child: Child,
    /// What was written, and not waited for yet.
    seen: String,
}

impl Screen {
    /// Starts a line of bash in a host, on a terminal of 24 by 80.
    pub fn new(host: &Host, line: &str) -> Self {
        let pair = nix::pty::openpty(None, None).expect("a terminal");
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("do not wait");
        let twin = || pair.slave.try_clone().expect("its slave");
        let mut command = host.command("setsid");
        // Descriptors that the test itself was started with are not the command's.
        let close = "for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -lt 3 ] || eval \"exec $fd>&-\"; done";
        let line = format!("{close}; {line}");
        command.args(["--ctty", "--wait", "bash", "-c", &line]);
        command.stdin(twin()).stdout(twin()).stderr(twin());
        let mut screen = Screen {
            master: pair.master,
            child: command.spawn().expect("setsid"),
            seen: String::new(),
        };
        screen.is_resized(24, 80);
        screen
    }

    /// The window becomes another size.
    pub fn is_resized(&mut self, rows: u16, columns: u16) {
        let window = Window {
            rows,
            columns,
            ..Window::default()
        };
        tty::set_window(self.master.as_fd(), &window).expect("set the size");
    }

    /// Types.
    pub fn types(&mut self, text: &str) {
        tty::put(self.master.as_fd(), text.as_bytes()).expect("type");
    }

    /// Waits until `text` is written after what was waited for before; gives what came up to it.
    #[track_caller]
    pub fn shows(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            match tty::take(self.master.as_fd()).expect("read the terminal") {
                Some(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                None => std::thread::sleep(Duration::from_millis(10)),
            }
            assert!(
                start.elapsed() < LONG,
                "waited in vain for {text:?}, saw {:?}",
                self.seen
            );
        }
    }

    /// Waits for the end of the command.
    #[track_caller]
    pub fn ends(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            // Who writes to a terminal that nobody reads waits.
            let _ = tty::take(self.master.as_fd());
            if let Some(status) = self.child.try_wait().expect("wait for the command") {
                return status;
            }
            assert!(start.elapsed() < LONG, "the command does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
