//! What this host is, as far as /proc and uname(2) tell, to compare with what an image's host was.

use anyhow::Context;
use image::header::{Cpu, Host};
use nix::sys::utsname::uname;
use nix::unistd::{SysconfVar, sysconf};

/// This host and its processor. XCR0 and the hardware words are left 0: their features have names.
pub fn host() -> anyhow::Result<(Host, Cpu)> {
    let names = uname().context("uname")?;
    let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    let page_size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let host = Host {
        architecture: text(names.machine()),
        kernel: text(names.release()),
        hostname: text(names.nodename()),
        page_size: page_size
            .and_then(|size| u64::try_from(size).ok())
            .unwrap_or(0),
    };
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let cpu = Cpu {
        features: features(&cpuinfo),
        ..Cpu::default()
    };
    Ok((host, cpu))
}

/// The features of the first processor, in order.
fn features(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "flags" | "Features").then_some(value)
    });
    let mut features: Vec<String> = line
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    features.sort();
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_found_on_either_architecture() {
        let intel = "processor\t: 0\nmodel name\t: X\nflags\t\t: sse2 fpu avx\nbugs\t\t: foo\n";
        assert_eq!(features(intel), ["avx", "fpu", "sse2"]);
        assert_eq!(features("Features\t: fp asimd\n"), ["asimd", "fp"]);
        assert!(features("").is_empty());
    }

    #[test]
    fn this_host_lacks_nothing_that_it_has() {
        let (host, cpu) = host().unwrap();
        assert!(!host.architecture.is_empty() && host.page_size >= 4096);
        let mut header = image::Header::new("test", "web", "1");
        (header.host, header.cpu) = (host.clone(), cpu.clone());
        assert!(header.lacks(&host, &cpu).is_empty());
    }
}
