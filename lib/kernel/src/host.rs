//! What this host is: names, processor, clocks. For the header of an image, and to compare with one.

use crate::arch;
use crate::error::{Named, check};
use crate::{Error, Result};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Names of the machine and its kernel (uname(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// Kernel release.
    pub kernel: String,
    /// Node name.
    pub hostname: String,
}

/// What the processor offers to programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processor {
    /// Model name of `/proc/cpuinfo`.
    pub model: String,
    /// Its features by name.
    pub features: Vec<String>,
    /// XCR0; 0 where there is none.
    pub xcr0: u64,
    /// `AT_HWCAP` (getauxval(3)).
    pub hwcap: u64,
    /// `AT_HWCAP2`.
    pub hwcap2: u64,
    /// Bytes of a full XSAVE area in the standard format; 0 where there is none.
    pub xstate_size: u32,
    /// Number, offset and size in bytes of each state component from 2 on.
    pub xstate_components: Vec<(u32, u32, u32)>,
}

/// Nanoseconds of the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// `CLOCK_MONOTONIC`.
    pub monotonic: u64,
    /// `CLOCK_BOOTTIME`.
    pub boottime: u64,
    /// `CLOCK_REALTIME`.
    pub realtime: u64,
}

/// `PR_GET_SPECULATION_CTRL` of the calling thread for a misfeature (`PR_SPEC_*`): bit 0 says that threads may choose.
pub fn speculation(misfeature: u32) -> Result<u64> {
    const GET_SPECULATION_CTRL: i32 = 52;
    // SAFETY: numbers only.
    let result = unsafe { libc::prctl(GET_SPECULATION_CTRL, misfeature as u64, 0, 0, 0) };
    let what = || format!("speculation control {misfeature}");
    check(result.into(), what)
}

/// Whether programs may restrict themselves by landlock(7) here.
pub fn has_landlock() -> bool {
    const CREATE_RULESET_VERSION: u64 = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: without attributes, and with this flag, the call makes nothing and tells its version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            none,
            0,
            CREATE_RULESET_VERSION,
        )
    };
    version > 0
}

/// Asks uname(2).
pub fn names() -> Result<Names> {
    let names = nix::sys::utsname::uname().named(|| "uname".into())?;
    let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
    Ok(Names {
        architecture: text(names.machine()),
        kernel: text(names.release()),
        hostname: text(names.nodename()),
    })
}

/// Bytes of a page.
pub fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096) as u64
}

/// Reads `/proc/cpuinfo` and asks the processor.
pub fn processor() -> Result<Processor> {
    let text = std::fs::read_to_string("/proc/cpuinfo")
        .map_err(|e| Error::io("read /proc/cpuinfo", &e))?;
    let (model, features) = parse_cpuinfo(&text);
    // SAFETY: getauxval takes a number and gives a number.
    let (hwcap, hwcap2) = unsafe {
        (
            libc::getauxval(libc::AT_HWCAP),
            libc::getauxval(libc::AT_HWCAP2),
        )
    };
    Ok(Processor {
        model,
        features,
        xcr0: arch::enabled_components(),
        hwcap,
        hwcap2,
        xstate_size: arch::xstate_size(),
        xstate_components: arch::xstate_components(),
    })
}

fn parse_cpuinfo(text: &str) -> (String, Vec<String>) {
    let value = |keys: &[&str]| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| keys.contains(&key.trim()))
            .map(|(_, value)| value.trim().to_string())
            .unwrap_or_default()
    };
    let mut features: Vec<String> = value(&["flags", "Features"])
        .split_whitespace()
        .map(str::to_string)
        .collect();
    features.sort();
    (value(&["model name", "CPU part"]), features)
}

/// Reads the clocks, as close together as can be.
pub fn clocks() -> Result<Clocks> {
    let read = |clock: ClockId, name: &str| {
        let time = clock_gettime(clock).named(|| format!("read {name}"))?;
        Ok::<u64, Error>(Duration::from(time).as_nanos() as u64)
    };
    Ok(Clocks {
        monotonic: read(ClockId::CLOCK_MONOTONIC, "CLOCK_MONOTONIC")?,
        boottime: read(ClockId::CLOCK_BOOTTIME, "CLOCK_BOOTTIME")?,
        realtime: read(ClockId::CLOCK_REALTIME, "CLOCK_REALTIME")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_gives_model_and_features() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: sse fpu avx2\n\nprocessor\t: 1\n";
        let (model, features) = parse_cpuinfo(text);
        assert_eq!(model, "Some CPU @ 2GHz");
        assert_eq!(features, ["avx2", "fpu", "sse"]);
    }

    #[test]
    fn this_host_has_names_a_processor_and_clocks_that_run() {
        assert!(!names().unwrap().kernel.is_empty());
        assert!(!processor().unwrap().features.is_empty());
        let (first, second) = (clocks().unwrap(), clocks().unwrap());
        assert!(second.monotonic > first.monotonic);
        assert!(first.boottime >= first.monotonic);
    }
}
