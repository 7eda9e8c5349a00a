//! TCP sockets, taken from a live kernel and given back to it.

mod connections;
mod crossing;

use connections::{
    SO_KEEPALIVE, SO_REUSEADDR, connection, hushed, listening, state, vanish, wait_for,
};
use crossing::{Host, cross, give, take};
use kernel::socket::repair::tcp_info;
use kernel::socket::{self, IPPROTO_TCP, SOL_SOCKET};
use resources::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

const SO_REUSEPORT: i32 = 15;
const TCP_DEFER_ACCEPT: i32 = 9;
const TCP_FASTOPEN: i32 = 23;
const IPPROTO_IPV6: i32 = 41;
const IPV6_V6ONLY: i32 = 26;

#[test]
fn listening_sockets_keep_address_backlog_and_options() {
    let (here, there) = (Host::start(), Host::start());
    let sockets = here.inside(|| {
        vec![
            listening(
                "127.0.0.1:8080",
                &[
                    (SOL_SOCKET, SO_KEEPALIVE, 1),
                    (IPPROTO_TCP, TCP_DEFER_ACCEPT, 3),
                ],
                77,
            ),
            listening("[::]:8081", &[(IPPROTO_IPV6, IPV6_V6ONLY, 1)], 5),
            listening("0.0.0.0:8081", &[(IPPROTO_TCP, TCP_FASTOPEN, 9)], 5),
            listening("[::]:8082", &[], 5),
            listening("0.0.0.0:8083", &[(SOL_SOCKET, SO_REUSEPORT, 1)], 5),
            listening("0.0.0.0:8083", &[(SOL_SOCKET, SO_REUSEPORT, 1)], 6),
        ]
    });
    let made = cross(&here, &there, sockets);
    let name = |i: usize| {
        TcpListener::from(made[i].try_clone().unwrap())
            .local_addr()
            .unwrap()
            .to_string()
    };
    let number = |i: usize, level, option| socket::number(made[i].as_fd(), level, option).unwrap();
    assert_eq!(name(0), "127.0.0.1:8080");
    assert_eq!(tcp_info(made[0].as_fd()).unwrap().sacked, 77);
    assert_eq!(number(0, SOL_SOCKET, SO_KEEPALIVE), 1);
    assert_eq!(
        number(0, SOL_SOCKET, SO_REUSEADDR),
        0,
        "SO_REUSEADDR was not set"
    );
    assert_eq!(number(0, IPPROTO_TCP, TCP_DEFER_ACCEPT), 3);
    assert_eq!(
        (name(1), number(1, IPPROTO_IPV6, IPV6_V6ONLY)),
        ("[::]:8081".into(), 1)
    );
    assert_eq!(
        (name(2), number(2, IPPROTO_TCP, TCP_FASTOPEN)),
        ("0.0.0.0:8081".into(), 9)
    );
    assert_eq!(
        (name(4), name(5)),
        ("0.0.0.0:8083".into(), "0.0.0.0:8083".into())
    );
    there.inside(|| {
        TcpStream::connect("127.0.0.1:8082").unwrap();
        TcpStream::connect("[::1]:8082").unwrap();
        TcpStream::connect("127.0.0.1:8083").unwrap();
    });
}

#[test]
fn a_socket_bound_or_fresh_is_given_back_as_such() {
    let (here, there) = (Host::start(), Host::start());
    let sockets = here.inside(|| {
        let bound = socket::create(socket::AF_INET, socket::SOCK_STREAM, 0).unwrap();
        let at = "127.0.0.1:999".parse().unwrap();
        socket::bind(bound.as_fd(), &socket::address::internet(&at)).unwrap();
        vec![
            bound,
            socket::create(socket::AF_INET6, socket::SOCK_STREAM, 0).unwrap(),
        ]
    });
    let made = cross(&here, &there, sockets);
    let name = |fd: &OwnedFd| socket::address::text(&socket::name(fd.as_fd()).unwrap());
    assert_eq!(
        (name(&made[0]), name(&made[1])),
        ("127.0.0.1:999".into(), "[::]:0".into())
    );
    assert_eq!(
        socket::events(made[1].as_fd()).unwrap() & socket::POLLRDHUP,
        0
    );
}

#[test]
fn established_connections_are_blockers_that_name_the_peer() {
    let here = Host::start();
    let (client, server) = here.inside(|| connection("127.0.0.1:0"));
    let peer = client.local_addr().unwrap();
    let Err(Error::Blocked(blockers)) = take(&here, &[server.into()]) else {
        panic!("it was taken");
    };
    assert!(
        blockers[0].to_string().contains(&peer.to_string()),
        "{}",
        blockers[0]
    );
}

#[test]
fn all_clients_not_yet_accepted_are_named() {
    let here = Host::start();
    let (listener, clients) = here.inside(|| {
        let listener = TcpListener::bind("[::]:80").unwrap();
        let clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect("127.0.0.1:80").unwrap())
            .collect();
        (listener, clients)
    });
    let Err(Error::Blocked(blockers)) = take(&here, &[listener.into()]) else {
        panic!("it was taken");
    };
    assert_eq!(blockers.len(), 3);
    for client in clients {
        let name = client.local_addr().unwrap().to_string();
        assert!(blockers.iter().any(|b| b.what.contains(&name)), "{name}");
    }
}

#[test]
fn what_a_server_keeps_right_after_an_answer_reads_its_end() {
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        let (here, there) = (Host::start(), Host::start());
        let (mut client, server) = here.inside(|| connection(at));
        client.write_all(b"more").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        drop(client);
        wait_for(&server, 7);
        let listener = here.inside(|| listening(at, &[(SOL_SOCKET, SO_REUSEADDR, 1)], 5));
        let mut made = cross(&here, &there, vec![server.into(), listener]).into_iter();
        let mut server = TcpStream::from(made.next().unwrap());
        assert_eq!(state(&server), 7);
        assert_eq!(server.local_addr().unwrap().to_string(), at);
        assert_eq!(
            server.peer_addr().unwrap_err().kind(),
            ErrorKind::NotConnected
        );
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "more");
        assert_eq!(
            server.write(b"x").unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
        there.inside(|| TcpStream::connect(at)).unwrap();
    }
}

#[test]
fn a_reset_that_waits_is_still_to_be_read() {
    let (here, there) = (Host::start(), Host::start());
    let (client, server) = here.inside(|| connection("127.0.0.1:8080"));
    socket::set_option(client.as_fd(), SOL_SOCKET, 13, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    drop(client);
    let mut server = TcpStream::from(cross(&here, &there, vec![server.into()]).remove(0));
    assert_eq!(
        server.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_client_that_has_closed_is_read_to_its_end() {
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        let (here, there) = (Host::start(), Host::start());
        let (mut client, server) = here.inside(|| connection(at));
        client.write_all(b"last words").unwrap();
        let peer = client.local_addr().unwrap();
        drop(client);
        wait_for(&server, 8);
        let mut server = TcpStream::from(cross(&here, &there, vec![server.into()]).remove(0));
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(
            state(&server),
            8,
            "CLOSE_WAIT, and nothing came to change it"
        );
        assert_eq!(server.local_addr().unwrap().to_string(), at);
        assert_eq!(server.peer_addr().unwrap(), peer);
        assert_eq!(server.read_timeout().unwrap(), Some(Duration::from_secs(5)));
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_client_that_waits_for_its_answer_gets_it() {
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        let here = Host::start();
        let (mut client, server) = here.inside(|| connection(at));
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        wait_for(&server, 8);
        let hushed = here.inside(|| hushed(&server));
        let taken = take(&here, &[server.try_clone().unwrap().into()]).unwrap();
        vanish(server);
        let mut server = TcpStream::from(give(&here, taken, &[]).unwrap().remove(0));
        drop(hushed);
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "request");
        let answer = "x".repeat(300_000);
        let writer = std::thread::spawn(move || {
            server.write_all(answer.as_bytes()).unwrap();
            server
        });
        let mut answer = String::new();
        client.read_exact(&mut vec![0; 299_999]).unwrap();
        drop(writer.join().unwrap());
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "x");
    }
}

#[test]
fn a_server_that_has_closed_its_direction_hears_the_rest() {
    for at in ["127.0.0.1:8080", "10.9.8.7:8080"] {
        let here = Host::start();
        here.inside(|| {
        // An address that is not the loopback interface's.
        let line = "ip link add br0 type bridge && ip addr add 10.9.8.7/24 dev br0 && ip link set br0 up";
        let run = std::process::Command::new("sh").args(["-c", line]).status();
        assert!(run.unwrap().success());
    });
        let (mut client, mut server) = here.inside(|| connection(at));
        server.write_all(b"answer").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        wait_for(&server, 5);
        client.write_all(b"un").unwrap();
        let hushed = here.inside(|| hushed(&server));
        let taken = take(&here, &[server.try_clone().unwrap().into()]).unwrap();
        vanish(server);
        let mut server = TcpStream::from(give(&here, taken, &[]).unwrap().remove(0));
        drop(hushed);
        assert_eq!(state(&server), 5, "FIN_WAIT2");
        client.write_all(b"heard").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        drop(client);
        assert_eq!(text, "answer");
        text.clear();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "unheard");
        assert_eq!(
            server.write(b"x").unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
    }
}

#[test]
fn bytes_not_acknowledged_are_sent_again() {
    let here = Host::start();
    let (mut client, mut server) = here.inside(|| connection("127.0.0.1:8080"));
    client.shutdown(Shutdown::Write).unwrap();
    wait_for(&server, 8);
    server.set_nonblocking(true).unwrap();
    // Until the client's window is full: what follows waits in the send queue.
    let mut sent = 0;
    while let Ok(n) = server.write(&[9; 50_000]) {
        sent += n;
    }
    server.set_nonblocking(false).unwrap();
    let hushed = here.inside(|| hushed(&server));
    let taken = take(&here, &[server.try_clone().unwrap().into()]).unwrap();
    vanish(server);
    let made = give(&here, taken, &[]).unwrap();
    drop((hushed, made));
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!((got.len(), got.iter().all(|b| *b == 9)), (sent, true));
}

#[test]
fn an_address_that_is_not_here_becomes_the_new_one() {
    let (here, there) = (Host::start(), Host::start());
    let add = |host: &Host, address: &'static str| {
        host.inside(|| {
            let run = |args: &[&str]| {
                assert!(
                    std::process::Command::new("ip")
                        .args(args)
                        .status()
                        .unwrap()
                        .success()
                )
            };
            run(&["addr", "add", address, "dev", "lo"]);
        });
    };
    add(&here, "10.9.8.7/32");
    add(&there, "10.1.2.3/32");
    let sockets = |host: &Host| {
        host.inside(|| {
            let listener = TcpListener::bind("10.9.8.7:80").unwrap();
            let client = TcpStream::connect("10.9.8.7:80").unwrap();
            let server = listener.accept().unwrap().0;
            drop(client);
            wait_for(&server, 8);
            vec![OwnedFd::from(listener), server.into()]
        })
    };
    let taken = take(&here, &sockets(&here)).unwrap();
    let error = give(&there, taken, &[]).unwrap_err().to_string();
    assert!(
        error.contains("10.9.8.7:80") && error.contains("not here"),
        "{error}"
    );
    let here = Host::start();
    add(&here, "10.9.8.7/32");
    let taken = take(&here, &sockets(&here)).unwrap();
    let moved = ["10.9.8.7".parse().unwrap(), "10.1.2.3".parse().unwrap()];
    let mut made = give(&there, taken, &[(moved[0], moved[1])])
        .unwrap()
        .into_iter();
    let listener = TcpListener::from(made.next().unwrap());
    assert_eq!(listener.local_addr().unwrap().to_string(), "10.1.2.3:80");
    let mut server = TcpStream::from(made.next().unwrap());
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    there.inside(|| TcpStream::connect("10.1.2.3:80")).unwrap();
}
