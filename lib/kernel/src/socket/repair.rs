//! A TCP connection taken apart and put together (`TCP_REPAIR`: include/uapi/linux/tcp.h, net/ipv4/tcp.c). While it is in
//! repair, a socket sends nothing, and it closes without a word; only [`resume`] sends a probe when the repair ends.

use super::urgent::{self, Mark};
use super::{IPPROTO_TCP, SOL_SOCKET, number, option, peek_tcp, send, set_number, set_option};
use crate::{Error, Result};
use std::os::fd::BorrowedFd;

const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;
const TCP_INFO: i32 = 11;
const TCP_MAXSEG: i32 = 2;
const OFF_WITHOUT_PROBE: i32 = -1;
/// What is put into a queue at once: one segment's memory at most.
const PIECE: usize = 32 << 10;

/// Which of the two queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Received, not yet read.
    Receive = 1,
    /// Sent or to be sent, not yet acknowledged.
    Send = 2,
}

/// What `TCP_INFO` says that we need (`struct tcp_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// `TCP_ESTABLISHED` (1) and so on.
    pub state: u8,
    /// `TCPI_OPT_TIMESTAMPS`.
    pub timestamps: bool,
    /// `TCPI_OPT_SACK`.
    pub sack: bool,
    /// Send and receive scale, where `TCPI_OPT_WSCALE`.
    pub scales: Option<(u8, u8)>,
    /// Segments not acknowledged; for a listening socket, connections not accepted.
    pub unacked: u32,
    /// For a listening socket its backlog.
    pub sacked: u32,
}

/// Reads `TCP_INFO`.
pub fn tcp_info(fd: BorrowedFd) -> Result<TcpInfo> {
    let bytes = option(fd, IPPROTO_TCP, TCP_INFO, 32)?;
    parse_tcp_info(&bytes).ok_or_else(|| Error::unreadable("TCP_INFO", "it is cut short"))
}

fn parse_tcp_info(bytes: &[u8]) -> Option<TcpInfo> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (options, scales) = (*bytes.get(5)?, *bytes.get(6)?);
    Some(TcpInfo {
        state: *bytes.first()?,
        timestamps: options & 1 != 0,
        sack: options & 2 != 0,
        scales: (options & 4 != 0).then_some((scales & 15, scales >> 4)),
        unacked: word(24)?,
        sacked: word(28)?,
    })
}

fn whole(bytes: Vec<u8>, len: usize) -> Result<Vec<u8>> {
    match bytes.len() == len {
        true => Ok(bytes),
        false => Err(Error::unreadable(
            "a TCP queue",
            format!("{} of {len} bytes", bytes.len()),
        )),
    }
}

/// A socket in repair. It leaves repair when this is dropped, with its `SO_REUSEADDR` as it was, which the kernel forgets.
#[derive(Debug)]
pub struct Repair<'a> {
    fd: BorrowedFd<'a>,
    reuse: i32,
}

impl<'a> Repair<'a> {
    /// Puts the socket in repair.
    pub fn begin(fd: BorrowedFd<'a>) -> Result<Self> {
        let reuse = number(fd, SOL_SOCKET, libc::SO_REUSEADDR)?;
        set_number(fd, IPPROTO_TCP, TCP_REPAIR, 1)?;
        Ok(Repair {
            fd,
            reuse: reuse.min(1),
        })
    }

    fn choose(&self, queue: Option<Queue>) -> Result<()> {
        set_number(
            self.fd,
            IPPROTO_TCP,
            TCP_REPAIR_QUEUE,
            queue.map_or(0, |q| q as i32),
        )
    }

    /// Sequence number behind the last byte of the queue.
    pub fn sequence(&self, queue: Queue) -> Result<u32> {
        self.choose(Some(queue))?;
        number(self.fd, IPPROTO_TCP, TCP_QUEUE_SEQ).map(|n| n as u32)
    }

    /// Sets where a queue starts; before the connection is made.
    pub fn set_sequence(&self, queue: Queue, sequence: u32) -> Result<()> {
        self.choose(Some(queue))?;
        set_number(self.fd, IPPROTO_TCP, TCP_QUEUE_SEQ, sequence as i32)
    }

    /// The first `len` bytes of a queue.
    pub fn read(&self, queue: Queue, len: usize) -> Result<Vec<u8>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        self.choose(Some(queue))?;
        whole(peek_tcp(self.fd, len)?, len)
    }

    /// The first `len` bytes received, among them perhaps an urgent one.
    pub fn received(&self, len: usize, urgent: Option<Mark>) -> Result<Vec<u8>> {
        if urgent.is_none() {
            return self.read(Queue::Receive, len);
        }
        self.choose(Some(Queue::Receive))?;
        whole(urgent::peek(self.fd, len, urgent)?, len)
    }

    /// Puts bytes into a queue; those of the send queue count as sent.
    pub fn write(&self, queue: Queue, bytes: &[u8]) -> Result<()> {
        self.choose(Some(queue))?;
        for piece in bytes.chunks(PIECE) {
            send(self.fd, piece, None, &[], None)?;
        }
        self.choose(None)
    }

    /// Connects, to an end that takes segments as large as this: the kernel works out once, here, how much it sends in one
    /// (net/ipv4/tcp_output.c, `tcp_connect_init`).
    pub fn connect(&self, address: &[u8], mss: u32) -> Result<()> {
        const LARGEST: u32 = 32767;
        const SMALLEST: u32 = 88;
        let limit = mss.clamp(SMALLEST, LARGEST) as i32;
        set_number(self.fd, IPPROTO_TCP, TCP_MAXSEG, limit)?;
        super::connect(self.fd, address)?;
        set_number(self.fd, IPPROTO_TCP, TCP_MAXSEG, 0)
    }

    /// What both ends have agreed on: segment size, window scales, selective acknowledgement, timestamps.
    pub fn agree(
        &self,
        mss: u32,
        scales: Option<(u8, u8)>,
        sack: bool,
        timestamps: bool,
    ) -> Result<()> {
        // struct tcp_repair_opt: TCPOPT_MSS 2, TCPOPT_WINDOW 3, TCPOPT_SACK_PERM 4, TCPOPT_TIMESTAMP 8.
        let mut options = vec![(2, mss)];
        options
            .extend(scales.map(|(send, receive)| (3, u32::from(send) | u32::from(receive) << 16)));
        options.extend(sack.then_some((4, 0)));
        options.extend(timestamps.then_some((8, 0)));
        let bytes: Vec<u8> = options
            .iter()
            .flat_map(|(code, value): &(u32, u32)| {
                [code.to_ne_bytes(), value.to_ne_bytes()].concat()
            })
            .collect();
        set_option(self.fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, &bytes)
    }

    /// Our timestamp clock.
    pub fn timestamp(&self) -> Result<u32> {
        number(self.fd, IPPROTO_TCP, TCP_TIMESTAMP).map(|n| n as u32)
    }

    /// Sets our timestamp clock.
    pub fn set_timestamp(&self, clock: u32) -> Result<()> {
        set_number(self.fd, IPPROTO_TCP, TCP_TIMESTAMP, clock as i32)
    }

    /// The largest segment the other end takes.
    pub fn mss(&self) -> Result<u32> {
        number(self.fd, IPPROTO_TCP, TCP_MAXSEG).map(|n| n as u32)
    }

    /// `struct tcp_repair_window`: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup.
    pub fn window(&self) -> Result<[u32; 5]> {
        let bytes = option(self.fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, 20)?;
        let mut words = [0; 5];
        for (word, four) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(four.try_into().unwrap_or_default());
        }
        Ok(words)
    }

    /// Sets the windows.
    pub fn set_window(&self, window: [u32; 5]) -> Result<()> {
        let bytes: Vec<u8> = window.iter().flat_map(|w| w.to_ne_bytes()).collect();
        set_option(self.fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &bytes)
    }
}

impl Repair<'_> {
    /// The socket stays in repair: it sends nothing, and closes without a word, until [`resume`].
    pub fn stay(self) {
        std::mem::forget(self);
    }
}

/// Takes up the repair of a socket that [stayed](Repair::stay) in it.
pub fn again(fd: BorrowedFd<'_>, reuse: bool) -> Repair<'_> {
    Repair {
        fd,
        reuse: reuse.into(),
    }
}

/// Ends the repair of a socket that [stayed](Repair::stay) in it: the other end of an established connection is asked at
/// once how things stand.
pub fn resume(fd: BorrowedFd, reuse: bool) -> Result<()> {
    set_number(fd, IPPROTO_TCP, TCP_REPAIR, 0)?;
    set_number(fd, SOL_SOCKET, libc::SO_REUSEADDR, reuse.into())
}

impl Drop for Repair<'_> {
    fn drop(&mut self) {
        // Neither can fail on a socket that could be put in repair.
        let _ = set_number(self.fd, IPPROTO_TCP, TCP_REPAIR, OFF_WITHOUT_PROBE);
        let _ = set_number(self.fd, SOL_SOCKET, libc::SO_REUSEADDR, self.reuse);
    }
}

/// Keeps a connection deaf and dumb to the world outside: what it sends goes to the loopback interface, where nobody
/// else is, and a reset that comes back from there is not heard. Until [`Secluded::end`].
#[derive(Debug)]
pub struct Secluded<'a> {
    fd: BorrowedFd<'a>,
    mark: i32,
}

impl<'a> Secluded<'a> {
    /// Begins it.
    pub fn begin(fd: BorrowedFd<'a>) -> Result<Self> {
        // A packet that has the RST bit in its TCP flags (offset 13 of what a TCP socket's filter sees) is dropped.
        let instructions: [(u16, u8, u8, u32); 4] = [
            (0x30, 0, 0, 13),
            (0x45, 0, 1, 4),
            (6, 0, 0, 0),
            (6, 0, 0, u32::MAX),
        ];
        let program: Vec<u8> = instructions
            .iter()
            .flat_map(|(code, jt, jf, k)| {
                [&code.to_ne_bytes()[..], &[*jt, *jf], &k.to_ne_bytes()].concat()
            })
            .collect();
        super::attach_filter(fd, &program)?;
        let mark = number(fd, SOL_SOCKET, libc::SO_MARK)?;
        let secluded = Secluded { fd, mark };
        secluded.withdraw()?;
        Ok(secluded)
    }

    /// What is sent from now on goes nowhere again.
    pub fn withdraw(&self) -> Result<()> {
        set_option(self.fd, SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo")?;
        // A FIN that our own table drops (`crate::nftables`) has not been sent, and cannot be acknowledged.
        let passes = crate::nftables::PASSES as i32;
        set_number(self.fd, SOL_SOCKET, libc::SO_MARK, passes)
    }

    /// All is sent: what [we deliver](crate::socket::segment) is heard from now on. It comes by the interface that has our
    /// address, wherever it was sent from.
    pub fn listen(&self) -> Result<()> {
        set_number(self.fd, SOL_SOCKET, libc::SO_MARK, self.mark)?;
        set_option(self.fd, SOL_SOCKET, libc::SO_BINDTODEVICE, b"")
    }

    /// Ends it.
    pub fn end(self) -> Result<()> {
        set_option(self.fd, SOL_SOCKET, libc::SO_DETACH_FILTER, &[0; 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn a_captured_tcp_info_reads_as_it_was() {
        let mut bytes = vec![0; 32];
        (bytes[0], bytes[5], bytes[6]) = (1, 7, 0xa7);
        bytes[24] = 3;
        bytes[28] = 128;
        let read = parse_tcp_info(&bytes).unwrap();
        assert_eq!(
            (read.state, read.scales, read.unacked, read.sacked),
            (1, Some((7, 10)), 3, 128)
        );
        assert!(read.timestamps && read.sack);
        assert_eq!(parse_tcp_info(&bytes[..31]), None);
    }

    #[test]
    fn a_connection_looked_at_goes_on_undisturbed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let reuse = number(server.as_fd(), SOL_SOCKET, libc::SO_REUSEADDR).unwrap();
        {
            let repair = Repair::begin(server.as_fd()).unwrap();
            assert_eq!(repair.read(Queue::Receive, 5).unwrap(), b"hello");
            assert!(repair.mss().unwrap() > 500);
            let end = repair.sequence(Queue::Receive).unwrap();
            assert!(repair.window().unwrap()[4].wrapping_sub(end) as i32 <= 0);
        }
        assert_eq!(
            number(server.as_fd(), SOL_SOCKET, libc::SO_REUSEADDR).unwrap(),
            reuse
        );
        let mut text = [0; 5];
        server.read_exact(&mut text).unwrap();
        server.write_all(&text).unwrap();
        client.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    }
}
