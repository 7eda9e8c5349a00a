//! Files that an engine wrote for one container: what they hold in a native one. Pure functions of what they held, of
//! the host's own, and of the new address and name.

use std::net::IpAddr;

/// What has changed for the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Its addresses on the source.
    pub(super) old: Vec<IpAddr>,
    /// Its address here; none where it has none of its own.
    pub(super) new: Option<IpAddr>,
    /// This host, as it sees it.
    pub(super) gateway: Option<IpAddr>,
    /// Its name on the source, and here.
    pub(super) names: (String, String),
    /// It was given name servers of its own (`--dns`).
    pub(super) own_dns: bool,
}

/// Names under which engines tell a container of the host.
const HOST: [&str; 2] = ["host.containers.internal", "host.docker.internal"];

/// What a file holds here that held `old` on the source.
pub(super) fn content(place: &[u8], old: &[u8], changed: &Changed) -> Vec<u8> {
    match place {
        b"/etc/hosts" => hosts(&String::from_utf8_lossy(old), changed).into_bytes(),
        b"/etc/resolv.conf" if !changed.own_dns => {
            let local = changed.new.is_none();
            let found = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"]
                .iter()
                .filter_map(|path| std::fs::read_to_string(path).ok())
                .find_map(|text| servers(&text, local));
            found.map_or_else(|| old.to_vec(), String::into_bytes)
        }
        _ => old.to_vec(),
    }
}

/// `/etc/hosts` (hosts(5)) with the new address and name in the place of the old.
fn hosts(text: &str, changed: &Changed) -> String {
    let lines = text
        .split_inclusive('\n')
        .map(|line| line_of_hosts(line, changed));
    lines.collect()
}

fn line_of_hosts(line: &str, changed: &Changed) -> String {
    let address = line.split_whitespace().next().unwrap_or_default();
    let Ok(was) = address.parse::<IpAddr>() else {
        return line.to_string();
    };
    let (_, names) = line.split_once(address).unwrap_or_default();
    let of_host = names.split_whitespace().any(|name| HOST.contains(&name));
    if of_host {
        return match changed.gateway {
            Some(gateway) => format!("{gateway}{names}"),
            None => line.to_string(),
        };
    }
    if !changed.old.contains(&was) {
        return line.to_string();
    }
    let (old, new) = &changed.names;
    let names: String = names
        .split_inclusive(char::is_whitespace)
        .map(|word| match word.strip_prefix(old.as_str()) {
            Some(rest) if !old.is_empty() && rest.trim().is_empty() => format!("{new}{rest}"),
            _ => word.to_string(),
        })
        .collect();
    match changed.new {
        Some(new) if new.is_ipv4() == was.is_ipv4() => format!("{new}{names}"),
        _ => format!("{was}{names}"),
    }
}

/// The host's `/etc/resolv.conf` (resolv.conf(5)), as a network of its own can use it: without servers on the host's
/// loopback. None where no server is left.
fn servers(text: &str, local: bool) -> Option<String> {
    let usable = |line: &str| {
        let mut words = line.split_whitespace();
        let server = words.next() == Some("nameserver");
        let address = words.next().and_then(|a| a.parse::<IpAddr>().ok());
        (server, !address.is_some_and(|a| a.is_loopback()) || local)
    };
    let kept: String = text
        .split_inclusive('\n')
        .filter(|line| !usable(line).0 || usable(line).1)
        .collect();
    kept.lines().any(|line| usable(line).0).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_address_and_name_stand_in_the_place_of_the_old() {
        let changed = Changed {
            old: vec!["10.88.0.3".parse().unwrap()],
            new: Some("10.213.64.2".parse().unwrap()),
            gateway: Some("10.213.64.1".parse().unwrap()),
            names: ("web".into(), "hello1".into()),
            own_dns: false,
        };
        let text = "127.0.0.1\tlocalhost web\n# 10.88.0.3 web\n\
            10.88.0.1\thost.containers.internal\n10.88.0.3\teba5383a56cd webby web\n";
        let wanted = "127.0.0.1\tlocalhost web\n# 10.88.0.3 web\n\
            10.213.64.1\thost.containers.internal\n10.213.64.2\teba5383a56cd webby hello1\n";
        assert_eq!(hosts(text, &changed), wanted);
        let unconnected = Changed {
            new: None,
            gateway: None,
            ..changed
        };
        let wanted = text.replace("webby web", "webby hello1");
        assert_eq!(hosts(text, &unconnected), wanted);
    }

    #[test]
    fn name_servers_on_the_hosts_loopback_are_of_no_use() {
        let text = "nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch lan\n";
        let wanted = "nameserver 192.0.2.1\nsearch lan\n";
        assert_eq!(servers(text, false).as_deref(), Some(wanted));
        assert_eq!(servers(text, true).as_deref(), Some(text));
        assert_eq!(servers("nameserver ::1\nsearch lan\n", false), None);
    }
}
