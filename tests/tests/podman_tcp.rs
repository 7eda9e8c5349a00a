//! Connections of podman's containers with the outside that survive a move into another container with the same address.
#![forbid(unsafe_code)]

use ferry_tests::{LONG, Podman, until};

/// Says back whatever it hears, to one client.
const ECHO: &str = "import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', 9000)); s.listen(); c, _ = s.accept()
while d := c.recv(65536): c.sendall(d)
";

/// Sends numbered lines, several of them on their way at any time, until it is told to stop; each has to come back once.
const CLIENT: &str = "import collections, os, socket, sys, time
s = socket.create_connection((sys.argv[1], 9000), 60); f = s.makefile('rb'); sent, due = 0, collections.deque()
while due or not os.path.exists(sys.argv[2]):
    while len(due) < 50 and not os.path.exists(sys.argv[2]):
        line = b'%d %s\\n' % (sent, b'x' * (sent % 3000)); s.sendall(line); due.append(line); sent += 1
    heard, wanted = f.readline(), due.popleft()
    assert heard == wanted, (heard[:20], wanted[:20])
    if sent % 100 == 0: print(sent, flush=True); time.sleep(0.01)
s.shutdown(socket.SHUT_WR); assert f.read() == b''; print('all', flush=True)
";

#[test]
fn a_client_outside_goes_on_through_three_containers_with_the_same_address() {
    let host = Podman::new("alder");
    let (echo, client) = (host.path("echo.py"), host.path("client.py"));
    std::fs::write(&echo, ECHO).expect("write the service");
    std::fs::write(&client, CLIENT).expect("write the client");
    let shared = format!("-v {}:/echo.py:ro", echo.display());
    let mut service = host.run(
        "g0",
        &format!("--ip 10.88.0.50 {shared} base python3 /echo.py"),
    );
    until("it to listen", LONG, || {
        let listens = service.exec("ss -Hltn 'sport = 9000' | grep -q .");
        (listens.code == 0).then_some(())
    });
    // The client is in a network of its own, which is routed to podman's.
    let (stop, output) = (host.path("stop"), host.path("client.out"));
    host.sh(
        "ip netns add away && ip link add near type veth peer name far netns away && ip addr add 198.51.100.1/24 dev near && \
         ip link set near up && ip -n away addr add 198.51.100.2/24 dev far && ip -n away link set far up && \
         ip -n away route add default via 198.51.100.1 && sysctl -qw net.ipv4.ip_forward=1",
    )
    .ok();
    let said = || std::fs::read_to_string(&output).unwrap_or_default();
    let count = || {
        let said = said();
        let mut numbers = said.lines().filter_map(|line| line.parse::<u64>().ok());
        numbers.next_back().unwrap_or(0)
    };
    let more = |than: u64| {
        until("the client to go on", LONG, || {
            (count() > than).then_some(())
        })
    };
    host.start(
        &format!(
            "ip netns exec away python3 {} 10.88.0.50 {}",
            client.display(),
            stop.display()
        ),
        &output,
    );
    more(300);
    for generation in 1..=3 {
        let archive = service.taken("--tcp established");
        host.sh(&format!("podman rm {}", service.name)).ok();
        let words = format!("-n g{generation} --ip 10.88.0.50 --tcp established");
        service = host.restored(&words, &archive);
        assert_eq!(service.address(), "10.88.0.50");
        let before = count();
        more(before + 300);
    }
    std::fs::write(&stop, "").expect("stop the client");
    until("all to have come back", LONG, || {
        let said = said();
        assert!(!said.contains("Error"), "{said}");
        said.ends_with("all\n").then_some(())
    });
    service.becomes("exited");
    assert_eq!(service.inspect("{{.State.ExitCode}}"), "0");
}
