//! One network is built by hand, listed, and told again to another: `ip` and `nft` must show the same of both.

use super::links::{self, Link};
use super::tables::{self, Table};
use super::traffic::{self, Traffic};
use crate::nftables::ruleset;
use crate::{Namespace, Pid, within};
use std::process::{Child, Command, Stdio};

/// A network of its own: the namespace of a process that waits to be killed.
struct Network(Child);

impl Network {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "ip link set lo up; echo; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        Network(child)
    }

    fn pid(&self) -> Pid {
        self.0.id() as Pid
    }

    fn sh(&self, line: &str) -> String {
        let pid = self.pid().to_string();
        let out = Command::new("nsenter")
            .args(["-n", "-t", &pid, "sh", "-ec", line])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{line}: {error}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// The same, once the carrier of each link is known, on which ports of bridges and ways depend: the kernel looks after
    /// that by itself, a second later at times (net/core/link_watch.c).
    fn settled(&self, line: &str) -> String {
        let unsettled = "ip -d -o link show up | grep -c -e NO-CARRIER -e 'state DOWN' \
            -e 'bridge_slave state [dbl]' || true; ip route show table all | grep -c linkdown || true";
        for _ in 0..500 {
            if self.sh(unsettled) == "0\n0\n" {
                return self.sh(line);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{}", self.sh("ip -d link; ip route show table all"));
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> crate::Result<T> + Send) -> T {
        within(self.pid(), &[Namespace::Net], work)
            .unwrap()
            .unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const TABLES: [Table; 5] = [
    Table::Addresses,
    Table::NextHops,
    Table::Routes,
    Table::Rules,
    Table::Neighbours,
];

const LINKS: &str = "
    ip link add b0 address 02:00:00:00:00:01 mtu 1400 type bridge ageing_time 1234 forward_delay 700 priority 99
    ip link add v1 address 02:00:00:00:00:02 type veth peer name v2 address 02:00:00:00:00:03
    ip link set v1 master b0
    ip link set v1 type bridge_slave cost 7 hairpin on isolated on
    ip link add link v2 name m0 address 02:00:00:00:00:04 type macvlan mode bridge
    ip link set v2 alias 'the other end' txqueuelen 77 promisc on
    ip link set b0 up; ip link set v1 up; ip link set v2 up; ip link set m0 up";
const WAYS: &str = "
    ip addr add 10.1.0.1/24 dev b0 broadcast 10.1.0.255
    ip addr add 10.1.0.9/24 dev b0 label b0:nine
    ip addr add 10.2.0.1 peer 10.2.0.2 dev v2
    ip addr add 2001:db8::1/64 dev b0 nodad
    ip addr add 2001:db8::e/64 dev b0 nodad
    ip addr add 2001:db8::f/64 dev b0 nodad
    ip addr add 10.3.0.1/32 dev lo scope host
    ip route add 10.4.0.0/16 via 10.1.0.77 src 10.1.0.9 metric 12 mtu 1300
    ip route add 10.5.0.0/16 via 10.4.0.1 dev b0 onlink
    ip route add 10.6.0.0/16 nexthop via 10.1.0.2 weight 2 nexthop via 10.1.0.3 weight 3
    ip route add blackhole 10.7.0.0/16
    ip route add unreachable 10.8.0.0/16 metric 3
    ip route add prohibit 10.9.0.0/16 table 77
    ip route add default via 10.1.0.2 table 77
    ip nexthop add id 5 via 10.1.0.5 dev b0
    ip nexthop add id 3 via 10.1.0.6 dev b0
    ip nexthop add id 1 group 5/3
    ip route add 10.10.0.0/16 nhid 1
    ip -6 route add 2001:db8:1::/48 via 2001:db8::2
    ip -6 route add blackhole 2001:db8:2::/48
    ip -6 route add 2001:db8:3::/48 via 2001:db8::2 expires 4000
    ip -6 route add 2001:db8:4::/48 nexthop via 2001:db8::7 weight 2 nexthop via 2001:db8::8
    ip nexthop add id 7 group 5/3 type resilient buckets 16 idle_timer 10
    ip rule add from 10.1.0.9 table 77 priority 500
    ip rule add fwmark 7 iif b0 lookup 77 priority 501
    ip -6 rule add to 2001:db8:9::/48 lookup 77 priority 502
    ip rule del priority 32767
    ip neigh add 10.1.0.50 lladdr 02:00:00:00:00:50 dev b0 nud permanent
    ip neigh add proxy 10.1.0.60 dev b0
    bridge fdb add 02:00:00:00:00:70 dev v1 master static";
const SHOWN: &str = "
    ip -d -o link show | sed 's/state [A-Z]*//; s/ [a-z_]*timer *[0-9.]*//g; s/<[^>]*>//'
    for d in b0 v1 v2 m0; do echo; ip link show $d | grep -o PROMISC || true; done
    ip -o addr show | sed 's/sec//g' | sort; ip -6 -o addr show dev b0 scope global
    ip route show table all | sort; ip -6 route show table all | grep -v fe80 | grep -v multicast | sed 's/expires .*sec/expires/' | sort
    ip nexthop | sed 's/unbalanced_time [0-9.]*//'; ip rule; ip -6 rule; ip neigh show nud permanent; ip neigh show proxy
    bridge fdb show dev v1 | grep static";

#[test]
fn links_and_ways_are_told_again_as_they_were_listed() {
    let (one, two) = (Network::new(), Network::new());
    one.sh(LINKS);
    one.sh(WAYS);
    let (found, entries) = one.within(|| {
        let mut netlink = links::open()?;
        let found = links::list(&mut netlink)?;
        let entries = TABLES.map(|table| tables::list(&mut netlink, table).unwrap());
        Ok((found, entries))
    });
    two.within(|| {
        let mut netlink = links::open()?;
        let find = |name: &str| found.iter().find(|l| l.name == name).cloned().unwrap();
        links::make(&mut netlink, &find("b0"), None)?;
        links::make_pair(&mut netlink, &find("v1"), &find("v2"), None)?;
        let lower = find("m0").lower;
        links::make(&mut netlink, &find("m0"), lower)?;
        let named: Vec<Link> = ["b0", "v1", "v2", "m0"].map(find).to_vec();
        for link in &named {
            if let Some(master) = link.master {
                links::enslave(&mut netlink, link, link.index, master)?;
            }
            links::settle(&mut netlink, link, link.index)?;
        }
        for (table, entries) in TABLES.iter().zip(&entries) {
            if *table == Table::Rules {
                tables::prune_rules(&mut netlink, entries)?;
            }
            let moved: Vec<_> = entries
                .iter()
                .map(|e| tables::moved(*table, e, Some).unwrap())
                .collect();
            tables::fill(&mut netlink, *table, &moved)?;
        }
        Ok(())
    });
    let (before, after) = (one.settled(SHOWN), two.settled(SHOWN));
    for (a, b) in before.lines().zip(after.lines()) {
        assert_eq!(a, b);
    }
    assert_eq!(before.lines().count(), after.lines().count());
    // The same once more: nothing is there twice.
    let again = two.within(|| {
        let mut netlink = links::open()?;
        Ok(TABLES.map(|table| tables::list(&mut netlink, table).unwrap()))
    });
    assert_eq!(entries.map(|e| e.len()), again.map(|e| e.len()));
}

#[test]
fn a_queueing_discipline_that_was_chosen_is_found() {
    let one = Network::new();
    one.sh("ip link add v1 type veth peer name v2; ip link set v1 up");
    let found = || one.within(|| traffic::list(&mut links::open()?));
    assert_eq!(found(), Traffic::default());
    one.sh("tc qdisc add dev v1 root handle 1: htb; tc qdisc add dev v2 root handle 1: tbf rate 1mbit burst 9k limit 9k");
    assert_eq!((found().disciplines.len(), found().others.len()), (2, 0));
}

const RULES: &str = "
table ip nat {
    chain post { type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.1.0.0/24 oifname \"v2\" masquerade
    }
    chain pre { type nat hook prerouting priority dstnat; policy accept;
        tcp dport { 80, 443, 8080-8090 } dnat to 10.1.0.2:8000 comment \"for people\"
    }
}
table inet guard {
    counter seen { packets 5 bytes 700 }
    quota most { over 25 mbytes used 5 bytes }
    set bad { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.3.0-192.168.3.77 } }
    set later { type inet_service; flags timeout; timeout 1h; elements = { 22 expires 59m, 23 timeout 2h } }
    set both { type ipv4_addr . inet_service; elements = { 1.2.3.4 . 80, 1.2.3.5 . 81 } }
    set ranges { type ipv4_addr . inet_service; flags interval; elements = { 1.2.3.0/24 . 80-90 } }
    set passing { type ipv4_addr; flags interval, timeout; timeout 1h; comment \"a few\"; auto-merge
        elements = { 10.0.0.0/8 timeout 30m expires 20m comment \"one\", 192.168.1.5-192.168.1.77 } }
    set many { type ipv4_addr; size 65535; flags dynamic; }
    set rare { type ipv4_addr; size 65535; flags dynamic, timeout; timeout 5m; }
    set counted { type inet_service; counter; elements = { 80 counter packets 3 bytes 4 } }
    map marks { type ipv4_addr : mark; flags interval; elements = { 10.0.0.0/8 : 0x5 } }
    map counters { type inet_service : counter; elements = { 1 : \"seen\" } }
    map services { type inet_service : ipv4_addr . inet_service; elements = { 8080 : 10.0.0.1 . 80 } }
    ct timeout brief { protocol tcp; l3proto ip; policy = { established: 100, close: 20 }; }
    ct helper files { type \"ftp\" protocol tcp; }
    map ways { type inet_service : verdict; elements = { 1 : drop, 2 : jump other, 3 : accept } }
    chain other { counter packets 3 bytes 99 accept; }
    chain input { type filter hook input priority 0; policy drop;
        ct state established,related accept
        iifname \"lo\" counter name \"seen\" accept
        ip saddr @bad drop
        tcp dport vmap @ways
        tcp dport { 9000, 9001 } limit rate 10/second burst 5 packets log prefix \"in \" accept
        udp dport vmap { 53 : accept, 54 : jump other }
        ip saddr . tcp dport @ranges quota name \"most\" drop
        add @later { tcp dport timeout 5m }
        tcp option maxseg size set 1400
        add @many { ip saddr ct count over 5 } drop
        update @rare { ip saddr timeout 1m limit rate 10/minute } counter
        osf name \"Linux\" accept
        meta mark set ip saddr map @marks
        counter name tcp dport map @counters
        ct timeout set \"brief\"
        ct helper set \"files\"
        ct count over 20 reject with tcp reset
        jhash ip saddr . tcp dport mod 4 seed 0xdead vmap { 0 : accept, 1 : drop }
        numgen random mod 3 vmap { 0 : accept }
        fib daddr type != { local, broadcast } drop
        synproxy mss 1460 wscale 7 timestamp sack-perm
        meta hour \"10:00\"-\"18:00\" meta day { \"Monday\", \"Tuesday\" } accept
        log group 5 queue-threshold 10
        meta mark set 0x17 reject with icmpx admin-prohibited
    }
}
table netdev early { chain in { type filter hook ingress device \"lo\" priority 0; ip ttl 1 drop; }; }
table ip sleeping { flags dormant; chain c { type filter hook output priority 5; }; }
";

#[test]
fn a_rule_set_is_told_again_as_it_was_listed() {
    let (one, two) = (Network::new(), Network::new());
    one.sh(&format!("nft -f - <<'E'\n{RULES}\nE"));
    one.sh("nft add table inet ferry-x");
    one.sh("iptables-nft -A INPUT -p tcp -m multiport --dports 7,8 -m comment --comment hello -j ACCEPT");
    one.sh("ebtables-nft -A FORWARD -p IPv4 --ip-src 1.1.1.1 -j DROP; ebtables-nft -A FORWARD -p ! IPv6 -j ACCEPT");
    let all = one.within(|| ruleset::list("ferry-"));
    assert!(all.len() > 20, "{}", all.len());
    two.within(|| ruleset::make(&all));
    one.sh("nft delete table inet ferry-x");
    let shown = "nft list ruleset | sed 's/expires [0-9a-z]*//g; s/timeout 2h//'; iptables-nft -S; ebtables-nft-save | grep -v '^#'";
    let (before, after) = (one.sh(shown), two.sh(shown));
    for (a, b) in before.lines().zip(after.lines()) {
        assert_eq!(a, b);
    }
    assert_eq!(before.lines().count(), after.lines().count());
    assert_eq!(two.within(ruleset::tables).len(), 6);
}
