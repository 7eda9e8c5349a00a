//! UDP sockets: datagrams not yet read with their senders, a connected one, a multicast group, one with a single source;
//! of IPv6, of UDP-Lite, two that share a port, one at an address that is nobody's, options that name an interface.
#![forbid(unsafe_code)]

use kernel::socket::{self, AF_INET, AF_INET6, SOL_SOCKET, address};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;
use subject::Stage;

const AT: &str = "127.0.0.1:18240";

const SO_REUSEPORT: i32 = 15;
const IP_FREEBIND: i32 = 15;
const IP_UNICAST_IF: i32 = 50;
const IP_ADD_SOURCE_MEMBERSHIP: i32 = 39;
const IP_DROP_SOURCE_MEMBERSHIP: i32 = 40;
const IPV6_UNICAST_IF: i32 = 76;
const UDPLITE_RECV_CSCOV: i32 = 11;

/// What the standard library has no words for.
struct More {
    lite: OwnedFd,
    sharing: [OwnedFd; 2],
    free: OwnedFd,
    picky: OwnedFd,
    sixth: OwnedFd,
}

/// `struct ip_mreq_source`: group, interface, source.
const SOURCE: [u8; 12] = [239, 7, 7, 8, 127, 0, 0, 1, 127, 0, 0, 9];

impl More {
    fn build() -> Self {
        let made = |family, protocol, at: &str, options: &[(i32, i32, i32)]| {
            let made = socket::create(family, socket::SOCK_DGRAM, protocol).expect("socket");
            for (level, name, value) in options {
                socket::set_number(made.as_fd(), *level, *name, *value).expect("an option");
            }
            let at: SocketAddr = at.parse().expect("an address");
            socket::bind(made.as_fd(), &address::internet(&at)).expect("bind");
            made
        };
        let lo = socket::interface_index("lo").expect("lo");
        let shared = [(SOL_SOCKET, SO_REUSEPORT, 1)];
        let more = More {
            lite: made(
                AF_INET,
                136,
                "127.0.0.1:18245",
                &[(136, UDPLITE_RECV_CSCOV, 8)],
            ),
            sharing: [(); 2].map(|()| made(AF_INET, 17, "127.0.0.1:18246", &shared)),
            free: made(AF_INET, 17, "198.51.100.7:18247", &[(0, IP_FREEBIND, 1)]),
            picky: made(
                AF_INET,
                17,
                "0.0.0.0:18248",
                &[(0, IP_UNICAST_IF, lo.to_be() as i32)],
            ),
            sixth: made(
                AF_INET6,
                17,
                "[::]:18249",
                &[(41, IPV6_UNICAST_IF, lo.to_be() as i32)],
            ),
        };
        socket::set_option(more.picky.as_fd(), 0, IP_ADD_SOURCE_MEMBERSHIP, &SOURCE)
            .expect("IP_ADD_SOURCE_MEMBERSHIP");
        let at = address::internet(&"127.0.0.1:18245".parse().expect("an address"));
        socket::send(more.lite.as_fd(), b"light", Some(&at), &[], None).expect("send");
        more
    }

    fn check(&self, stage: &mut Stage) {
        let name = |fd: &OwnedFd| {
            let name = socket::name(fd.as_fd()).expect("a name");
            address::parse_internet(&name).map(|at| at.to_string())
        };
        let number = |fd: &OwnedFd, level, name| socket::number(fd.as_fd(), level, name).ok();
        let lo = socket::interface_index("lo").map(|i| i.to_be() as i32).ok();
        for one in &self.sharing {
            stage.same("a shared port", Some("127.0.0.1:18246".into()), name(one));
            stage.same(
                "SO_REUSEPORT",
                Some(1),
                number(one, SOL_SOCKET, SO_REUSEPORT),
            );
        }
        stage.same("IP_FREEBIND", Some(1), number(&self.free, 0, IP_FREEBIND));
        stage.same(
            "nobody's address",
            Some("198.51.100.7:18247".into()),
            name(&self.free),
        );
        stage.same("IP_UNICAST_IF", lo, number(&self.picky, 0, IP_UNICAST_IF));
        stage.same(
            "IPV6_UNICAST_IF",
            lo,
            number(&self.sixth, 41, IPV6_UNICAST_IF),
        );
        let drop = IP_DROP_SOURCE_MEMBERSHIP;
        let dropped = socket::set_option(self.picky.as_fd(), 0, drop, &SOURCE);
        stage.holds("the group with one source", dropped.is_ok());
        stage.same(
            "UDPLITE_RECV_CSCOV",
            Some(8),
            number(&self.lite, 136, UDPLITE_RECV_CSCOV),
        );
        let mut room = [0; 9];
        let waits = socket::events(self.lite.as_fd()).is_ok_and(|e| e & socket::POLLIN != 0);
        let mut lite = std::fs::File::from(self.lite.try_clone().expect("dup"));
        let len = if waits {
            lite.read(&mut room).unwrap_or(0)
        } else {
            0
        };
        stage.same("a light datagram", &b"light"[..], &room[..len]);
    }
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let service = UdpSocket::bind(AT).expect("bind");
    let client = UdpSocket::bind("127.0.0.1:18241").expect("bind");
    let passing = UdpSocket::bind("127.0.0.1:18242").expect("bind");
    client.connect(AT).expect("connect");
    client.send(b"one").expect("send");
    passing.send_to(&[2; 20_000], AT).expect("send");
    client.send(b"three").expect("send");
    drop(passing);
    for socket in [&service, &client] {
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("SO_RCVTIMEO");
    }
    let group = Ipv4Addr::new(239, 7, 7, 7);
    let member = UdpSocket::bind("0.0.0.0:18243").expect("bind");
    member
        .join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
        .expect("join");
    client.set_ttl(33).expect("IP_TTL");
    let sixth = UdpSocket::bind("[::1]:18244").expect("bind");
    sixth.send_to(b"to me", "[::1]:18244").expect("send");
    let more = More::build();

    stage.wait();

    more.check(&mut stage);
    sixth
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("SO_RCVTIMEO");
    let mut room = [0; 9];
    let heard = sixth.recv_from(&mut room).map_err(|e| e.kind());
    stage.same(
        "a datagram of IPv6",
        Ok((5, "[::1]:18244".parse().expect("an address"))),
        heard,
    );

    let mut text = vec![0; 30_000];
    for (wanted, sender) in [
        (b"one".to_vec(), "127.0.0.1:18241"),
        (vec![2; 20_000], "127.0.0.1:18242"),
        (b"three".to_vec(), "127.0.0.1:18241"),
    ] {
        match service.recv_from(&mut text) {
            Ok((len, from)) => {
                stage.holds("a datagram", text[..len] == wanted[..]);
                stage.same("its sender", sender, from.to_string().as_str());
            }
            Err(error) => stage.note(format!("a datagram from {sender}: {error}")),
        }
    }
    stage.same(
        "the peer",
        AT,
        client.peer_addr().expect("a peer").to_string().as_str(),
    );
    stage.same("IP_TTL", 33, client.ttl().expect("IP_TTL"));
    client.send(b"again").expect("send");
    let again = service
        .recv_from(&mut text)
        .map(|(len, _)| len)
        .map_err(|e| e.kind());
    stage.same("a new datagram", Ok(5), again);
    let left = member.leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST);
    stage.holds("the group", left.is_ok());
    stage.leave()
}
