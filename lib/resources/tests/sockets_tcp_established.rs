//! Established TCP connections, taken from a live kernel and given back to it.

mod connections;
mod crossing;

use connections::{
    SO_KEEPALIVE, SO_OOBINLINE, TCP_REPAIR, connection, hushed, listening, state, vanish, wait_for,
};
use crossing::{Host, cross, give_with, take_with};
use image::sockets::tcp::Connections;
use kernel::sock_diag;
use kernel::socket::repair::tcp_info;
use kernel::socket::signature::Signature;
use kernel::socket::{self, IPPROTO_TCP, SOL_SOCKET, urgent};
use resources::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

/// Taken to go on; what is closed here says nothing, as after a checkpoint.
fn go_on(here: &Host, end: TcpStream) -> TcpStream {
    let fd: OwnedFd = end.try_clone().unwrap().into();
    let _hushed = here.inside(|| hushed(&end));
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

/// What was received reads as it came, with the urgent byte in its place.
fn reads_urgently(server: &mut TcpStream, read: bool) {
    let mut text = [0; 9];
    let fd = server.try_clone().unwrap();
    let (all, mark) = urgent::waiting(fd.as_fd()).unwrap();
    assert_eq!((all, mark), (7, Some(urgent::Mark { at: 3, read })));
    let events = socket::events(fd.as_fd()).unwrap();
    assert_eq!(events & socket::POLLPRI != 0, !read);
    assert_eq!(server.read(&mut text).unwrap(), 3);
    assert_eq!(&text[..3], b"abc");
    if !read {
        urgent::take(fd.as_fd()).unwrap();
    }
    assert_eq!(server.read(&mut text).unwrap(), 3);
    assert_eq!(&text[..3], b"def", "without the urgent byte");
}

#[test]
fn urgent_data_is_urgent_still() {
    for at in ["127.0.0.1:8080", "[::1]:8080"] {
        for read in [false, true] {
            let here = Host::start();
            let (mut client, server) = here.inside(|| connection(at));
            client.write_all(b"abc").unwrap();
            urgent::send(client.as_fd(), b'!').unwrap();
            client.write_all(b"def").unwrap();
            if read {
                urgent::take(server.as_fd()).unwrap();
            }
            // Twice: what was given back can be taken again.
            let server = go_on(&here, server);
            let mut server = go_on(&here, server);
            reads_urgently(&mut server, read);
            client.write_all(b"more").unwrap();
            server.read_exact(&mut [0; 4]).unwrap();
            server.write_all(b"answer").unwrap();
            client.read_exact(&mut [0; 6]).unwrap();
        }
    }
}

#[test]
fn urgent_data_in_its_turn_comes_in_its_turn_after_the_end() {
    for both in [false, true] {
        let here = Host::start();
        let (mut client, server) = here.inside(|| connection("127.0.0.1:8080"));
        socket::set_number(server.as_fd(), SOL_SOCKET, SO_OOBINLINE, 1).unwrap();
        urgent::send(client.as_fd(), b'!').unwrap();
        client.write_all(b"def").unwrap();
        drop(client);
        wait_for(&server, 8);
        if both {
            server.shutdown(std::net::Shutdown::Write).unwrap();
            wait_for(&server, 7);
        }
        let mut server = match both {
            true => TcpStream::from(cross(&here, &here, vec![server.into()]).remove(0)),
            false => go_on(&here, server),
        };
        assert_eq!(state(&server), if both { 7 } else { 8 });
        let mark = Some(urgent::Mark { at: 0, read: false });
        assert_eq!(urgent::waiting(server.as_fd()).unwrap(), (4, mark));
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "!def");
    }
}

#[test]
fn what_signs_its_segments_does_so_with_the_same_keys() {
    const TCP_MD5SIG_EXT: i32 = 32;
    let here = Host::start();
    let keys = |network: &str| Signature {
        peer: network.parse().unwrap(),
        prefix: 8,
        key: b"secret".to_vec(),
    };
    let sign = |fd: &dyn AsFd, network| {
        let option = keys(network).option(socket::AF_INET);
        socket::set_option(fd.as_fd(), IPPROTO_TCP, TCP_MD5SIG_EXT, &option)
    };
    let Some((service, mut client, server)) = here.inside(|| {
        let service = TcpListener::bind("127.0.0.1:179").unwrap();
        if let Err(error) = sign(&service, "127.0.0.0") {
            println!("1 kind of socket is not here: TCP-MD5: {error}");
            return None;
        }
        sign(&service, "10.0.0.0").unwrap();
        let client = socket::create(socket::AF_INET, socket::SOCK_STREAM, 0).unwrap();
        sign(&client, "127.0.0.0").unwrap();
        let at = socket::name(service.as_fd()).unwrap();
        socket::connect(client.as_fd(), &at).unwrap();
        let server = service.accept().unwrap().0;
        Some((service, TcpStream::from(client), server))
    }) else {
        return;
    };
    client
        .set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    urgent::send(client.as_fd(), b'!').unwrap();
    let mut server = go_on(&here, server);
    let mark = Some(urgent::Mark { at: 0, read: false });
    assert_eq!(urgent::waiting(server.as_fd()).unwrap(), (1, mark));
    client.write_all(b"question").unwrap();
    server
        .set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    let mut text = [0; 8];
    server.read_exact(&mut text).unwrap();
    server.write_all(&text).unwrap();
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"question");

    let inode = socket::inode(service.as_fd()).unwrap();
    let all = here.inside(|| sock_diag::tcp_keys().unwrap());
    let mut before = all[&inode].clone();
    before.sort_by_key(|key| key.peer);
    assert_eq!(before, [keys("10.0.0.0"), keys("127.0.0.0")]);
    let there = Host::start();
    let made = cross(&here, &there, vec![service.into()]).remove(0);
    let inode = socket::inode(made.as_fd()).unwrap();
    let mut after = there.inside(|| sock_diag::tcp_keys().unwrap())[&inode].clone();
    after.sort_by_key(|key| key.peer);
    assert_eq!(after, before);
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
