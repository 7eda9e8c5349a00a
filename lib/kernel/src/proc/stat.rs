//! `/proc/PID/stat` (proc_pid_stat(5)).

use crate::{Error, Pid, Result};

/// The fields of `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Field 1.
    pub pid: Pid,
    /// Field 2, without its parentheses.
    pub comm: String,
    /// Field 3: `R`, `S`, `D`, `Z`, `T`, `t`, `X`, `I`.
    pub state: char,
    fields: Vec<i128>,
}

impl Stat {
    /// Field `number` as the manual page counts them, from 4 on.
    pub fn field(&self, number: usize) -> i128 {
        number
            .checked_sub(4)
            .and_then(|i| self.fields.get(i))
            .copied()
            .unwrap_or(0)
    }

    /// Parent.
    pub fn ppid(&self) -> Pid {
        self.field(4) as Pid
    }

    /// Process group.
    pub fn pgrp(&self) -> Pid {
        self.field(5) as Pid
    }

    /// Session.
    pub fn session(&self) -> Pid {
        self.field(6) as Pid
    }

    /// Device number of the controlling terminal (field 7).
    pub fn terminal(&self) -> Option<(u32, u32)> {
        let number = self.field(7) as u32;
        (number != 0).then(|| crate::tty::decode(number))
    }

    /// Its foreground process group (field 8).
    pub fn foreground(&self) -> Pid {
        self.field(8) as Pid
    }

    /// Ticks after boot at which the process started (field 22): with the pid, its identity.
    pub fn starttime(&self) -> u64 {
        self.field(22) as u64
    }

    /// The signal sent to the parent at the end (field 38).
    pub fn exit_signal(&self) -> i32 {
        self.field(38) as i32
    }

    /// The processor it ran on last (field 39).
    pub fn processor(&self) -> usize {
        self.field(39) as usize
    }

    /// Wait status of a zombie (field 52).
    pub fn exit_code(&self) -> i32 {
        self.field(52) as i32
    }
}

/// Reads the one line of the file.
pub fn parse(text: &str) -> Result<Stat> {
    let bad = || Error::unreadable("/proc/PID/stat", format!("not its form: {text:?}"));
    let open = text.find('(').ok_or_else(bad)?;
    let close = text.rfind(')').ok_or_else(bad)?;
    let pid = text
        .get(..open)
        .and_then(|t| t.trim().parse().ok())
        .ok_or_else(bad)?;
    let comm = text.get(open + 1..close).ok_or_else(bad)?.to_string();
    let mut rest = text.get(close + 1..).ok_or_else(bad)?.split_whitespace();
    let state = rest.next().and_then(|s| s.chars().next()).ok_or_else(bad)?;
    let fields = rest
        .map(|f| f.parse::<i128>().map_err(|_| bad()))
        .collect::<Result<Vec<_>>>()?;
    Ok(Stat {
        pid,
        comm,
        state,
        fields,
    })
}

/// Reads the file of a process.
pub fn read(pid: Pid) -> Result<Stat> {
    parse(&super::Proc::process(pid).text("stat")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "4711 (a) b (c) S 1 4711 4700 34816 4711 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 \
        8192 100 18446744073709551615 1 2 3 0 0 0 0 0 0 0 0 0 17 3 0 0 0 0 0 6 7 8 9 10 11 12 256\n";

    #[test]
    fn a_name_with_parentheses_and_spaces_is_read_whole() {
        let stat = parse(SAMPLE).unwrap();
        assert_eq!(
            (stat.pid, stat.comm.as_str(), stat.state),
            (4711, "a) b (c", 'S')
        );
        assert_eq!((stat.ppid(), stat.pgrp(), stat.session()), (1, 4711, 4700));
        assert_eq!(stat.starttime(), 12345);
        assert_eq!((stat.terminal(), stat.foreground()), (Some((136, 0)), 4711));
        assert_eq!(
            (stat.exit_signal(), stat.processor(), stat.exit_code()),
            (17, 3, 256)
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1", "1 (x", "x (y) S 1", "1 (y) S q"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn our_own_is_read() {
        let stat = read(std::process::id() as Pid).unwrap();
        assert_eq!(stat.pid, std::process::id() as Pid);
        assert!(stat.starttime() > 0);
    }
}
