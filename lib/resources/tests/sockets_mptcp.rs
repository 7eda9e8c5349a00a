//! MPTCP sockets, taken from a live kernel and given back to it.

mod connections;
mod crossing;

use connections::{connection, state};
use crossing::{Host, cross, give_with, take_with};
use image::sockets::Socket;
use image::sockets::tcp::{Connections, State};
use kernel::socket::{self, IPPROTO_MPTCP, SOL_SOCKET};
use resources::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

const LISTEN: u8 = 10;
const SO_KEEPALIVE: i32 = 9;

fn made() -> OwnedFd {
    socket::create(socket::AF_INET6, socket::SOCK_STREAM, IPPROTO_MPTCP).unwrap()
}

/// As Go's `net.Listen` does.
fn listening() -> OwnedFd {
    let made = made();
    let fd = made.as_fd();
    socket::set_number(fd, 41, 26, 0).unwrap();
    socket::set_number(fd, SOL_SOCKET, SO_KEEPALIVE, 1).unwrap();
    let at = "[::]:8080".parse().unwrap();
    socket::bind(fd, &socket::address::internet(&at)).unwrap();
    socket::listen(fd, 77).unwrap();
    made
}

fn protocol(fd: &impl AsFd) -> i32 {
    socket::number(fd.as_fd(), SOL_SOCKET, socket::SO_PROTOCOL).unwrap()
}

/// Client and server of a connection that is MPTCP's own.
fn multipath() -> (TcpStream, TcpStream) {
    let listener = TcpListener::from(listening());
    let client = made();
    let at = "[::1]:8080".parse().unwrap();
    socket::connect(client.as_fd(), &socket::address::internet(&at)).unwrap();
    (client.into(), listener.accept().unwrap().0)
}

#[test]
fn a_service_listens_again_and_serves_clients_of_both_protocols() {
    let (here, there) = (Host::start(), Host::start());
    let sockets = here.inside(|| vec![listening(), made()]);
    let again = cross(&here, &there, sockets);
    assert_eq!(protocol(&again[1]), IPPROTO_MPTCP);
    let again = again.into_iter().next().unwrap();
    assert_eq!(protocol(&again), IPPROTO_MPTCP);
    assert_eq!(state(&again), LISTEN);
    let info = kernel::socket::repair::tcp_info(again.as_fd()).unwrap();
    assert_eq!(info.sacked, 77);
    assert_eq!(
        socket::number(again.as_fd(), SOL_SOCKET, SO_KEEPALIVE).unwrap(),
        1
    );
    let service = TcpListener::from(again);
    there.inside(|| {
        let mut plain = TcpStream::connect("127.0.0.1:8080").unwrap();
        let mut server = service.accept().unwrap().0;
        assert_eq!(protocol(&server), socket::IPPROTO_TCP);
        let client = made();
        let at = "[::1]:8080".parse().unwrap();
        socket::connect(client.as_fd(), &socket::address::internet(&at)).unwrap();
        let multipath = service.accept().unwrap().0;
        assert_eq!(protocol(&multipath), IPPROTO_MPTCP);
        plain.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn what_such_a_service_has_accepted_by_plain_tcp_goes_on() {
    let (here, there) = (Host::start(), Host::start());
    let sockets = here.inside(|| {
        let service = TcpListener::from(listening());
        let client = TcpStream::connect("127.0.0.1:8080").unwrap();
        let server = service.accept().unwrap().0;
        (&client).write_all(b"half").unwrap();
        vec![service.into(), client.into(), server.into()]
    });
    let made = cross(&here, &there, sockets);
    let mut ends = made.into_iter().skip(1).map(TcpStream::from);
    let (mut client, mut server) = (ends.next().unwrap(), ends.next().unwrap());
    client.write_all(b"more").unwrap();
    let mut text = [0; 8];
    server.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"halfmore");
}

#[test]
fn a_connection_of_its_own_is_named_or_found_reset() {
    let (here, there) = (Host::start(), Host::start());
    let (mut client, server) = here.inside(multipath);
    client.write_all(b"a request").unwrap();
    let peer = client.local_addr().unwrap().to_string();
    let fds = [OwnedFd::from(server.try_clone().unwrap())];
    for how in [Connections::None, Connections::Established] {
        let Err(Error::Blocked(blockers)) = take_with(&here, &fds, how) else {
            panic!("it was taken");
        };
        let said = blockers[0].to_string();
        assert!(said.contains("MPTCP") && said.contains(&peer), "{said}");
    }
    let taken = take_with(&here, &fds, Connections::Closed).unwrap();
    let made = give_with(&there, taken, &[], Connections::Closed).unwrap();
    let mut found = TcpStream::from(made.into_iter().next().unwrap());
    assert_eq!(protocol(&found), IPPROTO_MPTCP);
    let error = found.read(&mut [0; 99]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // As MPTCP says it; TCP has an end of file there.
    let error = found.read(&mut [0; 99]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    let error = found.write(b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    (&server).read_exact(&mut [0; 9]).unwrap();
}

#[test]
fn who_waits_to_be_accepted_by_such_a_service_is_named() {
    let here = Host::start();
    let (service, client) =
        here.inside(|| (listening(), TcpStream::connect("127.0.0.1:8080").unwrap()));
    let fds = [service];
    let Err(Error::Blocked(blockers)) = take_with(&here, &fds, Connections::Established) else {
        panic!("it was taken");
    };
    let said = blockers[0].to_string();
    let peer = client.local_addr().unwrap().to_string();
    assert!(
        said.contains("not yet accepted") && said.contains(&peer),
        "{said}"
    );
}

#[test]
fn without_it_a_service_listens_by_plain_tcp() {
    let (here, there) = (Host::start(), Host::start());
    let sockets = [here.inside(listening)];
    let taken = take_with(&here, &sockets, Connections::None).unwrap();
    let Socket::Tcp(tcp) = &taken.records[0].1 else {
        panic!("{:?}", taken.records);
    };
    assert!(tcp.multipath && matches!(tcp.state, State::Listening { .. }));
    there
        .inside(|| std::fs::write("/proc/sys/net/mptcp/enabled", "0"))
        .unwrap();
    let made = give_with(&there, taken, &[], Connections::None).unwrap();
    assert_eq!(protocol(&made[0]), socket::IPPROTO_TCP);
    assert_eq!(state(&made[0]), LISTEN);
    there.inside(|| connection("127.0.0.1:0"));
    there
        .inside(|| TcpStream::connect("127.0.0.1:8080"))
        .unwrap();
}
