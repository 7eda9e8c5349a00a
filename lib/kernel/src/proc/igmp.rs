//! `/proc/PID/net/igmp` and `igmp6`: the multicast groups that sockets of a network namespace have joined, by interface.
//! Which socket joined which, only the sockets themselves tell.

use super::Proc;
use crate::Result;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A group joined on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its address.
    pub address: IpAddr,
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub interface: String,
}

/// The groups of a process's network namespace. One without IPv6 has no `igmp6`.
pub fn read(proc: &Proc) -> Result<Vec<Group>> {
    let mut groups = parse_v4(&proc.text("net/igmp").unwrap_or_default());
    groups.extend(parse_v6(&proc.text("net/igmp6").unwrap_or_default()));
    Ok(groups)
}

/// A line for each interface (index, name, …), then an indented one for each group (net/ipv4/igmp.c, `igmp_mc_seq_show`).
pub fn parse_v4(text: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut interface = (0, String::new());
    for line in text.lines().skip(1) {
        let mut columns = line.split_ascii_whitespace();
        let first = columns.next().unwrap_or_default();
        if line.starts_with(char::is_whitespace) {
            // The address is printed as the number that its bytes make in memory.
            if let Ok(address) = u32::from_str_radix(first, 16) {
                groups.push(Group {
                    address: Ipv4Addr::from(address.to_ne_bytes()).into(),
                    index: interface.0,
                    interface: interface.1.clone(),
                });
            }
        } else {
            let name = columns.next().unwrap_or_default().trim_end_matches(':');
            interface = (first.parse().unwrap_or(0), name.to_string());
        }
    }
    groups
}

/// A line for each group: index, name, address, … (net/ipv6/mcast.c, `igmp6_mc_seq_show`).
pub fn parse_v6(text: &str) -> Vec<Group> {
    let entry = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let index = columns.next()?.parse().ok()?;
        let interface = columns.next()?.to_string();
        let address = u128::from_str_radix(columns.next()?, 16).ok()?;
        Some(Group {
            address: Ipv6Addr::from(address).into(),
            index,
            interface,
        })
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_tables_read_as_they_were() {
        let v4 = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
2\teth0      :     2      V3
\t\t\t\tFB0000E0     1 0:00000000\t\t0
\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let group = |address: &str, index, interface: &str| Group {
            address: address.parse().unwrap(),
            index,
            interface: interface.into(),
        };
        assert_eq!(
            parse_v4(v4),
            [
                group("224.0.0.1", 1, "lo"),
                group("224.0.0.251", 2, "eth0"),
                group("224.0.0.1", 2, "eth0")
            ]
        );
        let v6 = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n";
        assert_eq!(parse_v6(v6), [group("ff02::1", 1, "lo")]);
    }
}
