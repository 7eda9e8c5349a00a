//! Ends of TCP connections, as tests make them.
#![allow(dead_code, reason = "each of the tests uses some of them")]

use kernel::nftables::{Newcomers, Table};
use kernel::socket::repair::tcp_info;
use kernel::socket::{self, IPPROTO_TCP};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

pub const SO_REUSEADDR: i32 = 2;
pub const SO_KEEPALIVE: i32 = 9;
pub const SO_OOBINLINE: i32 = 10;
pub const TCP_REPAIR: i32 = 19;

pub fn listening(at: &str, options: &[(i32, i32, i32)], backlog: u32) -> OwnedFd {
    let at: SocketAddr = at.parse().unwrap();
    let family = if at.is_ipv4() {
        socket::AF_INET
    } else {
        socket::AF_INET6
    };
    let made = socket::create(family, socket::SOCK_STREAM, 0).unwrap();
    for (level, name, value) in options {
        socket::set_number(made.as_fd(), *level, *name, *value).unwrap();
    }
    socket::bind(made.as_fd(), &socket::address::internet(&at)).unwrap();
    socket::listen(made.as_fd(), backlog).unwrap();
    made
}

/// Both ends of a connection: client, server.
pub fn connection(at: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(at).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    (client, server)
}

pub fn state(fd: &impl AsFd) -> u8 {
    tcp_info(fd.as_fd()).unwrap().state
}

pub fn wait_for(fd: &impl AsFd, wanted: u8) {
    for _ in 0..500 {
        if state(fd) == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("state {} never became {wanted}", state(fd));
}

/// Closed without a word to the other end, as a checkpointed container's sockets are.
pub fn vanish(end: TcpStream) {
    socket::set_number(end.as_fd(), IPPROTO_TCP, TCP_REPAIR, 1).unwrap();
}

/// Nothing comes or goes between these two while this lives, as when a container is taken (`tcp::Still`): an
/// acknowledgement that is late would find nobody, and be answered with a reset. To be called in their network.
pub fn hushed(end: &TcpStream) -> Table {
    let name = format!("ferry-test-{}", end.local_addr().unwrap().port());
    let mut table = Table::hush(&name, &Newcomers::To(Vec::new())).unwrap();
    let ends = (end.local_addr().unwrap(), end.peer_addr().unwrap());
    table.add(&[ends, (ends.1, ends.0)]).unwrap();
    table
}
