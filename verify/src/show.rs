//! What is inside an image, for people.

use crate::contents::Contents;
use image::ids::Pid;
use image::tree::{self, State};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Text from an image on its way to a terminal: no control characters.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect()
}

/// Bytes in the largest unit that leaves at least one of it.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let power = (bytes.max(1).ilog2() / 10) as usize;
    match power
        .checked_sub(1)
        .and_then(|power| units.get(power.min(3)))
    {
        None => format!("{bytes} bytes"),
        Some(unit) => format!(
            "{:.1} {unit}",
            bytes as f64 / 1024f64.powi(power.min(4) as i32)
        ),
    }
}

/// All of it, one heading for each kind of thing.
pub fn text(contents: &Contents) -> String {
    let mut text = String::new();
    // Writing to memory does not fail.
    let _ = processes(&mut text, contents)
        .and_then(|()| memory(&mut text, contents))
        .and_then(|()| descriptors(&mut text, contents))
        .and_then(|()| sockets(&mut text, contents))
        .and_then(|()| mounts(&mut text, contents))
        .and_then(|()| trees(&mut text, contents));
    text
}

fn processes(out: &mut String, contents: &Contents) -> std::fmt::Result {
    let Some(tree) = &contents.tree else {
        return Ok(());
    };
    writeln!(
        out,
        "\nprocesses\n{:>7} {:>7} {:>7} {:>7} {:>7} {:>6}  name",
        "pid", "parent", "group", "session", "threads", "uid"
    )?;
    let listed: BTreeSet<Pid> = tree.processes.iter().map(|process| process.pid).collect();
    let mut shown = BTreeSet::new();
    for process in &tree.processes {
        if !listed.contains(&process.ppid) || process.ppid == process.pid {
            branch(out, contents, tree, process, 0, &mut shown)?;
        }
    }
    Ok(())
}

/// A process and those below it. The record is not checked for circles: nothing is shown twice.
fn branch(
    out: &mut String,
    contents: &Contents,
    tree: &tree::Tree,
    process: &tree::Process,
    depth: usize,
    shown: &mut BTreeSet<Pid>,
) -> std::fmt::Result {
    if depth > 500 || !shown.insert(process.pid) {
        return Ok(());
    }
    let own = contents.processes.iter().find(|own| own.pid == process.pid);
    let name = match (&process.state, own) {
        (State::Dead { name, .. }, _) => format!("{name} (zombie)"),
        (_, Some(own)) => own.name.to_string(),
        (State::Alive { .. }, None) => String::from("?"),
    };
    let threads = own.map_or(0, |own| own.threads);
    let uid = own.map_or(String::from("-"), |own| own.uid.to_string());
    writeln!(
        out,
        "{:>7} {:>7} {:>7} {:>7} {threads:>7} {uid:>6}  {}{}",
        process.pid,
        process.ppid,
        process.pgid,
        process.sid,
        "  ".repeat(depth.min(20)),
        plain(&name)
    )?;
    for child in tree
        .processes
        .iter()
        .filter(|child| child.ppid == process.pid)
    {
        branch(out, contents, tree, child, depth + 1, shown)?;
    }
    Ok(())
}

fn memory(out: &mut String, contents: &Contents) -> std::fmt::Result {
    if contents.memory.is_empty() && contents.shared.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\nmemory\n{:>10} {:>6} {:>12} {:>12}  executable",
        "space", "areas", "mapped", "in image"
    )?;
    for memory in &contents.memory {
        let executable = memory
            .executable
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let (mapped, pages) = (size(memory.mapped), size(memory.pages));
        let (id, areas) = (memory.id.0, memory.areas);
        writeln!(
            out,
            "{id:>10} {areas:>6} {mapped:>12} {pages:>12}  {}",
            plain(&executable)
        )?;
    }
    for shared in &contents.shared {
        let (mapped, pages) = (size(shared.size), size(shared.pages));
        writeln!(
            out,
            "{:>10} {:>6} {mapped:>12} {pages:>12}",
            format!("shared {}", shared.id.0),
            ""
        )?;
    }
    Ok(())
}

fn descriptors(out: &mut String, contents: &Contents) -> std::fmt::Result {
    if contents.tables.is_empty() {
        return Ok(());
    }
    writeln!(out, "\ndescriptors")?;
    let Some(tree) = &contents.tree else {
        return Ok(());
    };
    for table in &contents.tables {
        let owners: Vec<String> = tree
            .processes
            .iter()
            .filter(|process| matches!(&process.state, State::Alive { table: id, .. } if *id == table.id))
            .map(|process| process.pid.to_string())
            .collect();
        let owners = owners.join(", ");
        for (number, id) in &table.descriptors {
            let file = contents
                .files
                .get(&id.0)
                .or_else(|| contents.sockets.get(&id.0));
            let what = file.map_or(String::from("?"), describe);
            writeln!(out, "  process {owners}, {number:>3}: {what}")?;
        }
    }
    Ok(())
}

fn sockets(out: &mut String, contents: &Contents) -> std::fmt::Result {
    if contents.sockets.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nsockets")?;
    contents
        .sockets
        .values()
        .try_for_each(|socket| writeln!(out, "  {}", describe(socket)))
}

fn mounts(out: &mut String, contents: &Contents) -> std::fmt::Result {
    if contents.mounts().is_empty() {
        return Ok(());
    }
    writeln!(out, "\nmounts")?;
    for mount in contents.mounts() {
        let line = format!(
            "{} {} ({})",
            mount.mountpoint,
            mount.fstype,
            mount.options.join(",")
        );
        writeln!(out, "  {}", plain(&line))?;
    }
    Ok(())
}

fn trees(out: &mut String, contents: &Contents) -> std::fmt::Result {
    if contents.trees.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nfile trees")?;
    for tree in &contents.trees {
        writeln!(
            out,
            "  {}: {} entries, {}",
            tree.root,
            tree.sum.entries,
            size(tree.sum.bytes)
        )?;
    }
    Ok(())
}

/// An open file in a few words: its kind, and of its record what says which it is.
fn describe(file: &Value) -> String {
    let mut words = Vec::new();
    for key in [
        "kind", "family", "type", "state", "name", "path", "was", "local", "remote", "inode",
        "pipe", "pid", "protocol",
    ] {
        match file.get(key) {
            None | Some(Value::Null) => (),
            Some(value) => words.extend(describe_part(key, value)),
        }
    }
    plain(&words.join(" "))
}

fn describe_part(key: &str, value: &Value) -> Option<String> {
    match (key, value) {
        ("kind" | "family" | "type" | "state" | "name" | "path" | "was", Value::String(text)) => {
            Some(text.clone())
        }
        ("inode" | "pipe" | "pid" | "protocol", Value::Number(number)) => {
            Some(format!("{key} {number}"))
        }
        ("state", Value::Object(state)) => {
            let word = state.get("state").and_then(Value::as_str);
            let ends = ["local", "remote"]
                .map(|end| state.get(end).and_then(|end| describe_part("local", end)));
            let words: Vec<String> = word
                .map(str::to_owned)
                .into_iter()
                .chain(ends.into_iter().flatten())
                .collect();
            Some(words.join(" "))
        }
        ("name", Value::Object(name)) => {
            let text = |key| name.get(key).and_then(Value::as_str);
            text("path").or(text("name")).map(str::to_owned)
        }
        ("local" | "remote", Value::Object(address)) => {
            let ip = address.get("ip").and_then(Value::as_str)?;
            let port = address.get("port").and_then(Value::as_u64)?;
            Some(if ip.contains(':') {
                format!("[{ip}]:{port}")
            } else {
                format!("{ip}:{port}")
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_are_in_the_unit_a_person_would_choose() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (1 << 60, "1048576.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_socket_is_described_by_its_state_and_ends() {
        let address = json!({"ip": "::1", "port": 80, "scope": 0});
        let state = json!({"state": "listening", "local": address, "backlog": 5});
        let socket = json!({"kind": "socket", "family": "tcp", "version": "v6", "state": state});
        assert_eq!(describe(&socket), "socket tcp listening [::1]:80");
        let file = json!({"kind": "regular", "path": "/a\u{1b}[2J", "size": 4});
        assert_eq!(describe(&file), "regular /a\u{fffd}[2J");
    }
}
