//! `/proc/PID/status` (proc_pid_status(5)).

use crate::{Error, Pid, Result};

/// The lines of `/proc/PID/status`, by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    lines: Vec<(String, String)>,
}

/// Reads the text.
pub fn parse(text: &str) -> Status {
    Status {
        lines: text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_string(), value.trim().to_string()))
            .collect(),
    }
}

/// Reads the file of a process.
pub fn read(pid: Pid) -> Result<Status> {
    Ok(parse(&super::Proc::process(pid).text("status")?))
}

/// Reads the file of a thread.
pub fn read_thread(pid: Pid, tid: Pid) -> Result<Status> {
    Ok(parse(&super::Proc::thread(pid, tid).text("status")?))
}

impl Status {
    /// The value of a line, where the kernel gives it.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    fn need(&self, key: &str) -> Result<&str> {
        self.get(key)
            .ok_or_else(|| Error::unreadable("/proc/PID/status", format!("no line {key}")))
    }

    /// A decimal number (the first on its line).
    pub fn number(&self, key: &str) -> Result<i64> {
        let value = self.need(key)?;
        value
            .split_whitespace()
            .next()
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| {
                Error::unreadable(
                    "/proc/PID/status",
                    format!("{key}: not a number: {value:?}"),
                )
            })
    }

    /// A line of decimal numbers: `Uid`, `Gid`, `Groups`, `NSpid`.
    pub fn numbers(&self, key: &str) -> Result<Vec<i64>> {
        let value = self.need(key)?;
        value
            .split_whitespace()
            .map(|v| {
                v.parse().map_err(|_| {
                    Error::unreadable("/proc/PID/status", format!("{key}: not numbers: {value:?}"))
                })
            })
            .collect()
    }

    /// A mask in hexadecimal: `SigCgt`, `CapEff`.
    pub fn mask(&self, key: &str) -> Result<u64> {
        let value = self.need(key)?;
        u64::from_str_radix(value, 16).map_err(|_| {
            Error::unreadable("/proc/PID/status", format!("{key}: not a mask: {value:?}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "Name:\tbash\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t90\nUid:\t0\t1\t2\t3\n\
        NSpid:\t90\t1\nGroups:\t \nSigCgt:\t000000004b817efb\nThreads:\t1\n";

    #[test]
    fn numbers_masks_and_empty_lists_are_read() {
        let status = parse(SAMPLE);
        assert_eq!(status.number("Tgid").unwrap(), 90);
        assert_eq!(status.numbers("NSpid").unwrap(), [90, 1]);
        assert_eq!(status.numbers("Uid").unwrap(), [0, 1, 2, 3]);
        assert!(status.numbers("Groups").unwrap().is_empty());
        assert_eq!(status.mask("SigCgt").unwrap(), 0x4b817efb);
        assert!(status.number("Nope").is_err());
        assert!(status.mask("Name").is_err());
    }
}
