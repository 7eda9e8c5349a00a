//! UDP sockets: datagrams not yet read with their senders, a connected one, a multicast group; an unbound one.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;
use subject::Stage;

const AT: &str = "127.0.0.1:18240";

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

    stage.wait();

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
