//! The first entry, `header.json`: who wrote the image, where, and what a host needs to run it.

mod features;

use crate::format::VERSION;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// The first record of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the format: [`VERSION`].
    pub format: u32,
    /// The program that wrote it and its version, as `checkpoint 0.1.0`.
    pub program: String,
    /// Name of the container.
    pub name: String,
    /// Id of the container.
    pub id: String,
    /// When the container was frozen.
    pub created: Created,
    /// The machine it ran on.
    pub host: Host,
    /// The processor it ran on.
    pub cpu: Cpu,
    /// The clocks at the freeze.
    pub clocks: Clocks,
}

/// A point in time, once for people and once for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Created {
    /// RFC 3339 in UTC, whole seconds.
    pub rfc3339: String,
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub unix_ns: u64,
}

/// The machine a container ran on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// `machine` of uname(2): `x86_64`, `aarch64`.
    pub architecture: String,
    /// `release` of uname(2).
    pub kernel: String,
    /// `nodename` of uname(2), of the machine, not of the container.
    pub hostname: String,
    /// Bytes of a page.
    pub page_size: u64,
}

/// The processor a container ran on: what its threads' registers and its code may rely on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Model name of /proc/cpuinfo, for people.
    pub model: String,
    /// Features of /proc/cpuinfo (`flags` or `Features`).
    pub features: Vec<String>,
    /// XCR0, as bytes 464.. of an NT_X86_XSTATE register set give it; 0 where there is none.
    pub xcr0: u64,
    /// AT_HWCAP of the auxiliary vector.
    pub hwcap: u64,
    /// AT_HWCAP2 of the auxiliary vector.
    pub hwcap2: u64,
    /// Bytes of a full XSAVE area in the standard format; 0 where there is none.
    pub xstate_size: u32,
    /// Where each state component lies in it.
    pub xstate_components: Vec<XstateComponent>,
}

/// Where one XSAVE state component lies (CPUID leaf 0xd; differs between vendors).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XstateComponent {
    /// Bit number in XCR0.
    pub bit: u32,
    /// First byte in the standard format.
    pub offset: u32,
    /// Length in bytes.
    pub size: u32,
}

/// The clocks of the container at the freeze, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clocks {
    /// CLOCK_MONOTONIC as the container saw it.
    pub monotonic_ns: u64,
    /// CLOCK_BOOTTIME as the container saw it.
    pub boottime_ns: u64,
    /// CLOCK_REALTIME.
    pub realtime_ns: u64,
}

/// What every version of the header has: read before anything else of it is.
#[derive(Deserialize)]
pub(crate) struct Versioned {
    /// Version of the format.
    pub format: u64,
}

impl Header {
    /// A header of this version of the format, with the fields below left to fill in.
    pub fn new(program: &str, name: &str, id: &str) -> Header {
        Header {
            format: VERSION,
            program: program.to_owned(),
            name: name.to_owned(),
            id: id.to_owned(),
            created: Created::at(SystemTime::now()),
            host: Host::default(),
            cpu: Cpu::default(),
            clocks: Clocks::default(),
        }
    }
}

impl Created {
    /// The record of a point in time.
    pub fn at(time: SystemTime) -> Created {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Created {
            rfc3339: rfc3339(since.as_secs()),
            unix_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Whole seconds since 1970: the time `tar -tv` shows for records.
    pub(crate) fn seconds(&self) -> i64 {
        i64::try_from(self.unix_ns / 1_000_000_000).unwrap_or(i64::MAX)
    }
}

/// Seconds since 1970 in UTC as RFC 3339. Days to date: proleptic Gregorian, in eras of 400 years.
fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_date_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_732_356_000, "2024-11-23T10:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
