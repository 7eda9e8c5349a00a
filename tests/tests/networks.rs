//! What a container has in a network of its own: it is there again, in `ip`'s and `nft`'s own words.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Traces, Way, until};

/// Links but whether they carry anything yet, which the kernel sees a second later at times, addresses, ways, rules, neighbours; no IPv6 addresses that the kernel makes of hardware addresses.
const SHOWN: &str = "(ip -d -o link show | sed 's/state [A-Za-z]*//g; s/ [a-z_]*timer *[0-9.]*//g; s/link-netns[a-z]* [^ ]*//; \
    s/<[^>]*>//'; ip -o addr show | grep -v fe80 | sed 's/sec//g' | sort; ip -4 route show table all | sort; \
    ip -6 route show table all | grep -v fe80 | grep -v multicast | sort; ip nexthop; ip rule; ip -6 rule; \
    ip neigh show nud permanent; ip neigh show proxy; bridge fdb show | grep static; nft list ruleset) | sed 's/ linkdown//g'";

const BUILT: &str = "
    ip link add b0 address 02:00:00:00:00:01 type bridge ageing_time 1234
    ip link add v1 address 02:00:00:00:00:02 type veth peer name v2 address 02:00:00:00:00:03
    ip link add i0 address 02:00:00:00:00:05 type ifb
    ip link set i0 up txqueuelen 55
    ip link set v1 master b0 type bridge_slave
    bridge link set dev v1 cost 7 hairpin on
    ip link add link v2 name m0 address 02:00:00:00:00:04 type macvlan mode bridge
    ip link set v2 alias 'the other end' txqueuelen 77
    for link in b0 v1 v2 m0; do ip link set $link up; done
    ip addr add 10.1.0.1/24 dev b0 broadcast 10.1.0.255
    ip addr add 10.1.0.9/24 dev b0 label b0:nine
    ip addr add 10.2.0.1 peer 10.2.0.2 dev v2
    ip addr add 2001:db8::1/64 dev b0 nodad
    ip route add 10.4.0.0/16 via 10.1.0.77 src 10.1.0.9 metric 12
    ip route add 10.6.0.0/16 nexthop via 10.1.0.2 weight 2 nexthop via 10.1.0.3 weight 3
    ip route add blackhole 10.7.0.0/16
    ip route add default via 10.1.0.2 table 77
    ip nexthop add id 5 via 10.1.0.5 dev b0
    ip route add 10.10.0.0/16 nhid 5
    ip -6 route add 2001:db8:1::/48 via 2001:db8::2
    ip rule add from 10.1.0.9 table 77 priority 500
    ip neigh add 10.1.0.50 lladdr 02:00:00:00:00:50 dev b0 nud permanent
    ip neigh add proxy 10.1.0.60 dev b0
    bridge fdb add 02:00:00:00:00:70 dev v1 master static
    nft -f - <<'NFT'
table inet guard {
    counter seen { }
    set bad { type ipv4_addr; flags interval; elements = { 10.99.0.0/16 } }
    map ways { type inet_service : verdict; elements = { 1 : drop, 2 : jump other } }
    chain other { accept; }
    chain input { type filter hook input priority 0; policy accept;
        iif \"b0\" ip saddr @bad drop
        ct state established counter name \"seen\" accept
        tcp dport vmap @ways
        tcp dport { 9000, 9001 } drop
    }
}
NFT";

#[test]
fn links_ways_and_packet_filters_survive_three_generations() {
    let host = Host::new("alder");
    let traces = Traces::of(&host);
    let mut program = Program::alone(&host, "router", "sleep 1000");
    program.network(BUILT).ok();
    let before = program.network(SHOWN).ok();
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
        let after = program.network(SHOWN).ok();
        for (a, b) in before.lines().zip(after.lines()) {
            assert_eq!(a, b);
        }
        assert_eq!(before.lines().count(), after.lines().count());
    }
    host.kill(program.pid);
    program.ends();
    traces.assert_none_left(&host);
}

#[test]
fn settings_of_a_network_survive_three_generations() {
    let host = Host::new("alder");
    let mut program = Program::alone(&host, "router", "sleep 1000");
    program
        .network(
            "ip link add v1 type veth peer name v2; ip link add v3 type veth peer name v4
            sysctl -qw net.ipv4.conf.all.forwarding=1 net.ipv4.conf.v1.forwarding=0 net.ipv6.conf.v2.disable_ipv6=1 \
                net.ipv6.conf.v3.addr_gen_mode=1 net.ipv4.conf.all.rp_filter=2 net.ipv4.tcp_rmem='4096 65536 999999' \
                net.ipv4.neigh.v3.gc_stale_time=77 net.ipv4.neigh.default.gc_stale_time=78 \
                net.netfilter.nf_conntrack_udp_timeout=31 net.unix.max_dgram_qlen=55 net.mptcp.enabled=0 \
                net.ipv4.ip_local_reserved_ports=8080,9000-9100 net.ipv6.conf.default.accept_ra=0 \
                net.ipv4.tcp_syncookies=0 net.ipv6.conf.v4.mtu=1300 net.ipv4.tcp_congestion_control=reno
            for link in v1 v2 v3 v4; do ip link set $link up; done",
        )
        .ok();
    let shown = "sleep 2; sysctl -a -e 2>/dev/null | grep '^net' | grep -v -e nf_conntrack_count -e retrans_time; ip -6 -o addr";
    let before = program.network(shown).ok();
    assert!(
        before.contains("net.ipv6.conf.v3.addr_gen_mode = 1"),
        "{before}"
    );
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
        let after = program.network(shown).ok();
        for (a, b) in before.lines().zip(after.lines()) {
            assert_eq!(a, b);
        }
        assert_eq!(before.lines().count(), after.lines().count());
    }
    program.runs_free();
}

/// Rules of each table and family, with sets that they look up; one index among the sets is free.
const OLD: &str = "
    ipset create gone hash:ip
    ipset create a hash:ip timeout 3000 counters comment
    ipset create b hash:net family inet6
    ipset create c bitmap:port range 0-1000
    ipset create d list:set
    ipset create e hash:net,iface skbinfo
    ipset destroy gone
    ipset add a 1.2.3.4 comment 'x y' packets 5 bytes 60
    ipset add a 1.2.3.5 timeout 0
    ipset add b 2001:db8::/32
    ipset add c 80; ipset add d a; ipset add d b
    ipset add e 10.0.0.0/8,lo nomatch skbmark 0x7/0xff
    for n in $(seq 5000); do echo add a 10.1.$((n / 250)).$((n % 250)); done | ipset restore
    iptables-legacy -N own
    iptables-legacy -A INPUT -i lo -p tcp --dport 7 -j DROP
    iptables-legacy -A INPUT -m set --match-set c dst -j own
    iptables-legacy -A INPUT -m set ! --match-set a src -m conntrack --ctstate NEW,ESTABLISHED -j own
    iptables-legacy -A own -m limit --limit 5/sec -m comment --comment 'hello world' -j LOG --log-prefix x
    iptables-legacy -A own -m hashlimit --hashlimit-name h --hashlimit-above 10/sec --hashlimit-mode srcip -j RETURN
    iptables-legacy -A own -m statistic --mode nth --every 3 --packet 0 -j RETURN
    iptables-legacy -t nat -A OUTPUT -p tcp -d 10.3.3.3 --dport 81 -j DNAT --to-destination 127.0.0.1:80
    iptables-legacy -t nat -A POSTROUTING -o v1 -j MASQUERADE
    iptables-legacy -t mangle -P FORWARD DROP
    iptables-legacy -t mangle -A PREROUTING -j SET --add-set a src --exist
    iptables-legacy -t raw -A PREROUTING -p udp -j CT --notrack
    ip6tables-legacy -A INPUT -p tcp --dport 9 -m set --match-set b src -j REJECT
    iptables-nft -A OUTPUT -m set --match-set c dst -j ACCEPT
    nc -z 127.0.0.1 9 || true";

#[test]
fn rules_of_iptables_legacy_and_sets_of_ipset_survive_three_generations() {
    let host = Host::new("alder");
    let mut program = Program::alone(&host, "old", "sleep 1000");
    program.network(OLD).ok();
    let shown = "ipset save | sed 's/timeout [1-9][0-9]*/timeout N/'; iptables-legacy-save -c; ip6tables-legacy-save -c; \
        iptables-nft-save | grep -v '^# G\\|^# C'; cat /proc/net/ip_tables_names /proc/net/ip6_tables_names /proc/net/arp_tables_names";
    let shown = format!("({shown}) | grep -v '^#' | sort");
    let before = program.network(&shown).ok();
    assert!(before.contains("--match-set c dst -j own"), "{before}");
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
        let after = program.network(&shown).ok();
        for (a, b) in before.lines().zip(after.lines()) {
            assert_eq!(a, b);
        }
        assert_eq!(before.lines().count(), after.lines().count());
    }
    // They work, too: what goes to port 7 is dropped, and to another is refused.
    program
        .network(
            "timeout 2 nc -z 127.0.0.1 7; [ $? = 124 ] && { timeout 5 nc -z 127.0.0.1 8; [ $? = 1 ]; }",
        )
        .ok();
    program.runs_free();
}

const TRAFFIC: &str = "
    ip link add v1 type veth peer name v2; ip link add v3 type veth peer name v4
    for link in v1 v2 v3 v4; do ip link set $link up; done
    tc qdisc add dev v1 root handle 1: htb default 12 r2q 7
    tc class add dev v1 parent 1: classid 1:1 htb rate 100mbit ceil 100mbit burst 15k
    tc class add dev v1 parent 1:1 classid 1:10 htb rate 30mbit ceil 90mbit prio 1
    tc class add dev v1 parent 1:1 classid 1:12 htb rate 10kbit ceil 20mbit prio 3 quantum 2000
    tc qdisc add dev v1 parent 1:10 handle 20: pfifo limit 5
    tc qdisc add dev v1 parent 1:12 handle 30: tbf rate 1mbit burst 32kbit latency 400ms
    tc filter add dev v1 protocol ip parent 1: prio 2 u32 match ip dport 22 0xffff flowid 1:10
    tc filter add dev v1 protocol ip parent 1: prio 1 u32 match ip src 10.0.0.0/8 match ip protocol 17 0xff flowid 1:12
    tc filter add dev v1 protocol ip parent 1: prio 1 handle 2: u32 divisor 256
    tc filter add dev v1 protocol ip parent 1: prio 1 u32 ht 2:7: match ip src 10.1.0.7/32 flowid 1:10
    tc filter add dev v1 protocol ip parent 1: prio 1 u32 link 2: hashkey mask 0x000000ff at 12 match ip src 10.1.0.0/16
    tc qdisc add dev v2 clsact
    tc filter add dev v2 ingress protocol all prio 5 u32 match u32 0 0 action mirred egress mirror dev v3
    tc filter add dev v2 egress protocol ipv6 prio 6 u32 match u32 0 0 action mirred egress redirect dev v4
    tc qdisc add dev v3 handle ffff: ingress
    tc filter add dev v3 parent ffff: protocol ip u32 match ip dst 10.7.0.0/16 action mirred ingress mirror dev v1
    tc qdisc add dev v4 root handle 7: tbf rate 5mbit burst 10kb limit 100kb peakrate 8mbit minburst 1540";

#[test]
fn queueing_disciplines_survive_three_generations() {
    let host = Host::new("alder");
    let mut program = Program::alone(&host, "shaper", "sleep 1000");
    program.network(TRAFFIC).ok();
    let shown = "for l in v1 v2 v3 v4; do tc -d qdisc show dev $l; tc -d class show dev $l; for p in '' ingress egress \
        'parent ffff:' 'parent 1:'; do tc filter show dev $l $p; done; done | sed 's/direct_packets_stat [0-9]*//; s/installed.*//' | sort";
    let before = program.network(shown).ok();
    assert!(
        before.contains("link 2:") && before.contains("flowid 1:12"),
        "{before}"
    );
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
        let after = program.network(shown).ok();
        for (a, b) in before.lines().zip(after.lines()) {
            assert_eq!(a, b);
        }
        assert_eq!(
            before.lines().count(),
            after.lines().count(),
            "{before}{after}"
        );
    }
    program.runs_free();
}

#[test]
fn a_service_at_an_inner_address_is_reached_there_after_a_move_under_another_address() {
    let host = Host::new("alder");
    let program = Program::alone(
        &host,
        "inner",
        "bash -c 'ip link add b0 type bridge; ip addr add 10.1.0.1/24 dev b0; ip link set b0 up; \
         exec /usr/bin/python3 -m http.server --bind 10.1.0.1 8000'",
    );
    let answers = |program: &Program| {
        until("an answer", LONG, || {
            let asked = program.network("curl -s -o /dev/null http://10.1.0.1:8000/");
            (asked.code == 0).then_some(())
        });
    };
    answers(&program);
    let file = host.path("archive").display().to_string();
    host.sh(&format!("checkpoint pid:{} | pack > {file}", program.pid))
        .ok();
    let report = host.sh(&format!("restore --json -n other < {file}")).ok();
    let program = program.moved(&host, ferry_tests::Restored::read(&report).pid);
    answers(&program);
    assert!(program.network("ip -o addr show").ok().contains("eth0"));
}

#[test]
fn what_of_a_network_cannot_be_made_again_is_refused_by_name() {
    let host = Host::new("alder");
    let program = Program::alone(&host, "odd", "sleep 1000");
    program
        .network(
            "ip link add v1 numtxqueues 2 type veth peer name v2; ip link set v1 up; tc qdisc add dev v1 root handle 1: mq; \
             ip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir out; ip addrlabel add prefix 2001:db8::/32 label 77; \
             ip link add t0 type vxlan id 7 dstport 4789; ip link set t0 up; ip link add t1 type vxlan id 8 dstport 4790",
        )
        .ok();
    let traces = Traces::of(&host);
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    for words in [
        "network link v1: a queueing discipline that was chosen (mq)",
        "states or policies of IPsec",
        "labels of addresses",
        "network link t0: a link of kind vxlan",
        "network link t1: a link of kind vxlan",
    ] {
        assert!(
            outcome.stderr.contains(words),
            "{words}: {}",
            outcome.stderr
        );
    }
    program.runs_free();
    traces.assert_none_left(&host);
}

#[test]
fn a_chain_without_a_name_is_refused_by_name() {
    let host = Host::new("alder");
    let program = Program::alone(&host, "odd", "sleep 1000");
    program
        .network("nft add table ip t; nft add chain ip t in; nft add rule ip t in tcp dport 22 jump '{ accept; }'")
        .ok();
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    let words = "a chain without a name in the table t of nf_tables";
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    program.runs_free();
}

#[test]
fn a_network_that_forwards_multicasts_is_refused_by_name() {
    let host = Host::new("alder");
    // MRT_INIT, and MRT_ADD_VIF of the link with the index 1.
    let line = "/usr/bin/python3 -c 'import socket as s,struct,time; r=s.socket(2,3,2); r.setsockopt(0,200,1); \
        r.setsockopt(0,202,struct.pack(\"HBBIi4x\",0,8,1,0,1)); print(\"ready\",flush=True); time.sleep(1000)'";
    let program = Program::alone(&host, "forwarder", line);
    program.says("ready");
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    let words = "interfaces of multicast routing (ip mroute)";
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    program.runs_free();
}

#[test]
fn links_that_end_in_a_descriptor_survive_three_generations() {
    let host = Host::new("alder");
    let traces = Traces::of(&host);
    let line = format!(
        "/usr/bin/python3 {}",
        ferry_tests::programs().join("tunnel.py").display()
    );
    let mut program = Program::alone(&host, "tunnel", &line);
    program.says("letter 3.");
    program
        .network("ip tuntap add dev stays mode tap user 1000 group 100; ip addr add 10.8.0.1/24 dev stays")
        .ok();
    let shown = "ip -d -o link show | sed 's/state [A-Z]*//; s/<[^>]*>//'; ip -4 -o addr show; ip -4 route; ip tuntap";
    let before = program.network(shown).ok();
    assert!(
        before.contains("10.6.0.0/16") && before.contains("persist"),
        "{before}"
    );
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
        let after = program.network(shown).ok();
        assert_eq!(before, after);
        let heard = std::fs::read_to_string(&program.output).unwrap_or_default();
        let next = heard.lines().count() + 3;
        until("letters to go on", LONG, || {
            let heard = std::fs::read_to_string(&program.output).unwrap_or_default();
            (heard.lines().count() > next).then_some(())
        });
    }
    host.kill(program.pid);
    program.ends();
    traces.assert_none_left(&host);
}

#[test]
fn a_tunnel_in_the_hosts_own_network_is_refused_by_name() {
    let host = Host::new("alder");
    let line = "/usr/bin/python3 -c 'import os,time; f=os.open(\"/dev/net/tun\",2); print(\"ready\",flush=True); time.sleep(1000)'";
    let program = Program::shared(&host, "tunnel", line);
    program.says("ready");
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    assert!(
        outcome
            .stderr
            .contains("/dev/net/tun, in the host's network"),
        "{}",
        outcome.stderr
    );
    program.runs_free();
}

/// Two networks inside the container, and what ties them to its own and to each other.
const TIED: &str = "
    unshare -n sleep 1000 & a=$!; unshare -n sleep 1000 & b=$!
    while [ $(readlink /proc/$a/ns/net) = $(readlink /proc/self/ns/net) ]; do sleep 0.01; done
    while [ $(readlink /proc/$b/ns/net) = $(readlink /proc/self/ns/net) ]; do sleep 0.01; done
    for net in $a $b; do nsenter -n -t $net ip link set lo up; done
    ip link add b0 address 02:00:00:00:00:01 type bridge
    ip link add name own index 71 address 02:00:00:00:00:02 type veth peer name way index 72 address 02:00:00:00:00:03 netns $a
    ip link set own master b0; ip link set own mtu 1400; ip link set own alias 'to the first'; ip link set own up
    ip addr add 10.1.0.1/24 dev b0; ip link set b0 up
    ip link add spare address 02:00:00:00:00:12 type veth peer name down address 02:00:00:00:00:13 netns $b
    nsenter -n -t $a sh -ec \"
        ip addr add 10.1.0.2/24 dev way; ip link set way up; ip route add default via 10.1.0.1
        ip addr add 2001:db8::2/64 dev way nodad
        ip link add name ab address 02:00:00:00:00:04 type veth peer name ba address 02:00:00:00:00:05 netns $b
        ip link set ab txqueuelen 77; ip addr add 10.2.0.1/24 dev ab; ip link set ab up
        ip neigh add 10.2.0.9 lladdr 02:00:00:00:00:09 dev ab nud permanent
        nft add table ip kept
        ip link add link ab name m0 address 02:00:00:00:00:06 netns $b type macvlan mode bridge\"
    nsenter -n -t $b sh -ec \"
        ip addr add 10.2.0.2/24 dev ba; ip link set ba up; ip link set m0 up; ip addr add 10.2.0.3/24 dev m0
        ip nexthop add id 5 via 10.2.0.1 dev ba; ip route add 10.1.0.0/24 nhid 5\"
    ip route add 10.2.0.0/24 via 10.1.0.2
    echo built; wait";

#[test]
fn networks_inside_are_tied_to_each_other_and_to_the_containers_through_three_generations() {
    let host = Host::new("alder");
    let traces = Traces::of(&host);
    let script = host.path("tied.sh");
    std::fs::write(&script, TIED).expect("write a script");
    let mut program = Program::alone(&host, "tied", &format!("bash -e {}", script.display()));
    program.says("built");
    let shown = |program: &Program| {
        let mut all = vec![program.network(SHOWN).ok()];
        for pid in program.tree().into_iter().filter(|pid| *pid != program.pid) {
            all.push(
                program
                    .network(&format!(
                        "nsenter -n -t {pid} sh -c \"{}\"",
                        SHOWN.replace('$', "\\$")
                    ))
                    .ok(),
            );
        }
        all
    };
    let before = shown(&program);
    assert_eq!(before.len(), 3, "{before:?}");
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
        // The kernel looks after carriers a second later at times.
        let mut after = shown(&program);
        for _ in 0..20 {
            if after == before {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            after = shown(&program);
        }
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            for (a, b) in before.lines().zip(after.lines()) {
                assert_eq!(a, b);
            }
            assert_eq!(before.lines().count(), after.lines().count());
        }
        let pids = program.tree();
        // Nobody listens there, and says so.
        let reaches = |pid: i32, to: &str| {
            let asked = format!("nsenter -n -t {pid} curl -s -m 9 http://{to}:9/");
            assert_eq!(program.network(&asked).code, 7, "{to}");
        };
        reaches(pids[1], "10.1.0.1");
        reaches(pids[2], "10.2.0.1");
        reaches(pids[2], "10.1.0.2");
    }
    host.kill(program.pid);
    program.ends();
    traces.assert_none_left(&host);
}

#[test]
fn a_link_from_a_network_inside_to_the_host_is_named() {
    let host = Host::new("alder");
    let program = Program::alone(&host, "led", "bash -c 'unshare -n sleep 1000 & wait'");
    let inside = until("a network inside", LONG, || {
        let pid = *program.tree().get(1)?;
        let of = |pid: i32| std::fs::read_link(host.proc().join(format!("{pid}/ns/net"))).ok();
        (of(pid)? != of(program.pid)?).then_some(pid)
    });
    host.sh(&format!(
        "ip link add out type veth peer name in netns {inside}"
    ))
    .ok();
    let outcome = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    let words =
        "network link in: a link of a network namespace inside the container that leads out of it";
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    program.runs_free();
}

/// Streams of numbers between two networks inside the container, and from one of them into its own, both ways at once; each
/// number is looked at.
const STREAMS: &str = r#"
import os, socket, struct, sys, threading
here = sys.argv[1]
def write(s):
    n = 0
    while True:
        s.sendall(b"".join(struct.pack("I", i) for i in range(n, n + 2000))); n += 2000
def read(s, name):
    n, left = 0, b""
    while True:
        got = s.recv(65536)
        if not got: print("lost", name, "ended", flush=True); os._exit(1)
        left += got
        for (i,) in struct.iter_unpack("I", left[:len(left) // 4 * 4]):
            if i != n: print("lost", name, i, n, flush=True); os._exit(1)
            n += 1
        left = left[len(left) // 4 * 4:]
        if n // 100000 != (n - len(got) // 4) // 100000: print("beat", name, n, flush=True)
def both(s, name):
    threading.Thread(target=write, args=(s,)).start()
    threading.Thread(target=read, args=(s, name)).start()
def server(at, name):
    with socket.create_server((at, 7000)) as door: both(door.accept()[0], name)
if here == "own": server("10.1.0.1", "own")
if here == "b": server("10.2.0.2", "b")
if here == "a":
    for at in ["10.1.0.1", "10.2.0.2"]:
        while True:
            try: s = socket.create_connection((at, 7000)); break
            except OSError: pass
        both(s, "a" + at)
"#;

#[test]
fn connections_between_networks_of_a_container_lose_no_byte() {
    let host = Host::new("alder");
    let traces = Traces::of(&host);
    let (script, streams) = (host.path("tied.sh"), host.path("streams.py"));
    std::fs::write(&streams, STREAMS).expect("write a script");
    let python = format!("/usr/bin/python3 {}", streams.display());
    let begin = format!(
        "{python} own & nsenter -n -t $a {python} a & nsenter -n -t $b {python} b &\n wait"
    );
    let tied = TIED.replace("wait", &begin);
    std::fs::write(&script, tied).expect("write a script");
    let mut program = Program::alone(&host, "streams", &format!("bash -e {}", script.display()));
    let names = ["own", "b", "a10.1.0.1", "a10.2.0.2"];
    let beats = |program: &Program| {
        let heard = std::fs::read_to_string(&program.output).unwrap_or_default();
        assert!(!heard.contains("lost"), "{heard}");
        names.map(|name| heard.matches(&format!("beat {name} ")).count())
    };
    let goes_on = |program: &Program| {
        let before = beats(program);
        until("all streams to go on", LONG, || {
            let now = beats(program);
            before
                .iter()
                .zip(&now)
                .all(|(a, b)| b > &(a + 1))
                .then_some(())
        });
    };
    goes_on(&program);
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
        goes_on(&program);
    }
    // Whatever becomes of connections with the outside, and as a container of its own.
    for (word, options) in [("--tcp established", ""), ("--tcp close", "-n apart")] {
        let line = format!(
            "checkpoint {word} pid:{} | restore --json {options}",
            program.pid
        );
        let report = host.sh(&line).ok();
        program = program.moved(&host, ferry_tests::Restored::read(&report).pid);
        goes_on(&program);
    }
    host.kill(program.pid);
    program.ends();
    traces.assert_none_left(&host);
}
