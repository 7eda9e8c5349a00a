//! Unix sockets, taken from a live kernel and given back to it.

mod crossing;

use crossing::{Host, cross, give, take};
use kernel::socket::{self, SOL_SOCKET, address};
use resources::Error;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

fn two<T: From<OwnedFd>>(fds: Vec<OwnedFd>) -> [T; 2] {
    let made: Vec<T> = fds.into_iter().map(T::from).collect();
    made.try_into().ok().expect("two sockets")
}

#[test]
fn a_pair_keeps_what_is_in_it_both_ways() {
    let (here, there) = (Host::start(), Host::start());
    let (mut a, mut b) = here.inside(|| UnixStream::pair().unwrap());
    a.write_all(b"to b").unwrap();
    b.write_all(&vec![7; 100_000]).unwrap();
    a.set_read_timeout(Some(std::time::Duration::from_millis(1500)))
        .unwrap();
    let [mut a, mut b] = two::<UnixStream>(cross(&here, &there, vec![a.into(), b.into()]));
    assert_eq!(
        a.read_timeout().unwrap(),
        Some(std::time::Duration::from_millis(1500))
    );
    let mut text = vec![0; 100_000];
    a.read_exact(&mut text).unwrap();
    assert!(text.iter().all(|b| *b == 7));
    b.read_exact(&mut text[..4]).unwrap();
    assert_eq!(&text[..4], b"to b");
    a.write_all(b"again").unwrap();
    b.read_exact(&mut text[..5]).unwrap();
    assert_eq!(&text[..5], b"again");
}

#[test]
fn the_source_goes_on_as_if_nobody_had_looked() {
    let here = Host::start();
    let (mut a, mut b) = here.inside(|| UnixStream::pair().unwrap());
    a.write_all(b"hello").unwrap();
    let sockets = vec![
        OwnedFd::from(a.try_clone().unwrap()),
        OwnedFd::from(b.try_clone().unwrap()),
    ];
    take(&here, &sockets).unwrap();
    let mut text = [0; 5];
    b.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
    assert_eq!(
        socket::number(b.as_fd(), SOL_SOCKET, socket::SO_PEEK_OFF).unwrap(),
        -1
    );
}

#[test]
fn descriptors_in_flight_come_with_their_own_byte() {
    let (here, there) = (Host::start(), Host::start());
    let (a, b) = here.inside(|| UnixStream::pair().unwrap());
    let (inner, mut other) = here.inside(|| UnixStream::pair().unwrap());
    other.write_all(b"within").unwrap();
    let file = std::fs::File::open("/proc/self/status").unwrap();
    socket::send(a.as_fd(), b"before", None, &[], None).unwrap();
    socket::send(
        a.as_fd(),
        b"with",
        None,
        &[inner.as_fd(), file.as_fd()],
        None,
    )
    .unwrap();
    socket::send(a.as_fd(), b"after", None, &[], None).unwrap();
    drop(inner);
    let mut made = cross(&here, &there, vec![a.into(), b.into(), other.into()]);
    made.truncate(2);
    let [_a, b] = two::<OwnedFd>(made);
    let mut b = UnixStream::from(b);
    let mut plain = [0; 6];
    b.read_exact(&mut plain).unwrap();
    assert_eq!(&plain, b"before");
    let with = socket::peek(b.as_fd(), 100).unwrap().unwrap();
    assert_eq!((&with.bytes[..], with.rights.len()), (&b"with"[..], 2));
    let mut rights = with.rights.into_iter();
    let mut inner = UnixStream::from(rights.next().unwrap());
    let mut text = [0; 6];
    inner.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"within");
    let mut status = String::new();
    std::fs::File::from(rights.next().unwrap())
        .read_to_string(&mut status)
        .unwrap();
    assert!(status.starts_with("Name:"));
}

#[test]
fn a_service_keeps_its_name_its_file_its_clients_and_those_at_the_door() {
    let (here, there) = (Host::start(), Host::start());
    let path = "/mnt/service";
    let (listener, accepted, client, waiting) = here.inside(|| {
        let listener = UnixListener::bind(path).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).unwrap();
        std::os::unix::fs::chown(path, Some(33), Some(34)).unwrap();
        let mut client = UnixStream::connect(path).unwrap();
        client.write_all(b"request").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        (
            listener,
            accepted,
            client,
            UnixStream::connect(path).unwrap(),
        )
    });
    let sockets = vec![
        listener.into(),
        accepted.into(),
        client.into(),
        waiting.into(),
    ];
    let mut made = cross(&here, &there, sockets).into_iter();
    let listener = UnixListener::from(made.next().unwrap());
    let mut accepted = UnixStream::from(made.next().unwrap());
    let mut client = UnixStream::from(made.next().unwrap());
    let mut waiting = UnixStream::from(made.next().unwrap());
    assert_eq!(
        client.peer_addr().unwrap().as_pathname().unwrap().to_str(),
        Some(path)
    );
    assert_eq!(
        accepted
            .local_addr()
            .unwrap()
            .as_pathname()
            .unwrap()
            .to_str(),
        Some(path)
    );
    let mut text = [0; 7];
    accepted.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"request");
    accepted.write_all(b"answer!").unwrap();
    client.read_exact(&mut text).unwrap();
    let (mut late, _) = listener.accept().unwrap();
    waiting.write_all(b"me too!").unwrap();
    late.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"me too!");
    let (meta, newcomer) =
        there.inside(|| (std::fs::metadata(path).unwrap(), UnixStream::connect(path)));
    assert_eq!(
        (meta.mode() & 0o777, meta.uid(), meta.gid()),
        (0o660, 33, 34)
    );
    newcomer.unwrap();
    listener.accept().unwrap();
}

#[test]
fn a_service_of_the_abstract_namespace_keeps_all_its_connections() {
    let (here, there) = (Host::start(), Host::start());
    let sockets = here.inside(|| {
        let name = SocketAddr::from_abstract_name(b"ser\0vice").unwrap();
        let listener = UnixListener::bind_addr(&name).unwrap();
        let mut sockets = Vec::new();
        for _ in 0..3 {
            let client = UnixStream::connect_addr(&name).unwrap();
            sockets.extend([OwnedFd::from(client), listener.accept().unwrap().0.into()]);
        }
        sockets.push(listener.into());
        sockets
    });
    let made = cross(&here, &there, sockets);
    for pair in made.chunks_exact(2) {
        let mut client = UnixStream::from(pair[0].try_clone().unwrap());
        let mut server = UnixStream::from(pair[1].try_clone().unwrap());
        assert_eq!(
            server.local_addr().unwrap().as_abstract_name(),
            Some(&b"ser\0vice"[..])
        );
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn a_file_that_was_removed_leaves_the_name() {
    let (here, there) = (Host::start(), Host::start());
    let listener = here.inside(|| {
        std::fs::create_dir("/mnt/gone").unwrap();
        let listener = UnixListener::bind("/mnt/gone/service").unwrap();
        std::fs::remove_dir_all("/mnt/gone").unwrap();
        listener
    });
    let made = UnixListener::from(cross(&here, &there, vec![listener.into()]).remove(0));
    let name = made.local_addr().unwrap();
    assert_eq!(
        name.as_pathname().unwrap().to_str(),
        Some("/mnt/gone/service")
    );
    assert!(!there.inside(|| std::path::Path::new("/mnt/gone").exists()));
}

#[test]
fn a_closed_peer_stays_closed_after_what_it_said() {
    let (here, there) = (Host::start(), Host::start());
    let (mut a, b) = here.inside(|| UnixStream::pair().unwrap());
    a.write_all(b"last words").unwrap();
    drop(a);
    let mut b = UnixStream::from(cross(&here, &there, vec![b.into()]).remove(0));
    let mut text = String::new();
    b.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
    assert_eq!(b.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_reset_that_waits_is_still_to_be_read() {
    let (here, there) = (Host::start(), Host::start());
    let (a, mut b) = here.inside(|| UnixStream::pair().unwrap());
    b.write_all(b"never read").unwrap();
    drop(a);
    let mut b = UnixStream::from(cross(&here, &there, vec![b.into()]).remove(0));
    assert_eq!(
        b.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(b.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_direction_that_was_shut_stays_shut() {
    let (here, there) = (Host::start(), Host::start());
    let (mut a, b) = here.inside(|| UnixStream::pair().unwrap());
    a.write_all(b"end").unwrap();
    a.shutdown(std::net::Shutdown::Write).unwrap();
    let [mut a, mut b] = two::<UnixStream>(cross(&here, &there, vec![a.into(), b.into()]));
    let mut text = String::new();
    b.read_to_string(&mut text).unwrap();
    assert_eq!(text, "end");
    assert_eq!(a.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    b.write_all(b"back").unwrap();
    a.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn datagrams_keep_their_bounds_and_their_senders() {
    let (here, there) = (Host::start(), Host::start());
    let sockets = here.inside(|| {
        let server = UnixDatagram::bind("/mnt/log").unwrap();
        let named = UnixDatagram::bind("/mnt/client").unwrap();
        let gone = UnixDatagram::bind("/mnt/gone").unwrap();
        named.send_to(b"one", "/mnt/log").unwrap();
        gone.send_to(b"", "/mnt/log").unwrap();
        UnixDatagram::unbound()
            .unwrap()
            .send_to(b"three", "/mnt/log")
            .unwrap();
        gone.send_to(b"four", "/mnt/log").unwrap();
        named.connect("/mnt/log").unwrap();
        std::fs::remove_file("/mnt/gone").unwrap();
        vec![OwnedFd::from(server), named.into()]
    });
    let [server, named] = two::<UnixDatagram>(cross(&here, &there, sockets));
    named.send(b"five").unwrap();
    let mut text = [0; 9];
    for (bytes, from) in [
        (&b"one"[..], Some("/mnt/client")),
        (b"", Some("/mnt/gone")),
        (b"three", None),
        (b"four", Some("/mnt/gone")),
        (b"five", Some("/mnt/client")),
    ] {
        let (len, who) = server.recv_from(&mut text).unwrap();
        assert_eq!(
            (&text[..len], who.as_pathname().and_then(|p| p.to_str())),
            (bytes, from)
        );
    }
    there
        .inside(|| UnixDatagram::unbound().unwrap().send_to(b"new", "/mnt/log"))
        .unwrap();
}

#[test]
fn datagram_and_packet_pairs_keep_their_bounds() {
    let (here, there) = (Host::start(), Host::start());
    for kind in [socket::SOCK_DGRAM, socket::SOCK_SEQPACKET] {
        let (a, b) = here.inside(|| socket::pair(socket::AF_UNIX, kind).unwrap());
        for text in [&b"one"[..], b"two", &[3; 90_000]] {
            socket::send(a.as_fd(), text, None, &[], None).unwrap();
        }
        let [a, b] = two::<OwnedFd>(cross(&here, &there, vec![a, b]));
        for (offset, text) in [(0, &b"one"[..]), (3, b"two"), (6, &[3; 90_000])] {
            assert_eq!(
                socket::peek_at(b.as_fd(), offset, 100_000)
                    .unwrap()
                    .unwrap()
                    .bytes,
                text
            );
        }
        socket::send(b.as_fd(), b"back", None, &[], None).unwrap();
        assert_eq!(socket::peek(a.as_fd(), 9).unwrap().unwrap().bytes, b"back");
    }
}

#[test]
fn credentials_of_connections_and_messages_stay() {
    let (here, there) = (Host::start(), Host::start());
    let sockets = here.inside(|| {
        let name = address::unix(b"\0who").unwrap();
        let listener = socket::create(socket::AF_UNIX, socket::SOCK_STREAM, 0).unwrap();
        let client = socket::create(socket::AF_UNIX, socket::SOCK_STREAM, 0).unwrap();
        socket::bind(listener.as_fd(), &name).unwrap();
        socket::root::as_user(11, 12, || socket::listen(listener.as_fd(), 5))
            .unwrap()
            .unwrap();
        socket::root::as_user(21, 22, || socket::connect(client.as_fd(), &name))
            .unwrap()
            .unwrap();
        let server = socket::accept(listener.as_fd()).unwrap();
        const SO_PASSCRED: i32 = 16;
        socket::set_number(server.as_fd(), SOL_SOCKET, SO_PASSCRED, 1).unwrap();
        let me = socket::Credentials {
            pid: std::process::id() as i32,
            uid: 31,
            gid: 32,
        };
        socket::send(client.as_fd(), b"me", None, &[], Some(me)).unwrap();
        vec![client, server]
    });
    let [client, server] = two::<OwnedFd>(cross(&here, &there, sockets));
    let shown = |fd: &OwnedFd| {
        socket::option(fd.as_fd(), SOL_SOCKET, socket::SO_PEERCRED, 12).unwrap()[4..].to_vec()
    };
    assert_eq!(shown(&client), [11, 0, 0, 0, 12, 0, 0, 0]);
    assert_eq!(shown(&server), [21, 0, 0, 0, 22, 0, 0, 0]);
    let message = socket::peek(server.as_fd(), 9).unwrap().unwrap();
    let who = message.credentials.unwrap();
    assert_eq!((who.uid, who.gid), (31, 32));
}

#[test]
fn a_peer_outside_is_a_blocker_that_names_it() {
    let here = Host::start();
    let (a, _b) = here.inside(|| UnixStream::pair().unwrap());
    let Err(Error::Blocked(blockers)) = take(&here, &[a.into()]) else {
        panic!("it was taken");
    };
    assert_eq!(blockers.len(), 1);
    let text = blockers[0].to_string();
    assert!(
        text.contains(&format!("of process {}", std::process::id())),
        "{text}"
    );
}

#[test]
fn a_name_in_use_is_refused_and_its_owner_left_alone() {
    let (here, there) = (Host::start(), Host::start());
    let listener = here.inside(|| UnixListener::bind("/mnt/service").unwrap());
    let taken = take(&here, &[listener.into()]).unwrap();
    let owner = there.inside(|| UnixListener::bind("/mnt/service").unwrap());
    let error = give(&there, taken, &[]).unwrap_err().to_string();
    assert!(
        error.contains("/mnt/service") && error.contains("another process uses"),
        "{error}"
    );
    there
        .inside(|| UnixStream::connect("/mnt/service"))
        .unwrap();
    drop(owner);
}

#[test]
fn a_client_that_has_sent_before_it_was_accepted_is_a_blocker() {
    let here = Host::start();
    let (service, client) = here.inside(|| {
        let service = UnixListener::bind("/mnt/door").unwrap();
        let mut client = UnixStream::connect("/mnt/door").unwrap();
        // It waits in a socket that has no descriptor before it is accepted.
        client.write_all(b"hello").unwrap();
        (service, client)
    });
    let Err(Error::Blocked(blockers)) = take(&here, &[service.into(), client.into()]) else {
        panic!("it was taken");
    };
    let said = &blockers[0].what;
    assert!(said.contains("sent before it was accepted"), "{said}");
}
