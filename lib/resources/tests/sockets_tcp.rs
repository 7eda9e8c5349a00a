//! TCP sockets, taken from a live kernel and given back to it.

mod crossing;

use crossing::{Host, cross, give, give_with, take, take_with};
use image::sockets::tcp::Connections;
use kernel::socket::repair::tcp_info;
use kernel::socket::{self, IPPROTO_TCP, SOL_SOCKET};
use resources::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

const SO_REUSEADDR: i32 = 2;
const SO_REUSEPORT: i32 = 15;
const SO_KEEPALIVE: i32 = 9;
const TCP_DEFER_ACCEPT: i32 = 9;
const TCP_FASTOPEN: i32 = 23;
const TCP_REPAIR: i32 = 19;
const IPPROTO_IPV6: i32 = 41;
const IPV6_V6ONLY: i32 = 26;

fn listening(at: &str, options: &[(i32, i32, i32)], backlog: u32) -> OwnedFd {
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
fn connection(at: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(at).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    (client, server)
}

fn state(fd: &impl AsFd) -> u8 {
    tcp_info(fd.as_fd()).unwrap().state
}

fn wait_for(fd: &impl AsFd, wanted: u8) {
    for _ in 0..500 {
        if state(fd) == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("state {} never became {wanted}", state(fd));
}

/// Closed without a word to the other end, as a checkpointed container's sockets are.
fn vanish(end: TcpStream) {
    socket::set_number(end.as_fd(), IPPROTO_TCP, TCP_REPAIR, 1).unwrap();
}

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
        let taken = take(&here, &[server.try_clone().unwrap().into()]).unwrap();
        vanish(server);
        let mut server = TcpStream::from(give(&here, taken, &[]).unwrap().remove(0));
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
    let here = Host::start();
    let (mut client, mut server) = here.inside(|| connection("127.0.0.1:8080"));
    server.write_all(b"answer").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    wait_for(&server, 5);
    client.write_all(b"un").unwrap();
    let taken = take(&here, &[server.try_clone().unwrap().into()]).unwrap();
    vanish(server);
    let mut server = TcpStream::from(give(&here, taken, &[]).unwrap().remove(0));
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
    let taken = take(&here, &[server.try_clone().unwrap().into()]).unwrap();
    vanish(server);
    let made = give(&here, taken, &[]).unwrap();
    drop(made);
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

/// Taken to go on; what is closed here says nothing, as after a checkpoint.
fn go_on(here: &Host, end: TcpStream) -> TcpStream {
    let fd: OwnedFd = end.try_clone().unwrap().into();
    let taken = take_with(here, &[fd], Connections::Established).unwrap();
    vanish(end);
    let made = give_with(here, taken, &[], Connections::Established).unwrap();
    TcpStream::from(made.into_iter().next().unwrap())
}

#[test]
fn an_established_connection_goes_on_with_what_is_in_its_queues() {
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        let here = Host::start();
        let (mut client, server) = here.inside(|| connection(at));
        client.write_all(b"half read: ").unwrap();
        (&server).read_exact(&mut [0; 5]).unwrap();
        server.set_nodelay(true).unwrap();
        socket::set_number(server.as_fd(), SOL_SOCKET, SO_KEEPALIVE, 1).unwrap();
        let peer = server.peer_addr().unwrap();
        let mut server = go_on(&here, server);
        assert_eq!(state(&server), 1, "ESTABLISHED");
        assert_eq!(server.peer_addr().unwrap(), peer);
        assert!(server.nodelay().unwrap());
        let alive = socket::number(server.as_fd(), SOL_SOCKET, SO_KEEPALIVE).unwrap();
        assert_eq!(alive, 1);
        client.write_all(b"more").unwrap();
        let mut text = [0; 10];
        server.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"read: more");
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut text[..6]).unwrap();
        assert_eq!(&text[..6], b"answer");
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn segments_are_as_large_as_before() {
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        let here = Host::start();
        let (_client, server) = here.inside(|| {
            let run = std::process::Command::new("ip")
                .args(["link", "set", "lo", "mtu", "1500"])
                .status();
            assert!(run.unwrap().success());
            connection(at)
        });
        let segment = |s: &TcpStream| socket::number(s.as_fd(), IPPROTO_TCP, 2).unwrap();
        let before = segment(&server);
        assert!(before > 1400);
        assert_eq!(segment(&go_on(&here, server)), before, "{at}");
    }
}

#[test]
fn a_client_of_two_families_keeps_its_server() {
    let here = Host::start();
    let (mut client, server) = here.inside(|| {
        let listener = TcpListener::bind("[::]:8080").unwrap();
        let client = TcpStream::connect("127.0.0.1:8080").unwrap();
        (client, listener.accept().unwrap().0)
    });
    let mut server = go_on(&here, server);
    server.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_client_goes_on_as_a_server_does() {
    let here = Host::start();
    let (client, mut server) = here.inside(|| connection("127.0.0.1:8080"));
    let mut client = go_on(&here, client);
    client.write_all(b"question").unwrap();
    let mut text = [0; 8];
    server.read_exact(&mut text).unwrap();
    server.write_all(&text).unwrap();
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"question");
}

#[test]
fn what_the_other_end_had_no_room_for_arrives_once_and_in_order() {
    let here = Host::start();
    let (mut client, mut server) = here.inside(|| connection("127.0.0.1:8080"));
    server.set_nonblocking(true).unwrap();
    let mut sent = Vec::<u8>::new();
    for n in 0u32.. {
        let piece = n.to_ne_bytes().repeat(1000);
        match server.write(&piece) {
            Ok(len) => sent.extend(&piece[..len]),
            Err(_) => break,
        }
    }
    assert!(socket::unsent(server.as_fd()).unwrap() > 0);
    server.set_nonblocking(false).unwrap();
    let mut server = go_on(&here, server);
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        got
    });
    server.write_all(b"the end").unwrap();
    drop(server);
    sent.extend(b"the end");
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn a_connection_within_the_container_is_whole_without_being_asked_for() {
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        let (here, there) = (Host::start(), Host::start());
        let (mut client, mut server) = here.inside(|| connection(at));
        client.write_all(b"to the server").unwrap();
        server.write_all(b"to the client").unwrap();
        let made = cross(&here, &there, vec![client.into(), server.into()]);
        let mut made = made.into_iter().map(TcpStream::from);
        let (mut client, mut server) = (made.next().unwrap(), made.next().unwrap());
        let mut text = [0; 13];
        server.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"to the server");
        client.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"to the client");
        server.write_all(b"more").unwrap();
        client.read_exact(&mut text[..4]).unwrap();
        drop(client);
        assert_eq!(server.read(&mut text).unwrap(), 0);
    }
}

#[test]
fn a_full_connection_within_the_container_loses_nothing() {
    let (here, there) = (Host::start(), Host::start());
    let (client, mut server) = here.inside(|| connection("127.0.0.1:8080"));
    server.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(n) = server.write(&[7; 50_000]) {
        sent += n;
    }
    let made = cross(&here, &there, vec![client.into(), server.into()]);
    let mut made = made.into_iter().map(TcpStream::from);
    let mut client = made.next().unwrap();
    drop(made);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!((got.len(), got.iter().all(|b| *b == 7)), (sent, true));
}

#[test]
fn connections_that_are_to_end_are_found_reset() {
    let (here, there) = (Host::start(), Host::start());
    let (mut client, server) = here.inside(|| connection("127.0.0.1:8080"));
    client.write_all(b"a request").unwrap();
    let reset = |stream: &TcpStream| {
        let events = socket::events(stream.as_fd()).unwrap();
        let wanted = socket::POLLERR | socket::POLLHUP | socket::POLLIN | socket::POLLRDHUP;
        assert_eq!(events & wanted, wanted);
        let (mut reader, mut writer) = (stream, stream);
        let error = reader.read(&mut [0; 99]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(reader.read(&mut [0; 99]).unwrap(), 0);
        let error = writer.write(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    };
    let fds = || vec![OwnedFd::from(server.try_clone().unwrap())];
    let taken = take_with(&here, &fds(), Connections::Closed).unwrap();
    let made = give_with(&there, taken, &[], Connections::Closed).unwrap();
    reset(&made.into_iter().next().unwrap().into());
    let taken = take_with(&here, &fds(), Connections::Established).unwrap();
    let made = give_with(&there, taken, &[], Connections::Closed).unwrap();
    reset(&made.into_iter().next().unwrap().into());
    let mut text = [0; 9];
    (&server).read_exact(&mut text).unwrap();
    assert_eq!(&text, b"a request", "the original has noticed nothing");
}

#[test]
fn clients_not_accepted_are_left_behind_where_connections_are_to_end() {
    let here = Host::start();
    let (listener, _client) = here.inside(|| {
        let listener = listening("127.0.0.1:80", &[], 5);
        (listener, TcpStream::connect("127.0.0.1:80").unwrap())
    });
    let fds = [listener];
    let Err(Error::Blocked(blockers)) = take_with(&here, &fds, Connections::Established) else {
        panic!("it was taken");
    };
    assert!(blockers[0].remedy.contains("--tcp close"));
    let there = Host::start();
    let taken = take_with(&here, &fds, Connections::Closed).unwrap();
    let made = give_with(&there, taken, &[], Connections::Closed).unwrap();
    assert_eq!(tcp_info(made[0].as_fd()).unwrap().unacked, 0);
}

/// A socket that waits for an answer that does not come: packets to there lead nowhere.
fn connecting() -> OwnedFd {
    let run = |args: &[&str]| {
        let status = std::process::Command::new("ip").args(args).status();
        assert!(status.unwrap().success());
    };
    run(&["addr", "add", "10.9.8.7/32", "dev", "lo"]);
    run(&["link", "add", "dead", "type", "bridge"]);
    run(&["link", "set", "dead", "up"]);
    run(&[
        "route",
        "add",
        "10.1.1.0/24",
        "dev",
        "dead",
        "src",
        "10.9.8.7",
    ]);
    let made = socket::create(socket::AF_INET, socket::SOCK_STREAM, 0).unwrap();
    let flags = kernel::descriptor::flags(made.as_fd()).unwrap();
    let quick = flags | kernel::descriptor::O_NONBLOCK;
    kernel::descriptor::set_flags(made.as_fd(), quick).unwrap();
    let there = socket::address::internet(&"10.1.1.1:80".parse().unwrap());
    assert!(socket::connect(made.as_fd(), &there).is_err());
    assert_eq!(state(&made), 2, "SYN_SENT");
    made
}

#[test]
fn a_connection_being_made_is_made_or_refused() {
    let here = Host::start();
    let fds = [here.inside(connecting)];
    let name = socket::name(fds[0].as_fd()).unwrap();
    let taken = take_with(&here, &fds, Connections::Established).unwrap();
    socket::set_number(fds[0].as_fd(), IPPROTO_TCP, TCP_REPAIR, 1).unwrap();
    drop(fds);
    let made = give_with(&here, taken, &[], Connections::Established).unwrap();
    assert_eq!(state(&made[0]), 2, "SYN_SENT");
    assert_eq!(socket::name(made[0].as_fd()).unwrap(), name);

    let taken = take_with(&here, &made, Connections::Closed).unwrap();
    let there = Host::start();
    let made = give_with(&there, taken, &[], Connections::Closed).unwrap();
    let events = socket::events(made[0].as_fd()).unwrap();
    assert_eq!(events & socket::POLLERR, socket::POLLERR);
    let error = socket::number(made[0].as_fd(), SOL_SOCKET, socket::SO_ERROR).unwrap();
    assert_eq!(error, 111, "ECONNREFUSED");
}

#[test]
fn without_its_address_a_connection_cannot_go_on_and_says_so() {
    let (here, there) = (Host::start(), Host::start());
    let server = here.inside(|| {
        let run = std::process::Command::new("ip")
            .args(["addr", "add", "10.9.8.7/32", "dev", "lo"])
            .status();
        assert!(run.unwrap().success());
        let listener = TcpListener::bind("10.9.8.7:80").unwrap();
        let client = TcpStream::connect("10.9.8.7:80").unwrap();
        std::mem::forget(client);
        listener.accept().unwrap().0
    });
    let taken = take_with(&here, &[server.into()], Connections::Established).unwrap();
    let error = give_with(&there, taken, &[], Connections::Established).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("10.9.8.7") && error.contains("not here") && error.contains("--tcp close"),
        "{error}"
    );
}
