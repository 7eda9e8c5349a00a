//! Raw sockets: two of one protocol that have both heard the same packet and not yet read it, one of ICMP that
//! takes echo replies only, one with its own header; a ping socket with an answer that waits; one of IPv6.
#![forbid(unsafe_code)]

use kernel::socket::{self, AF_INET, AF_INET6, SOCK_DGRAM, SOCK_RAW, address};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use subject::Stage;

/// For experiments (RFC 3692).
const EXPERIMENT: i32 = 253;
const ICMP: i32 = 1;
const ICMPV6: i32 = 58;
const SOL_RAW: i32 = 255;
const ICMP_FILTER: i32 = 1;
const IP_HDRINCL: i32 = 3;
/// Nothing but echo replies.
const REPLIES: [u8; 4] = (!1u32).to_ne_bytes();

fn to(text: &str) -> Vec<u8> {
    let address: SocketAddr = text.parse().expect("an address");
    address::internet(&address)
}

fn put(from: &OwnedFd, at: &str, text: &[u8]) {
    socket::send(from.as_fd(), text, Some(&to(at)), &[], None).expect("send");
}

/// Everything that comes within a moment.
fn all(from: &OwnedFd) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut room = [0; 2000];
    let file = std::fs::File::from(from.try_clone().expect("dup"));
    let end = Instant::now() + Duration::from_millis(100);
    while Instant::now() < end {
        if socket::events(from.as_fd()).expect("poll") & socket::POLLIN == 0 {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let len = std::io::Read::read(&mut &file, &mut room).expect("read");
        found.push(room[..len].to_vec());
    }
    found
}

/// Whom it is connected to, which getpeername(2) does not say without a port.
fn connected(socket: &OwnedFd) -> Option<std::net::IpAddr> {
    let proc = kernel::proc::Proc::process(std::process::id() as i32);
    let inode = socket::inode(socket.as_fd()).ok()?;
    kernel::proc::raw::read(&proc).get(&inode).copied()
}

/// Where anybody may have ping sockets (icmp(7)).
fn ping() -> OwnedFd {
    socket::create(AF_INET, SOCK_DGRAM, ICMP).unwrap_or_else(|_| {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("ping_group_range");
        socket::create(AF_INET, SOCK_DGRAM, ICMP).expect("a ping socket")
    })
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let raw = |family, protocol| socket::create(family, SOCK_RAW, protocol).expect("a raw socket");
    let one = raw(AF_INET, EXPERIMENT);
    let two = raw(AF_INET, EXPERIMENT);
    socket::bind(two.as_fd(), &to("127.0.0.1:0")).expect("bind");
    put(&one, "127.0.0.1:0", b"first");

    let replies = raw(AF_INET, ICMP);
    socket::set_option(replies.as_fd(), SOL_RAW, ICMP_FILTER, &REPLIES).expect("ICMP_FILTER");
    let v6 = raw(AF_INET6, EXPERIMENT);
    put(&v6, "[::1]:0", b"sixth");
    let own = raw(AF_INET, EXPERIMENT + 1);
    socket::set_number(own.as_fd(), 0, IP_HDRINCL, 1).expect("IP_HDRINCL");
    socket::connect(own.as_fd(), &to("127.0.0.1:0")).expect("connect");

    let pings = ping();
    socket::bind(pings.as_fd(), &to("127.0.0.1:4242")).expect("bind");
    // Echo request, its identification and checksum filled in by the kernel, number 7.
    put(&pings, "127.0.0.1:0", &[8, 0, 0, 0, 0, 0, 0, 7, b'?']);
    while socket::events(pings.as_fd()).expect("poll") & socket::POLLIN == 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    let pings6 = socket::create(AF_INET6, SOCK_DGRAM, ICMPV6).expect("a ping socket");
    put(&pings6, "[::1]:0", &[128, 0, 0, 0, 0, 0, 0, 9, b'!']);
    while socket::events(pings6.as_fd()).expect("poll") & socket::POLLIN == 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    let peer = connected(&own);
    assert_eq!(peer, "127.0.0.1".parse().ok());

    stage.wait();

    for (what, socket) in [("the first", &one), ("the second", &two)] {
        let heard: Vec<Vec<u8>> = all(socket).iter().map(|p| p[20..].to_vec()).collect();
        stage.same(what, vec![b"first".to_vec()], heard);
    }
    stage.same("of IPv6", vec![b"sixth".to_vec()], all(&v6));
    let answer = all(&pings).pop().unwrap_or_default();
    stage.same(
        "the answer's kind, number and text",
        Some((0, &[0, 7, b'?'][..])),
        answer.first().map(|kind| (*kind, &answer[6..])),
    );
    stage.same(
        "the answer's identification",
        Some(&4242u16.to_be_bytes()[..]),
        answer.get(4..6),
    );
    let answer = all(&pings6).pop().unwrap_or_default();
    stage.same(
        "the answer of IPv6",
        Some((129, &[0, 9, b'!'][..])),
        answer.first().map(|kind| (*kind, &answer[6..])),
    );
    let filter = socket::option(replies.as_fd(), SOL_RAW, ICMP_FILTER, 4);
    stage.same("ICMP_FILTER", Some(REPLIES.to_vec()), filter.ok());
    stage.same(
        "IP_HDRINCL",
        Some(1),
        socket::number(own.as_fd(), 0, IP_HDRINCL).ok(),
    );
    stage.same("the peer", peer, connected(&own));
    put(&two, "127.0.0.1:0", b"second");
    let heard: Vec<Vec<u8>> = all(&one).iter().map(|p| p[20..].to_vec()).collect();
    stage.same("what comes now", vec![b"second".to_vec()], heard);
    stage.leave()
}
