//! TCP connections that live while the container at one of their ends moves: a third host talks to it all the time.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Restored, World, programs, until};
use std::path::Path;

const PORT: u16 = 9000;

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

/// Sends numbers for some seconds, for 0 until the file `enough` is there; its words come in a file.
fn send(client: &Host, name: &str, address: &str, seconds: u32) -> std::path::PathBuf {
    let output = client.path(name);
    client.start(
        &ledger(&format!(
            "send {address} {PORT} {seconds} {}",
            client.path("enough").display()
        )),
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

/// Waits for more answers than there were.
#[track_caller]
fn answered_more(output: &Path) {
    let lines = || {
        std::fs::read_to_string(output)
            .unwrap_or_default()
            .lines()
            .count()
    };
    let before = lines();
    // What is on its way at a move counts as well: more than that.
    until("more answers", LONG, || {
        (lines() > before + 2).then_some(())
    });
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
    let output = send(&world.client, "client", &address, 0);
    let mut at = 0;
    for _ in 0..10 {
        answered_more(&output);
        at = world.moved("ledger", &address, at).0;
    }
    answered_more(&output);
    std::fs::write(world.client.path("enough"), b"").expect("tell the client");
    let said = says(&output, "longest pause");
    let count = |word: &str| {
        let number = said.rsplit_once(word).expect("its counts").1;
        number.split([',', '\n']).next().map(str::to_owned)
    };
    assert_eq!(count("sent "), count("answered "), "{said}");
    for host in &world.hosts {
        no_tables(host);
    }
}

/// A client is talking, to the original on the first host.
fn talking(world: &World, seconds: u32) -> std::path::PathBuf {
    world.lead_to(0);
    let address = serve(&world.hosts[0]).addresses[0].clone();
    send(&world.client, "client", &address, seconds)
}

#[test]
fn a_checkpoint_that_fails_harms_no_connection() {
    let world = World::new();
    let output = talking(&world, 8);
    let host = &world.hosts[0];
    let take = "checkpoint --tcp established";
    host.sh(&format!("{take} native:ledger > /dev/full"))
        .fails_with(1);
    // Killed while nobody reads what it has to say, at different points on the way there.
    for hundredths in [2, 6, 10, 20, 40] {
        host.sh(&format!(
            "{take} native:ledger > >(sleep 1) & sleep 0.{hundredths:02}; kill -KILL $!; wait; true"
        ))
        .ok();
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    host.sh(&format!("{take} --leave-running native:ledger | verify"))
        .ok();
    host.sh(&format!("{take} --leave-frozen native:ledger | verify"))
        .ok();
    std::thread::sleep(std::time::Duration::from_millis(400));
    host.sh("checkpoint --thaw native:ledger").ok();
    let said = says(&output, "longest pause");
    assert!(said.contains("sent 8000, answered 8000"), "{said}");
    let tables = host.sh("ip netns exec ledger nft list tables").ok();
    assert_eq!(tables, "");
    no_tables(host);
}

/// An archive of the ledger, which stands still meanwhile.
fn frozen(host: &Host) -> String {
    let file = host.path("ledger.ckpt").display().to_string();
    let take = "checkpoint --tcp established --leave-frozen native:ledger";
    host.sh(&format!("{take} | pack > {file}")).ok();
    file
}

#[test]
fn a_restore_that_fails_leaves_the_connections_to_the_original() {
    let world = World::new();
    let output = talking(&world, 5);
    let [alder, birch] = &world.hosts;
    let file = frozen(alder);
    world.lead_to(1);
    // All but its end: everything was there when it is found out.
    birch
        .sh(&format!(
            "head -c -100 {file} | restore -n ledger --tcp established"
        ))
        .fails_with(3);
    std::thread::sleep(std::time::Duration::from_millis(300));
    world.lead_to(0);
    alder.sh("checkpoint --thaw native:ledger").ok();
    let said = says(&output, "longest pause");
    assert!(said.contains("sent 5000, answered 5000"), "{said}");
    no_tables(birch);
}

#[test]
fn a_hand_over_ends_the_original_without_a_word() {
    let world = World::new();
    let output = talking(&world, 5);
    let [alder, birch] = &world.hosts;
    let file = frozen(alder);
    birch
        .sh(&format!("restore -n ledger --tcp established < {file}"))
        .ok();
    world.lead_to(1);
    alder.sh("checkpoint --kill native:ledger").ok();
    let said = says(&output, "longest pause");
    assert!(said.contains("sent 5000, answered 5000"), "{said}");
}

#[test]
fn the_peers_of_a_container_in_the_hosts_network_wait_for_it() {
    let world = World::new();
    let host = &world.hosts[0];
    let program = Program::shared(host, "ledger", &ledger(&format!("serve {PORT}")));
    until("the server to listen", LONG, || {
        let listening = host.sh(&format!("ss -Hltn sport = :{PORT}")).stdout;
        listening.contains("LISTEN").then_some(())
    });
    let output = send(&world.client, "client", "198.51.100.2", 5);
    let file = host.path("ledger.ckpt").display().to_string();
    host.sh(&format!(
        "checkpoint --tcp-established pid:{} | pack > {file}",
        program.pid
    ))
    .ok();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(host.sh("nft list tables").ok().contains("inet ferry-"));
    host.sh(&format!("restore < {file}")).ok();
    let said = says(&output, "longest pause");
    assert!(said.contains("sent 5000, answered 5000"), "{said}");
    no_tables(host);
}

#[test]
fn without_a_word_about_it_each_peer_is_named() {
    let world = World::new();
    let output = talking(&world, 3);
    let host = &world.hosts[0];
    let refused = host
        .sh("checkpoint native:ledger > /dev/null")
        .fails_with(4);
    for words in [
        "established",
        "198.51.100.1:",
        "--tcp established",
        "--tcp close",
    ] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    let said = says(&output, "longest pause");
    assert!(said.contains("sent 3000, answered 3000"), "{said}");
}

#[test]
fn replicas_find_the_connections_of_the_original_reset_and_serve_their_own() {
    let world = World::new();
    let output = talking(&world, 6);
    let host = &world.hosts[0];
    let file = host.path("ledger.ckpt").display().to_string();
    for take in ["close", "established"] {
        host.sh(&format!(
            "checkpoint --tcp {take} --leave-running native:ledger | pack > {file}"
        ))
        .ok();
        for name in ["one", "two"] {
            let name = format!("{take}-{name}");
            let report = host.sh(&format!("restore --json -n {name} < {file}")).ok();
            let address = Restored::read(&report).addresses[0].clone();
            until("the reset to be noticed", LONG, || {
                let said = std::fs::read_to_string(host.path("ledger.out")).unwrap_or_default();
                said.contains("ended: Connection reset by peer")
                    .then_some(())
            });
            let own = send(&world.client, &name, &address, 1);
            let said = says(&own, "longest pause");
            assert!(said.contains("sent 1000, answered 1000"), "{said}");
        }
    }
    let said = says(&output, "longest pause");
    assert!(said.contains("sent 6000, answered 6000"), "{said}");
}
