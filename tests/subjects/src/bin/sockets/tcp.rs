//! TCP sockets: a service with its options, and what a server keeps for a moment after it has answered: connections that
//! the client has closed, that both have closed, and one thrown away. And connections between two of its own sockets: one
//! with half-read data, two with an urgent byte, one in which as much waits as there is room for, and one half-closed.
#![forbid(unsafe_code)]

use nix::sys::socket::{MsgFlags, getsockopt, recv, send, setsockopt, sockopt};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;
use subject::Stage;

const AT: &str = "127.0.0.1:18230";

fn connection(service: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(AT).expect("connect");
    let (server, _) = service.accept().expect("accept");
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs(10)))
            .expect("SO_RCVTIMEO");
    }
    (client, server)
}

fn settle() {
    // The last segments of a connection that ends: they cross the loopback interface at once.
    std::thread::sleep(Duration::from_millis(50));
}

/// Bytes of which each tells its place.
fn numbers(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|n| (n % 251) as u8).collect()
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    let service = TcpListener::bind(AT).expect("bind");
    setsockopt(&service, sockopt::KeepAlive, &true).expect("SO_KEEPALIVE");
    setsockopt(&service, sockopt::TcpKeepIdle, &77).expect("TCP_KEEPIDLE");
    let dual = TcpListener::bind("[::]:18231").expect("bind");

    let (mut client, mut left) = connection(&service);
    client.write_all(b"last words").expect("write");
    drop(client);

    let (mut client, mut both) = connection(&service);
    client.write_all(b"thanks").expect("write");
    both.shutdown(Shutdown::Write).expect("shutdown");
    drop(client);

    let (client, mut thrown) = connection(&service);
    setsockopt(
        &client,
        sockopt::Linger,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )
    .expect("SO_LINGER");
    drop(client);

    let (mut asking, mut answering) = connection(&service);
    asking.write_all(b"more").expect("write");
    drop(asking);
    answering.set_nodelay(true).expect("TCP_NODELAY");

    let (mut here, mut there) = connection(&service);
    here.write_all(b"half read").expect("write");
    there.read_exact(&mut [0; 5]).expect("read");
    there.write_all(b"unread").expect("write");
    there.set_nodelay(true).expect("TCP_NODELAY");
    let ends = (here.local_addr().ok(), here.peer_addr().ok());

    let (mut full, mut slow) = connection(&service);
    full.set_nonblocking(true).expect("O_NONBLOCK");
    let mut sent = 0;
    while let Ok(n) = full.write(&numbers(sent, 10_000)) {
        sent += n;
    }

    let (mut asks, mut answers) = connection(&service);
    asks.write_all(b"what time is it").expect("write");
    asks.shutdown(Shutdown::Write).expect("shutdown");

    let (mut calling, mut called) = connection(&service);
    calling.write_all(b"abc").expect("write");
    send(calling.as_raw_fd(), b"!", MsgFlags::MSG_OOB).expect("MSG_OOB");
    calling.write_all(b"def").expect("write");
    let (mut turned, mut turn) = connection(&service);
    setsockopt(&turn, sockopt::OobInline, &true).expect("SO_OOBINLINE");
    send(turned.as_raw_fd(), b"?", MsgFlags::MSG_OOB).expect("MSG_OOB");
    turned.write_all(b"ghi").expect("write");
    settle();

    stage.wait();

    let mut text = [0; 9];
    let read = called.read(&mut text).map_err(|e| e.kind());
    stage.same("what comes before the urgent byte", Ok(3), read);
    let urgent = recv(called.as_raw_fd(), &mut text, MsgFlags::MSG_OOB);
    stage.same("reading the urgent byte", Ok(1), urgent);
    stage.same("the urgent byte", b'!', text[0]);
    let read = called.read(&mut text).map_err(|e| e.kind());
    stage.same("what comes behind it", Ok(3), read);
    stage.same("that", &b"def"[..], &text[..3]);
    let read = turn.read(&mut text).map_err(|e| e.kind());
    stage.same("reading in turn", Ok(4), read);
    stage.same("in its turn", &b"?ghi"[..], &text[..4]);
    for (one, other) in [(&mut calling, &mut called), (&mut turned, &mut turn)] {
        let echoed = one
            .write_all(b"more")
            .and_then(|()| other.read_exact(&mut text[..4]));
        stage.same("going on after it", Ok(()), echoed.map_err(|e| e.kind()));
    }

    stage.same(
        "both ends",
        ends,
        (here.local_addr().ok(), here.peer_addr().ok()),
    );
    for (stream, words) in [(&mut there, "read"), (&mut here, "unread")] {
        let mut text = [0; 6];
        let text = &mut text[..words.len()];
        let read = stream.read_exact(text).map_err(|e| e.kind());
        stage.same("reading", Ok(()), read);
        stage.same("what was left to read", words.as_bytes(), text);
    }
    let echoed = here
        .write_all(b"more")
        .and_then(|()| there.read_exact(&mut [0; 4]))
        .and_then(|()| there.write_all(b"more"))
        .and_then(|()| here.read_exact(&mut [0; 4]));
    stage.same("going on", Ok(()), echoed.map_err(|e| e.kind()));
    drop(here);
    let end = there.read(&mut [0]).map_err(|e| e.kind());
    stage.same("its end", Ok(0), end);

    drop(full);
    let mut all = Vec::new();
    let read = slow.read_to_end(&mut all).map_err(|e| e.kind());
    stage.same("reading what waited", Ok(sent), read);
    stage.holds("what waited", all == numbers(0, sent));

    let mut text = String::new();
    let heard = answers
        .read_to_string(&mut text)
        .and_then(|_| answers.write_all(b"late"));
    stage.same("hearing the question", Ok(()), heard.map_err(|e| e.kind()));
    stage.same("the question", "what time is it", text.as_str());
    drop(answers);
    text.clear();
    let heard = asks.read_to_string(&mut text).map_err(|e| e.kind());
    stage.same("hearing the answer", Ok(4), heard);

    stage.same(
        "the address",
        AT,
        service.local_addr().expect("a name").to_string().as_str(),
    );
    stage.same(
        "SO_KEEPALIVE",
        Ok(true),
        getsockopt(&service, sockopt::KeepAlive),
    );
    stage.same(
        "TCP_KEEPIDLE",
        Ok(77),
        getsockopt(&service, sockopt::TcpKeepIdle),
    );
    stage.same(
        "TCP_NODELAY",
        true,
        answering.nodelay().expect("TCP_NODELAY"),
    );

    let mut text = String::new();
    stage.holds(
        "the end of the client's",
        left.read_to_string(&mut text).is_ok(),
    );
    stage.same("what it said", "last words", text.as_str());
    text.clear();
    stage.holds("the end of both", both.read_to_string(&mut text).is_ok());
    stage.same("what was said", "thanks", text.as_str());
    let broken = both.write(b"x").map_err(|e| e.kind());
    stage.same("writing there", Err(ErrorKind::BrokenPipe), broken);
    let reset = thrown.read(&mut [0]).map_err(|e| e.kind());
    stage.same(
        "the one thrown away",
        Err(ErrorKind::ConnectionReset),
        reset,
    );
    stage.same(
        "what is left in a queue",
        Ok(4),
        answering.read(&mut [0; 9]).map_err(|e| e.kind()),
    );
    stage.same(
        "its end",
        Ok(0),
        answering.read(&mut [0; 9]).map_err(|e| e.kind()),
    );

    for (listener, at) in [
        (&service, AT),
        (&dual, "127.0.0.1:18231"),
        (&dual, "[::1]:18231"),
    ] {
        let served = TcpStream::connect(at).and_then(|mut client| {
            let (mut server, _) = listener.accept()?;
            client.write_all(b"ping")?;
            server.read_exact(&mut [0; 4])
        });
        stage.holds(&format!("serving at {at}"), served.is_ok());
    }
    stage.leave()
}
