//! TCP connections that wait in a listening socket's queue: made again there, so that the client notices nothing.

mod connections;
mod crossing;

use connections::{hushed, listening, vanish};
use crossing::{Host, Taken, give_with, take_with};
use image::sockets::Socket;
use image::sockets::tcp::{Connection, Connections, State};
use kernel::socket::repair::tcp_info;
use kernel::socket::urgent;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// A service whose only client has not been let in yet, given back from a record; and the client.
fn waiting(
    host: &Host,
    at: &str,
    says: impl FnOnce(&mut TcpStream),
    change: impl FnOnce(&mut Connection),
) -> (TcpListener, TcpStream) {
    let (listener, mut client, server) = host.inside(|| {
        let listener = listening(at, &[], 7);
        let client = TcpStream::connect(at).unwrap();
        let listener = TcpListener::from(listener);
        let server = listener.accept().unwrap().0;
        (listener, client, server)
    });
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    says(&mut client);
    let _hushed = host.inside(|| hushed(&server));
    let fds = [
        OwnedFd::from(listener.try_clone().unwrap()),
        server.try_clone().unwrap().into(),
    ];
    let mut taken = take_with(host, &fds, Connections::Established).unwrap();
    drop((listener, fds));
    vanish(server);
    let Some((_, Socket::Tcp(server))) = taken.records.pop() else {
        panic!("no connection");
    };
    let State::Connected(mut connection) = server.state else {
        panic!("{:?}", server.state);
    };
    change(&mut connection);
    let Some((_, Socket::Tcp(service))) = taken.records.first_mut() else {
        panic!("no service");
    };
    let State::Listening { clients, .. } = &mut service.state else {
        panic!("{:?}", service.state);
    };
    clients.push(connection);
    (given(host, taken), client)
}

fn given(host: &Host, taken: Taken) -> TcpListener {
    let made = give_with(host, taken, &[], Connections::Established).unwrap();
    let listener = TcpListener::from(made.into_iter().next().unwrap());
    assert_eq!(tcp_info(listener.as_fd()).unwrap().unacked, 1);
    listener
}

/// Both ends say and hear something.
fn talk(mut server: &TcpStream, mut client: &TcpStream) {
    let mut text = [0; 5];
    client.write_all(b"hello").unwrap();
    server.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
    std::thread::scope(|scope| {
        scope.spawn(|| (&*server).write_all(&[7; 300_000]).unwrap());
        client.read_exact(&mut vec![0; 300_000]).unwrap();
    });
}

#[test]
fn a_client_is_let_in_later_and_notices_nothing() {
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        let host = Host::start();
        let (listener, client) = waiting(&host, at, |_| {}, |_| {});
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        let (ours, theirs) = (
            tcp_info(server.as_fd()).unwrap(),
            tcp_info(client.as_fd()).unwrap(),
        );
        assert!(ours.timestamps && ours.sack, "{at}");
        assert_eq!(ours.scales, theirs.scales.map(|(s, r)| (r, s)), "{at}");
        talk(&server, &client);
    }
}

#[test]
fn where_our_clock_would_go_backwards_it_is_not_told() {
    let host = Host::start();
    let later = |c: &mut Connection| c.timestamp = c.timestamp.map(|t| t.wrapping_add(1 << 30));
    let (listener, client) = waiting(&host, "127.0.0.1:8080", |_| {}, later);
    let server = listener.accept().unwrap().0;
    assert!(!tcp_info(server.as_fd()).unwrap().timestamps);
    talk(&server, &client);
}

#[test]
fn what_a_client_has_said_before_it_was_let_in_is_read() {
    let much: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        let host = Host::start();
        let says = |client: &mut TcpStream| {
            client.write_all(&much).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        };
        let (listener, mut client) = waiting(&host, at, says, |_| {});
        let mut server = listener.accept().unwrap().0;
        let mut read = Vec::new();
        server.read_to_end(&mut read).unwrap();
        assert!(read == much, "{at}: {}", read.len());
        server.write_all(b"answer").unwrap();
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    }
}

#[test]
fn what_is_urgent_before_it_was_let_in_is_urgent_still() {
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        let host = Host::start();
        let says = |client: &mut TcpStream| {
            client.write_all(b"abc").unwrap();
            urgent::send(client.as_fd(), b'!').unwrap();
            client.write_all(b"def").unwrap();
        };
        let (listener, client) = waiting(&host, at, says, |_| {});
        let mut server = listener.accept().unwrap().0;
        let mark = urgent::Mark { at: 3, read: false };
        let there = urgent::waiting(server.as_fd()).unwrap();
        assert_eq!(there, (7, Some(mark)), "{at}");
        let mut text = [0; 9];
        assert_eq!(server.read(&mut text).unwrap(), 3);
        assert_eq!(server.read(&mut text).unwrap(), 3);
        assert_eq!(&text[..3], b"def");
        talk(&server, &client);
    }
}
