//! Terminals of live processes: taken, and given back to a tree grown for them.

mod contained;

use contained::{Contained, cross};
use image::ids::Pid;
use image::sockets::tcp::Connections;
use kernel::pidfd::PidFd;
use resources::files;
use std::io::Read;
use std::os::fd::AsFd;

/// The controlling terminal and its foreground group, as the kernel shows them; the group by its pid inside.
fn control(pid: i32) -> (Option<(u32, u32)>, Pid) {
    let stat = kernel::proc::stat::read(pid).unwrap();
    let inside = kernel::proc::status::read(stat.foreground())
        .and_then(|status| status.numbers("NSpid"))
        .map_or(0, |pids| *pids.last().unwrap() as Pid);
    (stat.terminal(), inside)
}

#[test]
fn terminals_keep_number_settings_and_what_was_typed_and_written() {
    let (_dir, source, restored) = cross(
        "import pty, termios, tty\n\
         spare = os.openpty(); m, s = os.openpty(); [os.close(fd) for fd in spare]\n\
         a = termios.tcgetattr(s); a[6][termios.VINTR] = b'\\x07'; termios.tcsetattr(s, 0, a)\n\
         fcntl.ioctl(m, termios.TIOCSWINSZ, struct.pack('HHHH', 50, 132, 0, 0))\n\
         os.write(m, b'one\\ntwo\\x04\\x04half'); os.write(s, b'written'); os.dup2(m, 20); os.dup2(s, 21)\n\
         os.open(os.ttyname(s), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)\n\
         M, S = os.openpty(); tty.setraw(S); fcntl.ioctl(M, termios.TIOCPKT, struct.pack('i', 1))\n\
         os.write(M, b'\\x03raw'); os.write(S, b'x' * 3000); fcntl.ioctl(S, termios.TIOCEXCL); os.dup2(M, 30); os.dup2(S, 31)\n\
         h, H = os.openpty(); os.write(H, b'last words'); os.close(H); os.dup2(h, 40)\n\
         d, D = os.openpty(); os.close(d); os.dup2(D, 41)\n\
         n = os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY); os.dup2(n, 42)\n\
         z, Z = os.openpty(); tty.setraw(Z); a = termios.tcgetattr(Z); a[0] |= termios.IXON; termios.tcsetattr(Z, 0, a)\n\
         os.write(Z, b'before'); os.write(z, b'\\x13'); select.select([Z], [], [], 0.1); os.dup2(z, 50); os.dup2(Z, 51)",
    );
    use kernel::tty;
    let root = source.pids()[&1];
    let of_source = |number| PidFd::open(root).unwrap().borrow(number).unwrap();
    let of_restored = |number| std::os::fd::OwnedFd::from(restored.borrow(1, number));
    // The source goes on with all it had, and what was restored has the same.
    for borrow in [
        &of_source as &dyn Fn(i32) -> std::os::fd::OwnedFd,
        &of_restored,
    ] {
        let take = |number| tty::take(borrow(number).as_fd()).unwrap();
        assert_eq!(take(21).unwrap(), b"one\n");
        assert_eq!(take(21).unwrap(), b"two");
        assert_eq!(take(21).unwrap(), b"");
        assert_eq!(take(21), None);
        tty::put(borrow(20).as_fd(), b"way\n").unwrap();
        assert_eq!(take(21).unwrap(), b"halfway\n");
        let seen = String::from_utf8(take(20).unwrap()).unwrap();
        assert!(
            seen.contains("one\r\ntwo") && seen.contains("written"),
            "{seen:?}"
        );
        let master = borrow(20);
        assert_eq!(tty::window(master.as_fd()).unwrap().columns, 132);
        let termios = tty::termios(master.as_fd()).unwrap();
        assert_eq!(termios.characters[0], 7);
        assert!(termios.is_canonical());

        assert_eq!(take(31).unwrap(), b"\x03raw");
        let packet = take(30).unwrap();
        assert_eq!((packet[0], packet.len()), (0, 3001));
        assert!(tty::is_exclusive(borrow(31).as_fd()).unwrap());

        assert!(tty::ready(borrow(40).as_fd()).unwrap().hung_up);
        assert_eq!(take(40).unwrap(), b"last words");
        assert_eq!(take(40), None);
        assert!(tty::ready(borrow(41).as_fd()).unwrap().dead);
        let fresh = borrow(42);
        assert!(tty::is_locked(fresh.as_fd()).unwrap());
        assert!(!tty::ready(fresh.as_fd()).unwrap().hung_up);

        assert_eq!(take(50).unwrap(), b"before");
        assert!(!tty::ready(borrow(51).as_fd()).unwrap().writable);
        tty::put(borrow(50).as_fd(), b"\x11").unwrap();
        for _ in 0..100 {
            if tty::ready(borrow(51).as_fd()).unwrap().writable {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        tty::put(borrow(51).as_fd(), b"after").unwrap();
        assert_eq!(take(50).unwrap(), b"after");
    }
}

#[test]
fn terminals_control_the_sessions_they_controlled() {
    let (_dir, source, restored) = cross(
        "import termios, signal\n\
         m, s = os.openpty(); os.set_inheritable(s, True); r, w = os.pipe()\n\
         if os.fork() == 0:\n\
         \x20 os.close(m); os.setsid(); fcntl.ioctl(s, termios.TIOCSCTTY, 0); signal.signal(signal.SIGTTOU, signal.SIG_IGN)\n\
         \x20 job = os.fork()\n\
         \x20 if job == 0: os.setpgid(0, 0); os.close(s); t = os.open('/dev/tty', os.O_RDWR); os.dup2(t, 60); os.close(t); os.write(w, b'j'); rest()\n\
         \x20 os.read(r, 1); os.tcsetpgrp(s, job); os.write(w, b'l'); os.close(s)\n\
         \x20 rest()\n\
         os.close(s); time.sleep(0.3); os.dup2(m, 20); os.read(r, 1)",
    );
    let (before, after): (Vec<_>, Vec<_>) = source
        .pids()
        .iter()
        .map(|(inside, pid)| {
            (
                control(*pid),
                control(restored.target.processes[inside].pid),
            )
        })
        .unzip();
    assert_eq!(before, after);
    assert_eq!(
        before
            .iter()
            .filter(|(terminal, _)| terminal.is_some())
            .count(),
        2
    );
    // What the job opened as /dev/tty is that terminal.
    let job = *source.pids().keys().max().unwrap();
    let mut terminal = restored.borrow(job, 60);
    std::io::Write::write_all(&mut terminal, b"hello").unwrap();
    let mut seen = [0; 5];
    restored.borrow(1, 20).read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello");
}

#[test]
fn a_terminal_from_outside_that_is_nobodys_standard_stream_is_refused() {
    let (master, slave) = {
        let pair = nix::pty::openpty(None, None).unwrap();
        (pair.master, pair.slave)
    };
    let directory = tempfile::tempdir().unwrap();
    let path = kernel::proc::name_of(slave.as_fd()).unwrap();
    let code = format!("os.open('{}', os.O_RDWR | os.O_NOCTTY)", path.display());
    let source = Contained::python(&code, directory.path());
    let found = files::blockers(&[source.root], Connections::None).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].what.contains("outside"), "{found:?}");
    drop(master);
}
