//! Networks that a container has given names (`ip netns add`): mounted, with and without somebody in them.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Traces, Way, until};

/// Three networks in a row, the container's own among them. Somebody is in the last one alone.
const ROW: &str = "#!/bin/bash
set -e
mount -t tmpfs none /run
ip netns add blue; ip netns add red
touch /run/own; mount --bind /proc/self/ns/net /run/own
ip link add v0 address 02:00:00:00:00:01 type veth peer name v1 address 02:00:00:00:00:02 netns blue
ip -n blue link add v2 address 02:00:00:00:00:03 type veth peer name v3 address 02:00:00:00:00:04 netns red
ip addr add 10.1.0.1/24 dev v0; ip link set v0 up
ip -n blue addr add 10.1.0.2/24 dev v1; ip -n blue addr add 10.2.0.2/24 dev v2
ip -n red addr add 10.2.0.3/24 dev v3
ip route add 10.2.0.0/24 via 10.1.0.2
for link in lo v1 v2; do ip -n blue link set $link up; done
for link in lo v3; do ip -n red link set $link up; done
ip -n red route add 10.1.0.0/24 via 10.2.0.2
ip netns exec blue sysctl -qw net.ipv4.ip_forward=1
ip netns exec blue nft add table ip guard
ip netns exec red sleep 1000 &
echo ready
wait
";

/// What somebody who works there sees.
const SHOWN: &str = "ip netns | sort; for n in blue red; do ip -n $n -4 -o addr; ip -n $n route; ip -n $n -o link show up | wc -l; done; \
    ip route; ip netns exec blue nft list tables; ip netns exec blue cat /proc/sys/net/ipv4/ip_forward; \
    ip netns pids red | wc -l; ip netns pids blue | wc -l; ls -l /run/netns | cut -c 1-10; \
    test $(stat -Lc %i /run/own) = $(stat -Lc %i /proc/self/ns/net) && echo own";

fn shown(program: &Program) -> String {
    let line = format!("nsenter -m -n -p -t {} sh -ec '{SHOWN}'", program.pid);
    let all = program.host.sh(&line).ok();
    // As a container of its own it has a way out besides; the numbers of networks are each other's own affair.
    let own = all.lines().filter(|line| !line.contains("eth0"));
    let one = |line: &str| match line.split_once(" (id: ") {
        Some((name, _)) => name.to_owned(),
        None => line.replace(" linkdown", "").trim_end().to_owned(),
    };
    own.map(one).collect::<Vec<_>>().join("\n")
}

#[test]
fn networks_with_names_survive_three_generations() {
    let host = Host::new("alder");
    let traces = Traces::of(&host);
    let script = host.path("row.sh");
    std::fs::write(&script, ROW).expect("write a script");
    let mut program = Program::alone(&host, "row", &format!("bash {}", script.display()));
    program.says("ready");
    until("somebody in a network", LONG, || {
        (program.tree().len() == 2).then_some(())
    });
    let before = shown(&program);
    assert!(
        before.contains("10.2.0.3/24") && before.ends_with("own"),
        "{before}"
    );
    for (way, words) in [
        (Way::Bare, ""),
        (Way::Pipe, ""),
        (Way::Directory, "-n apart"),
    ] {
        program = way.carry(&program, &host, words).0;
        assert_eq!(shown(&program), before);
        // Through the one in the middle: nobody listens there, and says so.
        let asked = format!(
            "nsenter -n -t {} curl -s -m 9 http://10.2.0.3:9/",
            program.pid
        );
        assert_eq!(host.sh(&asked).code, 7);
    }
    host.kill(program.pid);
    program.ends();
    traces.assert_none_left(&host);
}

#[test]
fn a_mounted_namespace_of_another_kind_that_nobody_is_in_is_named() {
    let host = Host::new("alder");
    let line = "mount -t tmpfs none /run; touch /run/name; unshare --uts=/run/name hostname other; echo ready; sleep 1000";
    let program = Program::alone(&host, "named", &format!("sh -c '{line}'"));
    program.says("ready");
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    let words = "that no task is in";
    assert!(
        outcome.stderr.contains("a uts namespace (") && outcome.stderr.contains(words),
        "{}",
        outcome.stderr
    );
    program.runs_free();
}
