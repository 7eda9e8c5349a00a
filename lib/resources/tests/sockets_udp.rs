//! UDP, netlink, raw and packet sockets, taken from a live kernel and given back to it.

mod crossing;

use crossing::{Host, cross, take};
use kernel::socket::{self, IPPROTO_UDP, SOL_SOCKET, address};
use nix::sys::socket::MsgFlags;
use resources::Error;
use std::io::Read;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

const SO_RCVBUF_FORCE: i32 = 33;
const SO_BROADCAST: i32 = 6;
const IP_TTL: i32 = 2;

fn given<T: From<OwnedFd>>(fd: OwnedFd) -> T {
    T::from(fd)
}

#[test]
fn datagrams_are_read_again_from_whom_they_came() {
    for (at, stranger) in [
        ("127.0.0.1:53", "127.0.0.1:1000"),
        ("[::]:53", "[::1]:1000"),
        ("0.0.0.0:53", "127.0.0.1:1000"),
    ] {
        let (here, there) = (Host::start(), Host::start());
        let server = here.inside(|| {
            let server = UdpSocket::bind(at).unwrap();
            let client = UdpSocket::bind(stranger).unwrap();
            let port = server.local_addr().unwrap().port();
            let to = (client.local_addr().unwrap().ip(), port);
            client.send_to(b"one", to).unwrap();
            client.send_to(b"", to).unwrap();
            client.send_to(&[7; 40_000], to).unwrap();
            server
        });
        let copy = server.try_clone().unwrap();
        let made: UdpSocket = given(cross(&here, &there, vec![server.into()]).remove(0));
        for socket in [copy, made] {
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            assert_eq!(socket.local_addr().unwrap().to_string(), at);
            let mut text = vec![0; 50_000];
            for wanted in [&b"one"[..], b"", &[7; 40_000]] {
                let (len, from) = socket.recv_from(&mut text).unwrap();
                assert_eq!(
                    (&text[..len], from.to_string().as_str()),
                    (wanted, stranger)
                );
            }
        }
    }
}

#[test]
fn an_ipv6_socket_still_hears_ipv4() {
    let (here, there) = (Host::start(), Host::start());
    let server = here.inside(|| {
        let server = UdpSocket::bind("[::]:53").unwrap();
        UdpSocket::bind("127.0.0.1:1000")
            .unwrap()
            .send_to(b"four", "127.0.0.1:53")
            .unwrap();
        server
    });
    let made: UdpSocket = given(cross(&here, &there, vec![server.into()]).remove(0));
    made.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut text = [0; 9];
    let (len, from) = made.recv_from(&mut text).unwrap();
    assert_eq!(
        (&text[..len], from.to_string().as_str()),
        (&b"four"[..], "[::ffff:127.0.0.1]:1000")
    );
}

#[test]
fn a_connected_socket_keeps_its_peer_and_options() {
    let (here, there) = (Host::start(), Host::start());
    let socket = here.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:700").unwrap();
        socket.connect("127.0.0.1:800").unwrap();
        socket::set_number(socket.as_fd(), SOL_SOCKET, SO_BROADCAST, 1).unwrap();
        socket::set_number(socket.as_fd(), SOL_SOCKET, SO_RCVBUF_FORCE, 300_000).unwrap();
        socket::set_number(socket.as_fd(), 0, IP_TTL, 9).unwrap();
        socket
    });
    let made: UdpSocket = given(cross(&here, &there, vec![socket.into()]).remove(0));
    assert_eq!(made.peer_addr().unwrap().to_string(), "127.0.0.1:800");
    assert!(made.broadcast().unwrap());
    assert_eq!(made.ttl().unwrap(), 9);
    assert_eq!(
        socket::number(made.as_fd(), SOL_SOCKET, socket::SO_RCVBUF).unwrap(),
        600_000
    );
}

#[test]
fn multicast_groups_are_joined_again() {
    let (here, there) = (Host::start(), Host::start());
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let (socket, other) = here.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:900").unwrap();
        socket
            .join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
            .unwrap();
        (socket, UdpSocket::bind("0.0.0.0:901").unwrap())
    });
    let mut made = cross(&here, &there, vec![socket.into(), other.into()]).into_iter();
    let member: UdpSocket = given(made.next().unwrap());
    let other: UdpSocket = given(made.next().unwrap());
    there.inside(|| {
        member
            .leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
            .unwrap();
        other
            .leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
            .unwrap_err();
    });
}

#[test]
fn a_datagram_half_written_is_a_blocker() {
    const MSG_MORE: i32 = 0x8000;
    let here = Host::start();
    let (corked, begun, raw) = here.inside(|| {
        let connected = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect("127.0.0.1:9").unwrap();
            socket
        };
        let raw = socket::create(socket::AF_INET, socket::SOCK_RAW, 253).unwrap();
        let to = socket::address::internet(&"127.0.0.1:0".parse().unwrap());
        socket::connect(raw.as_fd(), &to).unwrap();
        (connected(), connected(), raw)
    });
    socket::set_number(corked.as_fd(), IPPROTO_UDP, 1, 1).unwrap();
    corked.send(b"one").unwrap();
    for socket in [begun.as_raw_fd(), raw.as_raw_fd()] {
        let more = MsgFlags::from_bits_retain(MSG_MORE);
        nix::sys::socket::send(socket, b"two", more).unwrap();
    }
    for fd in [corked.into(), begun.into(), raw] {
        let Err(Error::Blocked(blockers)) = take(&here, &[fd]) else {
            panic!("it was taken");
        };
        assert!(blockers[0].what.contains("half written"), "{blockers:?}");
    }
}

#[test]
fn a_socket_that_holds_back_what_is_written_does_so_again() {
    let (here, there) = (Host::start(), Host::start());
    let socket = here.inside(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    socket.connect(socket.local_addr().unwrap()).unwrap();
    socket::set_number(socket.as_fd(), IPPROTO_UDP, 1, 1).unwrap();
    let made = UdpSocket::from(cross(&here, &there, vec![socket.into()]).remove(0));
    made.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    made.send(b"in two ").unwrap();
    made.send(b"parts").unwrap();
    socket::set_number(made.as_fd(), IPPROTO_UDP, 1, 0).unwrap();
    let mut text = [0; 20];
    let len = made.recv(&mut text).unwrap();
    assert_eq!(&text[..len], b"in two parts");
}

#[test]
fn netlink_sockets_keep_port_and_groups() {
    let (here, there) = (Host::start(), Host::start());
    let made = here.inside(|| {
        let made = socket::create(socket::AF_NETLINK, socket::SOCK_DGRAM, 0).unwrap();
        socket::bind(made.as_fd(), &address::netlink(4711, 0b101)).unwrap();
        socket::set_number(made.as_fd(), 270, 1, 34).unwrap();
        made
    });
    let before = socket::option(made.as_fd(), 270, 9, 1024).unwrap();
    let made = cross(&here, &there, vec![made]).remove(0);
    let name = socket::name(made.as_fd()).unwrap();
    assert_eq!(address::parse_netlink(&name).unwrap(), (4711, 0b101));
    let after = socket::option(made.as_fd(), 270, 9, 1024).unwrap();
    assert_eq!(before, after);
    assert_eq!(
        socket::number(made.as_fd(), SOL_SOCKET, socket::SO_TYPE).unwrap(),
        socket::SOCK_DGRAM
    );
}

#[test]
fn a_netlink_socket_with_an_answer_unread_is_a_blocker() {
    let here = Host::start();
    let made = here.inside(|| {
        let made = socket::create(socket::AF_NETLINK, socket::SOCK_RAW, 0).unwrap();
        socket::bind(made.as_fd(), &address::netlink(0, 1)).unwrap();
        // RTM_GETLINK with NLM_F_REQUEST | NLM_F_DUMP.
        let mut request = vec![32, 0, 0, 0, 18, 0, 1, 3];
        request.resize(32, 0);
        socket::send(made.as_fd(), &request, None, &[], None).unwrap();
        made
    });
    assert!(matches!(take(&here, &[made]), Err(Error::Blocked(_))));
}

#[test]
fn a_netlink_socket_with_news_unread_hears_that_it_missed_some() {
    let (here, there) = (Host::start(), Host::start());
    let listening = |quiet: bool| {
        let made = socket::create(socket::AF_NETLINK, socket::SOCK_RAW, 0).unwrap();
        socket::bind(made.as_fd(), &address::netlink(0, 1)).unwrap();
        socket::set_number(made.as_fd(), 270, 5, quiet.into()).unwrap();
        made
    };
    let ip = |line: &str| {
        let run = std::process::Command::new("ip")
            .args(line.split(' '))
            .status();
        assert!(run.unwrap().success());
    };
    let sockets = here.inside(|| {
        let sockets = vec![listening(false), listening(true)];
        ip("link add news type bridge");
        sockets
    });
    let made = cross(&here, &there, sockets);
    let size = |fd: &OwnedFd| socket::number(fd.as_fd(), SOL_SOCKET, socket::SO_RCVBUF).unwrap();
    assert_eq!(size(&made[0]), size(&made[1]));
    assert_eq!(
        kernel::socket::option::buffers(made[0].as_fd()).unwrap(),
        (None, None)
    );
    // NETLINK_NO_ENOBUFS: it does not want to know.
    assert_eq!(socket::events(made[1].as_fd()).unwrap() & socket::POLLIN, 0);
    let flags = kernel::descriptor::flags(made[0].as_fd()).unwrap();
    let quick = flags | kernel::descriptor::O_NONBLOCK;
    kernel::descriptor::set_flags(made[0].as_fd(), quick).unwrap();
    let mut reader = std::fs::File::from(made.into_iter().next().unwrap());
    let mut message = [0; 65536];
    let error = reader.read(&mut message).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(105), "ENOBUFS");
    let kind = |message: &[u8]| u16::from_ne_bytes([message[4], message[5]]);
    // Until it has read what there is, nothing comes to it: so it is after any overrun.
    while reader.read(&mut message).is_ok() {
        assert_eq!(kind(&message), 1, "NLMSG_NOOP");
    }
    there.inside(|| ip("link add later type bridge"));
    assert!(reader.read(&mut message).unwrap() > 32);
    assert_eq!(kind(&message), 16, "RTM_NEWLINK");
}

#[test]
fn raw_ping_and_packet_sockets_are_made_again_with_their_filters() {
    let (here, there) = (Host::start(), Host::start());
    let sockets = here.inside(|| {
        let raw = socket::create(socket::AF_INET, socket::SOCK_RAW, socket::IPPROTO_ICMP).unwrap();
        socket::set_option(raw.as_fd(), 255, 1, &[0xfe, 0, 0, 0]).unwrap();
        let bound = socket::create(socket::AF_INET6, socket::SOCK_RAW, 99).unwrap();
        socket::bind(
            bound.as_fd(),
            &address::internet(&"[::1]:0".parse().unwrap()),
        )
        .unwrap();
        let packet = socket::create(socket::AF_PACKET, socket::SOCK_DGRAM, 0).unwrap();
        socket::attach_filter(packet.as_fd(), &[6, 0, 0, 0, 64, 0, 0, 0]).unwrap();
        socket::bind(packet.as_fd(), &address::packet(0x800, 1)).unwrap();
        vec![raw, bound, packet]
    });
    let names: Vec<_> = sockets
        .iter()
        .map(|s| socket::name(s.as_fd()).unwrap())
        .collect();
    let made = cross(&here, &there, sockets);
    for (fd, name) in made.iter().zip(&names) {
        assert_eq!(&socket::name(fd.as_fd()).unwrap(), name);
    }
    assert_eq!(
        socket::option(made[0].as_fd(), 255, 1, 4).unwrap(),
        [0xfe, 0, 0, 0]
    );
    assert_eq!(
        socket::filter(made[2].as_fd()).unwrap(),
        [6, 0, 0, 0, 64, 0, 0, 0]
    );
}

#[test]
fn families_not_supported_are_named() {
    let here = Host::start();
    let vsock = here.inside(|| socket::create(40, socket::SOCK_STREAM, 0).unwrap());
    let Err(Error::Blocked(blockers)) = take(&here, &[vsock]) else {
        panic!("it was taken");
    };
    assert!(blockers[0].what.contains("AF_VSOCK"), "{}", blockers[0]);
}

#[test]
fn a_socket_of_another_network_is_a_blocker() {
    let (here, there) = (Host::start(), Host::start());
    let stranger = there.inside(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    assert!(matches!(
        take(&here, &[stranger.into()]),
        Err(Error::Blocked(_))
    ));
}
