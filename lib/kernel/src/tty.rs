//! Terminals (tty_ioctl(4), pty(7)): what both sides of a pseudoterminal answer, and what is typed into it.

use crate::error::{Named, check};
use crate::remote::Call;
use crate::{Error, Pid, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Magic number of the file system of slaves (include/uapi/linux/magic.h).
pub const DEVPTS: i64 = 0x1cd1;
/// Device number of `/dev/ptmx`: whoever opens it is master of a new pair.
pub const PTMX: (u32, u32) = (5, 2);
/// Device number of `/dev/tty`: the controlling terminal of whoever opens it.
pub const CONTROLLING: (u32, u32) = (5, 0);
/// Major numbers of slaves (Documentation/admin-guide/devices.txt).
pub const SLAVES: std::ops::RangeInclusive<u32> = 136..=143;

/// `struct termios2` (include/uapi/asm-generic/termbits.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Termios {
    /// `c_iflag`.
    pub input: u32,
    /// `c_oflag`.
    pub output: u32,
    /// `c_cflag`.
    pub control: u32,
    /// `c_lflag`.
    pub local: u32,
    /// `c_line`: line discipline.
    pub line: u8,
    /// `c_cc`.
    pub characters: [u8; 19],
    /// `c_ispeed`, bits a second.
    pub input_speed: u32,
    /// `c_ospeed`.
    pub output_speed: u32,
}

/// `struct winsize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Window {
    /// Characters in a column.
    pub rows: u16,
    /// Characters in a row.
    pub columns: u16,
    /// Pixels across.
    pub width: u16,
    /// Pixels down.
    pub height: u16,
}

fn get<T: Copy>(fd: BorrowedFd, request: libc::Ioctl, mut value: T, what: &str) -> Result<T> {
    // SAFETY: only requests that fill a T come here, and it outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) };
    check(result.into(), || format!("{what} of a terminal"))?;
    Ok(value)
}

fn set<T>(fd: BorrowedFd, request: libc::Ioctl, value: &T, what: &str) -> Result<()> {
    // SAFETY: only requests that read a T come here, and it outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_ref(value)) };
    check(result.into(), || format!("{what} of a terminal"))?;
    Ok(())
}

fn flag(fd: BorrowedFd, request: libc::Ioctl, what: &str) -> Result<bool> {
    Ok(get(fd, request, 0i32, what)? != 0)
}

/// Settings, of the slave by either side.
pub fn termios(fd: BorrowedFd) -> Result<Termios> {
    let none = Termios {
        input: 0,
        output: 0,
        control: 0,
        local: 0,
        line: 0,
        characters: [0; 19],
        input_speed: 0,
        output_speed: 0,
    };
    get(fd, libc::TCGETS2, none, "get the settings")
}

/// Sets them at once; what was typed stays.
pub fn set_termios(fd: BorrowedFd, termios: &Termios) -> Result<()> {
    set(fd, libc::TCSETS2, termios, "set the settings")
}

impl Termios {
    /// Whether input is read by the line.
    pub fn is_canonical(&self) -> bool {
        self.local & libc::ICANON != 0
    }

    /// The same, but bytes go through unchanged, unseen and unanswered, both ways. By line or not stays as it is: a
    /// change of that forgets where lines end. No character does anything but `end`, which ends a line and is no part
    /// of it, and `line`, which is its last.
    pub fn quiet(&self, end: u8, line: u8) -> Termios {
        let mut characters = [0; 19];
        characters[libc::VMIN] = 1;
        if self.is_canonical() {
            characters[libc::VEOF] = end;
            characters[libc::VEOL] = line;
        }
        Termios {
            input: libc::IGNBRK,
            output: 0,
            control: libc::CS8 | libc::CREAD | (self.control & libc::CBAUD),
            local: self.local & libc::ICANON,
            characters,
            ..*self
        }
    }

    /// The same, but read byte by byte: what is left of a line that has not ended can be read.
    pub fn raw(&self) -> Termios {
        Termios {
            local: self.local & !libc::ICANON,
            ..*self
        }
        .quiet(0, 0)
    }
}

/// The window's size.
pub fn window(fd: BorrowedFd) -> Result<Window> {
    let none = Window::default();
    get(fd, libc::TIOCGWINSZ, none, "get the window size")
}

/// Sets it; the foreground group hears of a change by SIGWINCH.
pub fn set_window(fd: BorrowedFd, window: &Window) -> Result<()> {
    set(fd, libc::TIOCSWINSZ, window, "set the window size")
}

/// The number of a master's pair.
pub fn index(master: BorrowedFd) -> Result<u32> {
    get(master, libc::TIOCGPTN, 0u32, "get the number")
}

/// Whether the slave cannot be opened yet (unlockpt(3)).
pub fn is_locked(master: BorrowedFd) -> Result<bool> {
    flag(master, libc::TIOCGPTLCK, "get the lock")
}

/// Locks or unlocks the slave.
pub fn lock(master: BorrowedFd, locked: bool) -> Result<()> {
    set(master, libc::TIOCSPTLCK, &i32::from(locked), "set the lock")
}

/// Whether a master reads packets (`TIOCPKT`).
pub fn has_packets(master: BorrowedFd) -> Result<bool> {
    flag(master, libc::TIOCGPKT, "get the packet mode")
}

/// Sets the packet mode.
pub fn set_packets(master: BorrowedFd, packets: bool) -> Result<()> {
    let packets = i32::from(packets);
    set(master, libc::TIOCPKT, &packets, "set the packet mode")
}

/// Whether this side may not be opened once more (`TIOCEXCL`).
pub fn is_exclusive(fd: BorrowedFd) -> Result<bool> {
    flag(fd, libc::TIOCGEXCL, "get the exclusive mode")
}

/// Lets nobody open it once more.
pub fn set_exclusive(fd: BorrowedFd) -> Result<()> {
    set(fd, libc::TIOCEXCL, &0, "set the exclusive mode")
}

/// The device number of the terminal behind a descriptor, also where that was opened as `/dev/tty`.
pub fn device(fd: BorrowedFd) -> Result<(u32, u32)> {
    let number: u32 = get(fd, libc::TIOCGDEV, 0, "get the device")?;
    Ok(decode(number))
}

/// A device number as the kernel gives it to programs (`new_encode_dev`, include/linux/kdev_t.h).
pub fn decode(number: u32) -> (u32, u32) {
    (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00)
}

/// The session a master's pair controls, by our pid of its leader.
pub fn session(master: BorrowedFd) -> Result<Option<Pid>> {
    let found: Result<Pid> = get(master, libc::TIOCGSID, 0, "get the session");
    match found {
        Ok(0) => Ok(None),
        Ok(pid) => Ok(Some(pid)),
        Err(e) if e.raw() == Some(libc::ENOTTY) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens the slave of a master, whatever its path and wherever it is mounted (`TIOCGPTPEER`).
pub fn peer(master: BorrowedFd, flags: i32) -> Result<OwnedFd> {
    // O_CLOEXEC comes after: here it would be kept among the status flags.
    let flags = flags & !libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: the argument is a number; a result that is not negative is a new descriptor.
    let slave = unsafe {
        let raw = libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags);
        let raw = check(raw.into(), || "open the slave of a terminal".into())?;
        OwnedFd::from_raw_fd(raw as i32)
    };
    let close = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(&slave, close).named(|| "set close-on-exec".into())?;
    Ok(slave)
}

/// Types one byte: as if the master had written it, but done when the call is.
pub fn type_in(slave: BorrowedFd, byte: u8) -> Result<()> {
    set(slave, libc::TIOCSTI, &byte, "type into the input")
}

/// Holds output back (`tcflow(3)`, `TCOOFF`).
pub fn stop(slave: BorrowedFd) -> Result<()> {
    // SAFETY: the argument is a number.
    let result = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TCXONC, libc::TCOOFF) };
    check(result.into(), || "stop the output of a terminal".into())?;
    Ok(())
}

/// What can be done with a side without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// There is something to read: in canonical mode a line or an end of file.
    pub readable: bool,
    /// There is room.
    pub writable: bool,
    /// The other side is closed; a master's pair may be opened again.
    pub hung_up: bool,
    /// A slave whose master is closed.
    pub dead: bool,
}

/// Asks; bytes on their way have arrived then (`n_tty_poll` waits for them).
pub fn ready(fd: BorrowedFd) -> Result<Ready> {
    let mut asked = [PollFd::new(fd, PollFlags::POLLIN | PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO).named(|| "poll a terminal".into())?;
    let found = asked[0].revents().unwrap_or(PollFlags::empty());
    let hung_up = found.contains(PollFlags::POLLHUP);
    Ok(Ready {
        readable: found.contains(PollFlags::POLLIN),
        writable: found.contains(PollFlags::POLLOUT),
        hung_up,
        dead: hung_up && found.contains(PollFlags::POLLERR),
    })
}

/// One read(2) of what is there: `None` where nothing is.
pub fn take(fd: BorrowedFd) -> Result<Option<Vec<u8>>> {
    if !ready(fd)?.readable {
        return Ok(None);
    }
    let mut bytes = vec![0; 4096];
    loop {
        match nix::unistd::read(fd, &mut bytes) {
            Ok(count) => {
                bytes.truncate(count);
                return Ok(Some(bytes));
            }
            Err(nix::errno::Errno::EINTR) => (),
            // A master whose slave was closed, when all was read.
            Err(nix::errno::Errno::EIO | nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(e) => return Err(Error::errno("read a terminal", e as i32)),
        }
    }
}

/// Writes all of it, into a side that does not block; waits as long as there is progress.
pub fn put(fd: BorrowedFd, mut bytes: &[u8]) -> Result<()> {
    const PATIENCE: u16 = 1000;
    while !bytes.is_empty() {
        let mut asked = [PollFd::new(fd, PollFlags::POLLOUT)];
        let count = poll(&mut asked, PATIENCE).named(|| "poll a terminal".into())?;
        let room = asked[0].revents().unwrap_or(PollFlags::empty());
        if count == 0 || !room.contains(PollFlags::POLLOUT) {
            let what = format!("no room for {} bytes", bytes.len());
            return Err(Error::unreadable("write to a terminal", what));
        }
        match nix::unistd::write(fd, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => (),
            Err(e) => return Err(Error::errno("write to a terminal", e as i32)),
        }
    }
    Ok(())
}

/// `TIOCSCTTY`: the terminal becomes that of the caller's session, which the caller leads.
pub fn take_control(fd: i32) -> Call {
    Call::new(libc::SYS_ioctl, &[fd as u64, libc::TIOCSCTTY, 0])
}

/// `TIOCNOTTY`: the caller, who leads no session, has no controlling terminal any more.
pub fn give_up_control(fd: i32) -> Call {
    Call::new(libc::SYS_ioctl, &[fd as u64, libc::TIOCNOTTY])
}

/// `TIOCSPGRP`: the group whose number lies at `address` comes to the foreground.
pub fn to_foreground(fd: i32, address: u64) -> Call {
    Call::new(libc::SYS_ioctl, &[fd as u64, libc::TIOCSPGRP, address])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        let path = std::path::Path::new("/dev/ptmx");
        let host = crate::open::Root::at("/".as_ref()).unwrap();
        let master = host.open(path, libc::O_RDWR | libc::O_NOCTTY).unwrap();
        lock(master.as_fd(), false).unwrap();
        let slave = peer(master.as_fd(), libc::O_RDWR | libc::O_NONBLOCK).unwrap();
        (master, slave)
    }

    #[test]
    fn settings_are_the_same_from_both_sides() {
        let (master, slave) = pair();
        let mut wanted = termios(slave.as_fd()).unwrap();
        assert!(wanted.is_canonical());
        wanted.local &= !libc::ECHO;
        wanted.characters[libc::VINTR] = 7;
        set_termios(slave.as_fd(), &wanted).unwrap();
        assert_eq!(termios(master.as_fd()).unwrap(), wanted);
        let size = Window {
            rows: 50,
            columns: 132,
            ..Window::default()
        };
        set_window(master.as_fd(), &size).unwrap();
        assert_eq!(window(slave.as_fd()).unwrap(), size);
        let number = index(master.as_fd()).unwrap();
        assert_eq!(device(slave.as_fd()).unwrap(), (136, number));
        assert_eq!(session(master.as_fd()).unwrap(), None);
    }

    #[test]
    fn what_is_typed_is_there_at_once_by_the_line() {
        let (_master, slave) = pair();
        let was = termios(slave.as_fd()).unwrap();
        set_termios(slave.as_fd(), &was.quiet(4, 0)).unwrap();
        for byte in b"one\n\x03two\x04th" {
            type_in(slave.as_fd(), *byte).unwrap();
        }
        assert_eq!(take(slave.as_fd()).unwrap().unwrap(), b"one\n");
        assert_eq!(take(slave.as_fd()).unwrap().unwrap(), b"\x03two");
        assert_eq!(take(slave.as_fd()).unwrap(), None);
        set_termios(slave.as_fd(), &was.raw()).unwrap();
        assert_eq!(take(slave.as_fd()).unwrap().unwrap(), b"th");
    }

    #[test]
    fn the_other_side_is_seen_to_be_closed() {
        let (master, slave) = pair();
        assert!(!ready(master.as_fd()).unwrap().hung_up);
        put(slave.as_fd(), b"last words").unwrap();
        drop(slave);
        assert!(ready(master.as_fd()).unwrap().hung_up);
        assert_eq!(take(master.as_fd()).unwrap().unwrap(), b"last words");
        assert_eq!(take(master.as_fd()).unwrap(), None);
        let slave = peer(master.as_fd(), libc::O_RDWR).unwrap();
        drop(master);
        assert!(ready(slave.as_fd()).unwrap().dead);
    }

    #[test]
    fn device_numbers_are_read_as_the_kernel_writes_them() {
        assert_eq!(decode(0x8803), (136, 3));
        assert_eq!(decode(0x0010_8801), (136, 257));
    }
}
