//! The devices that a group may use: `devices.list` of version 1 (Documentation/admin-guide/cgroup-v1/devices.rst), and
//! what a runtime's configuration says of them where the kernel does not tell (version 2 keeps a program).

use image::cgroups::DeviceRule;
use kernel::devices::{self, Rule};
use serde_json::Value;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Reads `devices.list`; none where all devices may be used.
pub(super) fn parse(list: &str) -> Option<Vec<DeviceRule>> {
    let lines = list.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut found = Vec::new();
    for line in lines {
        if line.starts_with('a') {
            return None;
        }
        found.extend(parse_line(line));
    }
    Some(found)
}

/// `c 1:3 rwm`, `b *:* m`.
fn parse_line(line: &str) -> Option<DeviceRule> {
    let mut words = line.split(' ');
    let block = match words.next()? {
        "b" => true,
        "c" => false,
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let access = words.next()?;
    let number = |text: &str| match text {
        "*" => Some(None),
        text => text.parse().ok().map(Some),
    };
    Some(DeviceRule {
        block,
        major: number(major)?,
        minor: number(minor)?,
        read: access.contains('r'),
        write: access.contains('w'),
        make: access.contains('m'),
    })
}

/// The line of a rule, as `devices.allow` takes it.
fn line(rule: &DeviceRule) -> String {
    let kind = if rule.block { 'b' } else { 'c' };
    let number = |n: Option<u32>| n.map_or("*".to_string(), |n| n.to_string());
    let access: String = [(rule.read, 'r'), (rule.write, 'w'), (rule.make, 'm')]
        .into_iter()
        .filter_map(|(has, letter)| has.then_some(letter))
        .collect();
    format!(
        "{kind} {}:{} {access}",
        number(rule.major),
        number(rule.minor)
    )
}

/// Gives a container the devices it may use, and no others: by its group of version 1, else of version 2.
pub(super) fn give(groups: &[PathBuf], rules: &[DeviceRule]) -> Result<(), String> {
    let with = |file: &str| groups.iter().find(|group| group.join(file).exists());
    if let Some(group) = with("devices.deny") {
        write(group, "devices.deny", "a")?;
        return rules
            .iter()
            .try_for_each(|rule| write(group, "devices.allow", &line(rule)));
    }
    let group = with("cgroup.type").ok_or("this host has no such controller mounted")?;
    let rules: Vec<Rule> = rules
        .iter()
        .map(|rule| Rule {
            block: rule.block,
            major: rule.major,
            minor: rule.minor,
            read: rule.read,
            write: rule.write,
            make: rule.make,
        })
        .collect();
    let dir = fs::File::open(group).map_err(|e| format!("{}: {e}", group.display()))?;
    devices::restrict(dir.as_fd(), &rules).map_err(|e| e.to_string())
}

fn write(group: &Path, file: &str, word: &str) -> Result<(), String> {
    let path = group.join(file);
    fs::write(&path, word).map_err(|e| format!("{}: {word}: {e}", path.display()))
}

/// What every runtime allows besides (config-linux.md of the OCI runtime specification, default devices; and making any
/// node, and /dev/net/tun, as runc has it).
const BESIDES: [&str; 11] = [
    "b *:* m",
    "c *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
    "c 136:* rwm",
];

/// The rules of a runtime's configuration (`linux.resources.devices`); none where all devices may be used.
pub(super) fn of_spec(spec: &Value) -> Option<Vec<DeviceRule>> {
    let rules = spec.pointer("/linux/resources/devices")?.as_array()?;
    let allowed = |rule: &Value| rule.get("allow").and_then(Value::as_bool) == Some(true);
    let mut found: Vec<DeviceRule> = BESIDES.iter().filter_map(|line| parse_line(line)).collect();
    for rule in rules.iter().filter(|rule| allowed(rule)) {
        let kind = rule.get("type").and_then(Value::as_str).unwrap_or("a");
        let access = rule.get("access").and_then(Value::as_str).unwrap_or("rwm");
        let number = |name| {
            let given = rule.get(name).and_then(Value::as_i64);
            given.and_then(|n| u32::try_from(n).ok())
        };
        if kind == "a" {
            return None;
        }
        found.push(DeviceRule {
            block: kind == "b",
            major: number("major"),
            minor: number("minor"),
            read: access.contains('r'),
            write: access.contains('w'),
            make: access.contains('m'),
        });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_they_were_read() {
        let list = "b *:* m\nc 1:3 rwm\nc 136:* rw\n";
        let rules = parse(list).unwrap();
        let lines: Vec<_> = rules.iter().map(|rule| line(rule) + "\n").collect();
        assert_eq!(lines.concat(), list);
        assert_eq!(parse("a *:* rwm\n"), None);
    }

    #[test]
    fn a_configuration_allows_what_it_names_and_the_usual() {
        let spec = |rules: Value| serde_json::json!({"linux": {"resources": {"devices": rules}}});
        let denied = serde_json::json!({"allow": false, "access": "rwm"});
        let fuse = serde_json::json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
        let found = of_spec(&spec(serde_json::json!([denied, fuse]))).unwrap();
        assert_eq!(found.len(), BESIDES.len() + 1);
        assert_eq!(line(found.last().unwrap()), "c 10:229 rw");
        let all = serde_json::json!([{"allow": true, "access": "rwm"}]);
        assert_eq!(of_spec(&spec(all)), None);
        assert_eq!(of_spec(&Value::Null), None);
    }
}
