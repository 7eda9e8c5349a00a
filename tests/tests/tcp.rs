//! TCP connections that live while the container at one of their ends moves: a third host talks to it all the time.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Restored, programs, until};
use std::path::Path;

const PORT: u16 = 9000;
const NETWORK: &str = "10.213.64.0/20";

/// Two hosts, and a third with a cable to each, that reaches containers by way of whichever it is told.
struct World {
    hosts: [Host; 2],
    client: Host,
}

impl World {
    fn new() -> Self {
        let world = World {
            hosts: [Host::new("alder"), Host::new("birch")],
            client: Host::new("cedar"),
        };
        for (i, host) in world.hosts.iter().enumerate() {
            world.client.cable(host, &format!("wire{i}"), 4 * i as u8);
            host.sh("sysctl -qw net.ipv4.ip_forward=1").ok();
        }
        world
    }

    /// The containers' addresses are on this host from now on.
    fn lead_to(&self, host: usize) {
        let gateway = 4 * host + 2;
        self.client
            .sh(&format!(
                "ip route replace {NETWORK} via 198.51.100.{gateway}"
            ))
            .ok();
    }
}

fn ledger(words: &str) -> String {
    let program = programs().join("ledger.py");
    format!("/usr/bin/python3 {} {words}", program.display())
}

/// The server as the native container `ledger`, with its address.
fn serve(host: &Host) -> Restored {
    let program = Program::shared(host, "ledger", &ledger(&format!("serve {PORT}")));
    until("the server to listen", LONG, || {
        let listening = host.sh(&format!("ss -Hltn sport = :{PORT}")).stdout;
        listening.contains("LISTEN").then_some(())
    });
    let file = host.path("start.ckpt").display().to_string();
    host.sh(&format!("checkpoint pid:{} | pack > {file}", program.pid))
        .ok();
    Restored::read(&host.sh(&format!("restore --json -n ledger < {file}")).ok())
}

/// Sends numbers for some seconds; its words come in a file.
fn send(client: &Host, name: &str, address: &str, seconds: u32) -> std::path::PathBuf {
    let output = client.path(name);
    client.start(
        &ledger(&format!("send {address} {PORT} {seconds}")),
        &output,
    );
    says(&output, "connected");
    output
}

#[track_caller]
fn says(output: &Path, words: &str) -> String {
    until(&format!("`{words}` of the client"), LONG, || {
        let said = std::fs::read_to_string(output).unwrap_or_default();
        let failed = ["closed", "was", "Traceback", "no answer"];
        assert!(!failed.iter().any(|word| said.contains(word)), "{said}");
        said.contains(words).then_some(said)
    })
}

fn no_tables(host: &Host) {
    let tables = host.sh("nft list tables").ok();
    assert!(!tables.contains("inet ferry"), "{tables}");
}

#[test]
fn a_client_that_never_stops_talking_follows_its_server_through_moves() {
    let world = World::new();
    world.lead_to(0);
    let address = serve(&world.hosts[0]).addresses[0].clone();
    let output = send(&world.client, "client", &address, 14);
    let mut at = 0;
    for _ in 0..6 {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let there = 1 - at;
        let file = world.client.path("ledger.ckpt").display().to_string();
        world.hosts[at]
            .sh(&format!(
                "checkpoint --tcp established native:ledger | pack > {file}"
            ))
            .ok();
        let report = world.hosts[there]
            .sh(&format!(
                "restore --json -n ledger --tcp established < {file}"
            ))
            .ok();
        assert_eq!(Restored::read(&report).addresses, [address.clone()]);
        world.lead_to(there);
        at = there;
    }
    let said = says(&output, "longest pause");
    assert!(said.contains("sent 14000, answered 14000"), "{said}");
    for host in &world.hosts {
        no_tables(host);
    }
}
