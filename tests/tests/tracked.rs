//! Connections that the packet filter of a container knows: they are known again, translated as they were.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Restored, programs, until};

/// Redirects what goes to some ports, gives one stream of datagrams another source, marks connections, and lets only in what it
/// knows.
const FILTER: &str = "ip addr add 10.1.1.1/32 dev lo; ip addr add 10.1.1.9/32 dev lo; ip addr add fd00::1/128 dev lo nodad
nft -f - <<'NFT'
table inet translation {
    chain output { type nat hook output priority -100;
        tcp dport 80 ct mark set 7 redirect to :7000
        udp dport 53 redirect to :5353
    }
    chain out { type nat hook postrouting priority 100;
        udp dport 5353 snat ip to 10.1.1.9:40000
    }
}
table inet gate {
    counter stray { }
    chain input { type filter hook input priority 0; policy drop;
        ct state established accept
        ct state new tcp dport 7000 accept
        ct state new udp dport 5353 accept
        meta l4proto { tcp, udp } counter name stray
    }
}
NFT
";

/// What the packet filter knows of TCP and UDP, without times and users.
fn known(program: &Program) -> Vec<String> {
    let all = program.network("cat /proc/net/nf_conntrack").ok();
    let mut all: Vec<String> = all
        .lines()
        .filter(|line| line.contains("tcp") || line.contains("udp"))
        .map(|line| {
            let words = line.split_whitespace();
            // IPv4 2 tcp 6 431999 ESTABLISHED ...
            let words = words
                .enumerate()
                .filter(|(at, word)| *at != 4 && !word.starts_with("use="));
            words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
        })
        .collect();
    all.sort();
    all
}

#[test]
fn connections_stay_known_and_translated_through_three_generations() {
    let host = Host::new("alder");
    let script = programs().join("translated.py");
    let line = format!("/usr/bin/python3 {}", script.display());
    let mut program = Program::alone(&host, "translated", &line);
    program.network(FILTER).ok();
    program.says("beat 1");
    // From here on no packet begins to be known in the middle of a connection.
    program
        .network("echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose")
        .ok();
    let beats = |program: &Program| {
        let heard = std::fs::read_to_string(&program.output).unwrap_or_default();
        assert!(!heard.contains("Error"), "{heard}");
        heard.matches("beat").count()
    };
    let goes_on = |program: &Program| {
        let before = beats(program);
        until("ten more exchanges", LONG, || {
            (beats(program) > before + 10).then_some(())
        });
    };
    goes_on(&program);
    // Datagrams count as a stream after two seconds.
    let before = until("three connections", LONG, || {
        let all = known(&program);
        let assured = all.iter().filter(|line| line.contains("ASSURED"));
        (assured.count() == 3).then_some(all)
    });
    assert_eq!(
        before.iter().filter(|l| l.contains("mark=7")).count(),
        2,
        "{before:#?}"
    );
    for name in ["one", "two", "three"] {
        // Both ends of what is redirected see others than each other.
        let report = host.sh(&format!(
            "checkpoint --tcp established pid:{} | restore --json -n {name} --tcp established",
            program.pid
        ));
        assert_eq!(report.stderr, "");
        program = program.moved(&host, Restored::read(&report.ok()).pid);
        goes_on(&program);
        assert_eq!(known(&program), before);
        let gate = program.network("nft list counter inet gate stray").ok();
        assert!(gate.contains("packets 0 "), "{gate}");
        let loose = "cat /proc/sys/net/netfilter/nf_conntrack_tcp_loose";
        assert_eq!(program.network(loose).ok().trim(), "0");
    }
}
