use super::*;
use nix::sched::{CloneFlags, unshare};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Does the work on a thread with a network of its own, loopback up.
fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
                let mut rt = crate::rtnetlink::Rtnetlink::open().unwrap();
                rt.set_up(LOOPBACK_INDEX, true).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

const LOOPBACK_INDEX: u32 = 1;

fn pair(at: &str) -> (TcpStream, TcpStream, TcpListener) {
    let listener = TcpListener::bind(at).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
    }
    (client, server, listener)
}

fn ends(stream: &TcpStream) -> Connection {
    (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
}

#[test]
fn a_connection_named_falls_silent_and_goes_on_without_a_loss() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        alone(|| {
            let (mut client, mut server, _listener) = pair(at);
            let (mut other, mut others, _) = pair(at);
            let mut table = Table::hush("ferry-test", &Newcomers::To(vec![])).unwrap();
            table.add(&[ends(&server)]).unwrap();
            client.write_all(b"hello").unwrap();
            let error = server.read(&mut [0; 9]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{at}");
            other.write_all(b"x").unwrap();
            others.read_exact(&mut [0]).unwrap();
            drop(table);
            server
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let mut text = [0; 5];
            server.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"hello");
        });
    }
}

#[test]
fn newcomers_wait_until_they_are_let_in() {
    alone(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let table = Table::hush("ferry-test", &Newcomers::To(vec![here.port()])).unwrap();
        let wait = Duration::from_millis(100);
        assert!(TcpStream::connect_timeout(&open.local_addr().unwrap(), wait).is_ok());
        assert!(TcpStream::connect_timeout(&here, wait).is_err());
        drop(table);
        assert!(TcpStream::connect_timeout(&here, wait).is_ok());
        let table = Table::hush("ferry-test", &Newcomers::All).unwrap();
        assert!(TcpStream::connect_timeout(&open.local_addr().unwrap(), wait).is_err());
        drop(table);
    });
}

#[test]
fn a_table_of_our_own_ends_with_its_owner_and_one_left_does_not() {
    alone(|| {
        let (mut client, mut server, _listener) = pair("127.0.0.1:0");
        let connection = ends(&server);
        // As when we are killed: nothing is told, the descriptor is closed.
        let mut table = Table::hush("ferry-own", &Newcomers::All).unwrap();
        for _ in 0..2 {
            table.leave("ferry-test", &[connection]).unwrap();
        }
        let number = table.socket.as_raw_fd();
        std::mem::forget(table);
        nix::unistd::close(number).unwrap();
        assert!(!remove("ferry-own").unwrap());
        client.write_all(b"x").unwrap();
        assert!(server.read(&mut [0]).is_err());
        assert!(is_there("ferry-test").unwrap() && !is_there("ferry-other").unwrap());
        assert!(remove("ferry-test").unwrap());
        assert!(!remove("ferry-test").unwrap());
    });
}

#[test]
fn many_connections_fit() {
    alone(|| {
        let many: Vec<Connection> = (0..3000)
            .map(|n| {
                let there = SocketAddr::new([10, 1, (n >> 8) as u8, n as u8].into(), 4711);
                ("10.0.0.1:80".parse().unwrap(), there)
            })
            .collect();
        let mut table = Table::hush("ferry-test", &Newcomers::All).unwrap();
        table.add(&many).unwrap();
        table.add(&many[..5]).unwrap();
    });
}

#[test]
fn what_goes_on_within_the_host_is_let_be() {
    alone(|| {
        let _table = Table::hush_all("ferry-test").unwrap();
        let (mut client, mut server, _listener) = pair("127.0.0.1:0");
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn the_ways_to_an_address_are_closed_to_all_but_newcomers() {
    for (at, address) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
        alone(|| {
            let (mut client, mut server, listener) = pair(at);
            let address = address.parse().unwrap();
            let table = Table::hush_ways("ferry-test", &[address]).unwrap();
            client.write_all(b"x").unwrap();
            assert!(server.read(&mut [0]).is_err());
            let to = listener.local_addr().unwrap();
            let begun = TcpStream::connect_timeout(&to, Duration::from_millis(100));
            assert!(begun.is_ok(), "{at}");
            drop(table);
        });
    }
}

#[test]
fn an_answer_is_good_when_the_last_message_is_and_bad_when_any_is_not() {
    let answer = |errno: i32, sequence: u32| {
        let mut bytes = 36u32.to_ne_bytes().to_vec();
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend((-errno).to_ne_bytes());
        bytes.resize(36, 0);
        bytes
    };
    assert_eq!(message::verdict(&answer(0, 4), 5), None);
    assert_eq!(message::verdict(&answer(0, 5), 5), Some(0));
    let both = [answer(22, 3), answer(0, 5)].concat();
    assert_eq!(message::verdict(&both, 5), Some(22));
    for len in 0..20 {
        assert_eq!(message::verdict(&answer(22, 5)[..len], 5), None);
    }
}
