//! `/proc/PID/limits` (proc_pid_limits(5)): what `prlimit(2)` would say, without the privilege it asks for.

use crate::{Error, Result};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// `None` for unlimited.
    pub soft: Option<u64>,
    /// `None` for unlimited.
    pub hard: Option<u64>,
}

/// The names, in the order of `RLIMIT_*` (fs/proc/base.c, `lnames`).
const NAMES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

/// Reads the text: all sixteen limits, in the order of their numbers.
pub fn parse(text: &str) -> Result<Vec<Limit>> {
    let bad = |what: String| Error::unreadable("/proc/PID/limits", what);
    let mut found = Vec::with_capacity(NAMES.len());
    for (resource, name) in NAMES.iter().enumerate() {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .ok_or_else(|| bad(format!("no line {name:?}")))?;
        let mut words = line.split_whitespace().map(|word| match word {
            "unlimited" => Some(None),
            number => number.parse().ok().map(Some),
        });
        match (words.next().flatten(), words.next().flatten()) {
            (Some(soft), Some(hard)) => found.push(Limit {
                resource: resource as u32,
                soft,
                hard,
            }),
            _ => return Err(bad(format!("{name}: not two limits: {line:?}"))),
        }
    }
    Ok(found)
}

/// Reads the file of a process.
pub fn read(pid: crate::Pid) -> Result<Vec<Limit>> {
    parse(&super::Proc::process(pid).text("limits")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_limits_are_what_getrlimit_says() {
        use nix::sys::resource::{Resource, getrlimit};
        let found = read(std::process::id() as i32).unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((found[7].soft, found[7].hard), (Some(soft), Some(hard)));
        assert_eq!(found.len(), 16);
    }

    #[test]
    fn unlimited_and_numbers_are_told_apart() {
        let text = NAMES
            .map(|n| format!("{n}   12   unlimited   units\n"))
            .concat();
        let found = parse(&text).unwrap();
        assert_eq!((found[3].soft, found[3].hard), (Some(12), None));
        assert!(parse(&text.replace("12", "many")).is_err());
        assert!(parse("Limit  Soft Limit\n").is_err());
    }
}
