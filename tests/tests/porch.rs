//! Clients whose TCP connections no program has accepted yet: they wait on, wherever the service goes.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, World, programs, until};
use std::time::Duration;

const PORT: u16 = 9001;

fn porch(words: &str) -> String {
    let program = programs().join("porch.py");
    format!("/usr/bin/python3 {} {words}", program.display())
}

/// All clients are in the queue of the socket that listens.
#[track_caller]
fn four_wait(host: &Host) {
    let queue = format!("ip netns exec porch ss -Htan sport = :{PORT}");
    let queue = host.sh(&queue).ok();
    assert_eq!(queue.split_whitespace().nth(1), Some("4"), "{queue}");
}

#[test]
fn clients_that_nobody_has_let_in_wait_on_through_failures_and_three_generations() {
    let world = World::new();
    let [alder, birch] = &world.hosts;
    let program = Program::shared(alder, "porch", &porch(&format!("serve {PORT}")));
    until("the server to listen", LONG, || {
        let listening = alder.sh(&format!("ss -Hltn sport = :{PORT}")).stdout;
        listening.contains("LISTEN").then_some(())
    });
    let address = world.contained(&program, "porch");
    let (output, enough) = (world.client.path("visit"), world.client.path("enough"));
    let visit = porch(&format!("visit {address} {PORT} {}", enough.display()));
    world.client.start(&visit, &output);
    let said = || std::fs::read_to_string(&output).unwrap_or_default();
    until("the clients at the door", LONG, || {
        said().contains("connected").then_some(())
    });

    let take = "checkpoint --tcp established";
    alder
        .sh(&format!("{take} native:porch > /dev/full"))
        .fails_with(1);
    four_wait(alder);
    for hundredths in [50, 60, 80] {
        alder
            .sh(&format!(
                "{take} native:porch > >(sleep 2) & sleep 0.{hundredths}; kill -KILL $!; wait; true"
            ))
            .ok();
        std::thread::sleep(Duration::from_millis(300));
        four_wait(alder);
    }
    alder
        .sh(&format!("{take} --leave-running native:porch | verify"))
        .ok();
    four_wait(alder);
    alder
        .sh(&format!("{take} --leave-frozen native:porch | verify"))
        .ok();
    four_wait(alder);
    alder.sh("checkpoint --thaw native:porch").ok();

    let (mut at, mut pid) = (0, 0);
    for _ in 0..3 {
        (at, pid) = world.moved("porch", &address, at);
        four_wait(&world.hosts[at]);
    }
    assert_eq!(at, 1);
    birch.sh(&format!("kill -USR1 {pid}")).ok();
    std::fs::write(&enough, b"").expect("tell the clients");
    until("all answers", LONG, || {
        let said = said();
        assert!(!said.contains("Traceback"), "{said}");
        said.contains("longest pause").then_some(())
    });
    let said = said();
    assert_eq!(said.matches("heard all").count(), 4, "{said}");
    for host in [alder, birch] {
        let tables = host.sh("nft list tables").ok();
        assert!(!tables.contains("inet ferry"), "{tables}");
    }
}
