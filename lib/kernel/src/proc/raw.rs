//! `/proc/PID/net/raw` and its kind: whom raw and ping sockets are connected to, which getpeername(2) does not tell where
//! that was without a port (net/ipv4/raw.c, `raw_sock_seq_show`).

use super::Proc;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The other ends of the connected ones in a process's network namespace, by inode.
pub fn read(proc: &Proc) -> HashMap<u64, IpAddr> {
    let tables = ["net/raw", "net/raw6", "net/icmp", "net/icmp6"];
    let texts = tables.map(|name| proc.text(name).unwrap_or_default());
    texts.iter().flat_map(|text| parse(text)).collect()
}

/// Columns: number, own address, other address, state, queues, timer, retransmits, uid, timeout, inode, …
pub fn parse(text: &str) -> Vec<(u64, IpAddr)> {
    let entry = |line: &str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let (hex, _) = columns.get(2)?.split_once(':')?;
        Some((columns.get(9)?.parse().ok()?, address(hex)?))
    };
    let lines = text.lines().skip(1).filter_map(entry);
    lines.filter(|(_, ip)| !ip.is_unspecified()).collect()
}

/// Each four bytes are printed as the number that they make in memory.
fn address(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<[u8; 4]>> = (0..hex.len() / 8)
        .map(|i| {
            Some(
                u32::from_str_radix(hex.get(8 * i..8 * i + 8)?, 16)
                    .ok()?
                    .to_ne_bytes(),
            )
        })
        .collect();
    let bytes = words?.concat();
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_tables_read_as_they_were() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  253: 00000000:00FD 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 3350 2 000000000d9d2f1e 0
  254: 0100007F:00FE 0200000A:0000 01 00000000:00000000 00:00000000 00000000     0        0 3351 2 000000000d9d2f1f 0
";
        assert_eq!(parse(text), [(3351, "10.0.0.2".parse().unwrap())]);
        let v6 = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  58: 00000000000000000000000000000000:003A 00000000000000000000000001000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 99 2 0000000000000000 0
";
        assert_eq!(parse(v6), [(99, "::1".parse().unwrap())]);
        assert!(parse("").is_empty() && parse("x\nshort line\n").is_empty());
    }
}
