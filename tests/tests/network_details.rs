//! What somebody may have set of a network in detail, each setting once: it is there again, in the words of the tools that set it.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Traces, Way, until};

/// Three generations; what differs is said as a whole.
fn survives(name: &str, built: &str, shown: &str) {
    let host = Host::new("alder");
    let traces = Traces::of(&host);
    let mut program = Program::alone(&host, name, "sleep 1000");
    program.network(built).ok();
    // The kernel looks after carriers a second later at times.
    let pause = || std::thread::sleep(std::time::Duration::from_millis(500));
    let mut looks = vec![program.network(shown).ok()];
    let before = until("links to settle", LONG, || {
        pause();
        looks.push(program.network(shown).ok());
        let last: Vec<&String> = looks.iter().rev().take(4).collect();
        (last.len() == 4 && last.iter().all(|look| *look == last[0])).then(|| last[0].clone())
    });
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
        let mut after = program.network(shown).ok();
        for _ in 0..20 {
            if after == before {
                break;
            }
            pause();
            after = program.network(shown).ok();
        }
        let missing: Vec<&str> = before.lines().filter(|l| !after.contains(l)).collect();
        let new: Vec<&str> = after.lines().filter(|l| !before.contains(l)).collect();
        assert!(
            missing.is_empty() && new.is_empty(),
            "gone: {missing:#?}\nnew: {new:#?}"
        );
        assert_eq!(before.lines().count(), after.lines().count());
    }
    host.kill(program.pid);
    program.ends();
    traces.assert_none_left(&host);
}

const LINKS: &str = "
    ip link add v1 numtxqueues 4 numrxqueues 3 address 02:00:00:00:00:02 type veth peer name v2 numtxqueues 2 address 02:00:00:00:00:03
    ip link add b0 address 02:00:00:00:00:01 type bridge mcast_snooping 1
    ip link property add dev v1 altname another altname a-very-long-other-name-of-this-link
    ip link set v1 gso_max_size 30000 gso_max_segs 50 gro_max_size 40000
    ip link set v1 group 7 txqueuelen 55 addrgenmode none alias 'for people'
    ip link set lo mtu 1500
    for link in lo b0 v1 v2; do ip link set $link up; done
    ethtool -K v1 tx off gro on tso off
    ethtool -K v1 rx-udp-gro-forwarding on
    ethtool -K lo tso off
    ethtool -L v1 rx 2
    ip link set v1 master b0
    bridge fdb add 02:00:00:00:00:70 dev v1 master static
    bridge fdb add 02:00:00:00:00:71 dev v1 master static sticky
    bridge fdb add 02:00:00:00:00:72 dev v2 self permanent
    bridge link set dev v1 learning off flood off mcast_flood off neigh_suppress on guard on bcast_flood off priority 5
    bridge link set dev v1 locked on mcast_router 2 fastleave on
    ip addr add 10.9.0.1/24 dev v2 valid_lft 3000 preferred_lft 1000
    ip -6 addr add 2001:db8:5::1/64 dev v2 valid_lft 3000 preferred_lft 0 nodad
    ip -6 addr add 2001:db8:6::1/64 dev v2 mngtmpaddr noprefixroute valid_lft 3000 preferred_lft 1000 nodad
    ip -6 addr add 2001:db8:7::1/64 dev v2 home nodad
    ip -6 addr add 2001:db8:8::1 peer 2001:db8:8::2/128 dev v2 nodad
    ip addr add 10.9.1.1/24 dev v2 metric 77
    ip -6 neigh add proxy 2001:db8:5::9 dev v2
    ip neigh add 10.9.0.7 dev v2 lladdr 02:00:00:00:00:77 nud permanent protocol static
    ip route add 10.20.0.0/16 via 10.9.0.7 initcwnd 20 rto_min 5ms advmss 1000 congctl reno features ecn
    ip -6 route add 2001:db8:aa::/48 via 2001:db8:5::9 dev v2 expires 1000 pref high
    ip -6 route add 2001:db8:ab::/48 nexthop via 2001:db8:5::9 dev v2 nexthop via 2001:db8:5::10 dev v2
    ip route add 10.21.0.0/16 via inet6 2001:db8:5::9 dev v2
    ip route add local 10.22.0.0/16 dev lo
    ip -6 route add local 2001:db8:ac::/48 dev lo
    ip route add multicast 239.0.0.0/8 dev v2
    ip route add broadcast 10.22.255.255 dev lo table local
    ip route add 10.23.0.0/16 dev v2 scope link tos 0x10 realm 5
    ip route add throw 10.24.0.0/16
    ip -6 route add 2001:db8:ad::/48 encap seg6 mode encap segs 2001:db8:5::9 dev v2
    ip rule add ipproto tcp sport 1-100 dport 5 lookup 9 suppress_prefixlength 0 priority 300
    ip rule add uidrange 5-9 lookup 9 priority 301
    ip rule add goto 33000 priority 400
    ip rule add nop priority 33000
    ip rule add tun_id 5 lookup 9 priority 401
    ip rule add l3mdev priority 999
    ip rule add to 1.1.1.1 prohibit priority 1000
    ip rule add not fwmark 0x51820 table 51820 protocol 4 priority 402
    ip nexthop add id 20 via 10.9.0.7 dev v2
    ip nexthop add id 21 group 20 type resilient buckets 32
    ip nexthop add id 22 blackhole
    ip nexthop add id 23 via 10.9.0.7 fdb
    ip link add mc link v2 address 02:00:00:00:00:06 type macvlan mode source macaddr add 02:00:00:00:00:55";
const LINKS_SHOWN: &str = "(ip -d -o link show | sed 's/state [A-Z]*//; s/ [a-z_]*timer *[0-9.]*//g; s/<[^>]*>//'
    for l in v1 v2 lo; do ethtool -k $l | sed \"s/^/$l /\"; ethtool -l $l || true; done
    ip -d -6 -o link show dev v1 | grep -o addrgenmode.*
    ip -o addr show | grep -v fe80 | sed -E 's/(29[0-9][0-9]|9[0-9][0-9]|3000|1000)sec/Nsec/g; s/sec//g' | sort
    ip -4 -d route show table all | sort; ip -6 -d route show table all | grep -v fe80 | grep -v multicast | sed 's/expires [0-9]*/expires/' | sort
    ip -d nexthop; ip rule; ip -6 rule; ip neigh show nud permanent | sort; ip neigh show proxy; ip -6 neigh show proxy
    bridge -d fdb show | grep -e permanent -e static | sort | grep -v -e 33:33:ff -e 33:33:00:00:00; bridge -d link) 2>&1";

#[test]
fn settings_of_links_addresses_and_ways_survive_three_generations() {
    survives("detailed", LINKS, LINKS_SHOWN);
}

const RULES: &str = "
nft -f - <<'NFT'
table ip old {
    ct helper ftp { type \"ftp\" protocol tcp; }
    ct expectation e { protocol tcp; dport 9876; timeout 1m; size 8; l3proto ip; }
    chain pre { type filter hook prerouting priority mangle; ct helper set \"ftp\"; ct expectation set \"e\"; dup to 1.2.3.4; }
    chain post { type nat hook postrouting priority srcnat;
        ip protocol tcp snat to 10.0.0.1-10.0.0.9:1000-2000; snat to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }; masquerade random,persistent; }
    chain forth { type nat hook prerouting priority dstnat;
        tcp dport 7 redirect to :80
        dnat ip to tcp dport map { 80 : 1.2.3.4 . 80 }
        dnat to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }; }
}
table bridge b { chain c { type filter hook forward priority 0; policy drop; ether type arp accept; }; }
table arp a { chain c { type filter hook input priority 0; arp operation request accept; }; }
table netdev n {
    chain out { type filter hook egress device \"lo\" priority 0; ip ttl 1 drop; }
    chain in { type filter hook ingress devices = { lo, v1 } priority 0; ip ttl 1 drop; }
}
table ip6 six { chain c { type filter hook input priority 0; ip6 nexthdr icmpv6 icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept; exthdr frag exists drop; }; }
table inet t {
    comment \"a table\"
    limit l { rate 400/minute; comment \"slow\"; }
    counter k { comment \"hello\"; packets 5 bytes 6; }
    quota q { over 25 mbytes used 7 bytes; }
    synproxy s { mss 1460; wscale 7; timestamp sack-perm; }
    set m { type ipv4_addr; size 65535; flags dynamic; timeout 1m; }
    set counted { type ipv4_addr; flags dynamic; counter; elements = { 1.2.3.4 counter packets 5 bytes 6 } }
    set many { type ipv4_addr; size 128; flags dynamic; }
    set noted { type ipv4_addr; flags timeout; comment \"a set\"; elements = { 1.2.3.4 comment \"an element\", 1.2.3.5 timeout 1h } }
    set merged { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/8, 255.255.255.255, 0.0.0.0/8 } }
    set six { type ipv6_addr; flags interval,timeout; elements = { 2001:db8::/32 timeout 1d } }
    set names { typeof iifname; elements = { \"eth0\", \"docker0\" } }
    set globs { type ifname; flags interval; elements = { \"veth*\", \"br-*\" } }
    set fixed { type inet_service; flags constant; elements = { 1, 2 } }
    set typed { typeof ip saddr . ether saddr . meta mark; elements = { 1.2.3.4 . 02:00:00:00:00:01 . 7 } }
    set swept { type ipv4_addr; gc-interval 10s; timeout 1h; size 1000; policy memory; flags timeout; }
    set ranges { type ipv4_addr . inet_service; flags interval; counter; elements = { 1.2.3.0/24 . 80-90 counter packets 3 bytes 4 } }
    map natted { type ipv4_addr . inet_service : ipv4_addr . inet_service; elements = { 1.2.3.4 . 80 : 10.0.0.1 . 8080 } }
    map spans { type ipv4_addr : ipv4_addr; flags interval; elements = { 1.2.3.0/24 : 10.0.0.1, 1.2.4.0-1.2.4.9 : 10.0.0.2 } }
    map limits { type ipv4_addr : limit; elements = { 1.2.3.4 : \"l\" } }
    map counters { type ipv4_addr : counter; elements = { 1.2.3.4 : \"k\" } }
    map verdicts { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 1.2.3.4 . tcp . 80 : goto aside } }
    chain aside { comment \"a chain\"; }
    chain in { type filter hook input priority filter + 5; policy drop;
        tcp dport 9 add @m { ip saddr limit rate over 10/second } drop
        tcp dport 22 ct state new add @many { ip saddr ct count over 10 } reject
        tcp dport 9 update @counted { ip saddr }
        ip saddr @counted limit name \"l\" counter name ip saddr map @counters
        ip saddr . tcp dport vmap { 1.2.3.4 . 80 : accept, 1.2.3.0/24 . 90-99 : drop }
        ip saddr . meta l4proto . th dport vmap @verdicts
        meta mark . ct mark { 1 . 2 } comment \"a rule\"
        ct state vmap { invalid : drop, established : accept, related : accept }
        ct count over 3 drop
        quota over 5 mbytes drop
        limit rate over 3 mbytes/second burst 5 mbytes drop
        meta hour \"10:00\"-\"12:00\" drop
        meta day \"Monday\" accept
        meta skuid 1000 accept
        meta time \"2030-01-01 00:00:00\" drop
        ip option rr exists drop
        fib daddr type local accept
        tcp dport 81 synproxy name \"s\"
        @th,0,16 0x50 drop
        tcp dport 99 reject with tcp reset
        goto aside
    }
    chain early { type filter hook prerouting priority raw;
        tcp flags syn notrack
        fib saddr . iif oif missing drop
        socket transparent 1 accept
        osf name \"Linux\" accept
        ct zone set 3
    }
    chain mangled { type filter hook prerouting priority mangle;
        meta l4proto tcp tproxy ip to 127.0.0.1:50080 accept
        numgen random mod 3 vmap { 0 : accept, 1 : accept, 2 : drop }
        jhash ip saddr . tcp dport mod 2 seed 0x5 vmap { 0 : accept }
        ct mark set ct mark | 0x10
        meta mark set meta mark << 8
        ct label set 5
        ip dscp set cs1
        reset tcp option sack-perm
        meta nftrace set 1
        log prefix \"x\" group 5
    }
    chain onward { type filter hook forward priority mangle; tcp flags syn tcp option maxseg size set rt mtu; }
    chain lo { type filter hook ingress device \"lo\" priority 0; ip ttl 1 drop; }
}
NFT
";

const OF_ENGINES: &str = "
    iptables-nft -t nat -N DOCKER
    iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
    iptables-nft -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
    iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
    iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
    iptables-nft -P FORWARD DROP
    iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER
    iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    iptables-nft -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
    iptables-nft -t nat -N KUBE-MARK-MASQ; iptables-nft -t nat -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
    iptables-nft -t nat -N KUBE-SVC-X; iptables-nft -t nat -N KUBE-SEP-A; iptables-nft -t nat -N KUBE-SEP-B
    iptables-nft -t nat -A KUBE-SVC-X -m comment --comment 'default/web -> 10.1.1.1:80' -m statistic --mode random --probability 0.5 -j KUBE-SEP-A
    iptables-nft -t nat -A KUBE-SVC-X -j KUBE-SEP-B
    iptables-nft -t nat -A KUBE-SEP-A -s 10.1.1.1/32 -j KUBE-MARK-MASQ
    iptables-nft -t nat -A KUBE-SEP-A -p tcp -m recent --set --name KUBE-SEP-A -j DNAT --to-destination 10.1.1.1:80
    iptables-nft -t nat -A KUBE-SEP-B -p udp -j DNAT --to-destination 10.1.1.2:80 --random
    iptables-nft -A INPUT -p udp -m multiport --dports 53,67 -m limit --limit 3/min -j LOG --log-prefix 'udp '
    iptables-nft -A INPUT -m mac --mac-source 02:00:00:00:00:01 -m owner --uid-owner 5 -j ACCEPT || true
    iptables-nft -A INPUT -p icmp --icmp-type echo-request -m length --length 0:100 -j REJECT --reject-with icmp-host-prohibited
    iptables-nft -A INPUT -m iprange --src-range 10.0.0.1-10.0.0.9 -m mark --mark 0x1/0xff -m connmark ! --mark 7 -j CONNMARK --save-mark
    iptables-nft -A INPUT -m string --string hello --algo bm -j DROP
    iptables-nft -A INPUT -m connlimit --connlimit-above 5 -j DROP
    iptables-nft -A INPUT -m u32 --u32 '0>>22&0x3C@4&0xFF=0x5' -j DROP
    iptables-nft -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp
    ip6tables-nft -A INPUT -p icmpv6 --icmpv6-type 135 -j ACCEPT
    ip6tables-nft -t nat -A POSTROUTING -s fd00::/64 -j MASQUERADE
    ebtables-nft -A FORWARD -p ARP -j DROP
    arptables-nft -A INPUT -s 10.0.0.1 -j DROP";

#[test]
fn large_rule_sets_survive_three_generations() {
    let built = format!("ip link add v1 type veth peer name v2\n{RULES}\n");
    let shown =
        "nft -s list ruleset | sed 's/expires [0-9a-z]*//g'; nft list counters; nft list quotas";
    survives("filter", &built, shown);
    let shown =
        "for t in iptables ip6tables arptables ebtables; do $t-nft-save | grep -v '^#'; done";
    survives("engines", OF_ENGINES, shown);
}
