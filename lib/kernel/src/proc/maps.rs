//! `/proc/PID/maps` and `/proc/PID/smaps` (proc_pid_maps(5), proc_pid_smaps(5)): the areas of an address space.

use crate::{Error, Pid, Result};

/// One area as the kernel shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `PROT_*` bits.
    pub prot: u8,
    /// `MAP_SHARED`.
    pub shared: bool,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Device of the file, as `st_dev` has it; 0 where nothing is mapped.
    pub device: u64,
    /// Inode of the file; 0 where nothing is mapped.
    pub inode: u64,
    /// Path, `[heap]`, `[anon:name]` or nothing; with ` (deleted)` where the kernel adds it.
    pub name: Vec<u8>,
    /// The two-letter `VmFlags`; empty when read from `maps`.
    pub flags: Vec<[u8; 2]>,
    /// `Rss`, bytes; 0 when read from `maps`.
    pub resident: u64,
    /// `AnonHugePages`, bytes; 0 when read from `maps`.
    pub huge: u64,
    /// `KernelPageSize`, bytes; 0 when read from `maps`.
    pub page: u64,
    /// `Swap`, bytes; 0 when read from `maps`.
    pub swapped: u64,
}

impl Area {
    /// Whether `VmFlags` has this word.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag.as_bytes())
    }

    /// The name of its link in `/proc/PID/map_files`.
    pub fn link(&self) -> String {
        format!("map_files/{:x}-{:x}", self.start, self.end)
    }
}

/// First address of the kernel's half: `[vsyscall]` lies there, belongs to no process and is left out.
const KERNEL_HALF: u64 = 1 << 63;

/// Reads either file.
pub fn parse(text: &[u8]) -> Result<Vec<Area>> {
    let mut areas: Vec<Area> = Vec::new();
    for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let bad = || {
            let line = String::from_utf8_lossy(line);
            Error::unreadable("/proc/PID/maps", format!("not its form: {line:?}"))
        };
        // Lines of an area begin with a small hex digit, those of its smaps fields with a capital letter.
        if line.first().is_some_and(u8::is_ascii_uppercase) {
            field(line, areas.last_mut().ok_or_else(bad)?).ok_or_else(bad)?;
        } else {
            areas.push(area(line).ok_or_else(bad)?);
        }
    }
    areas.retain(|area| area.start < KERNEL_HALF);
    Ok(areas)
}

fn area(line: &[u8]) -> Option<Area> {
    let mut words = line.splitn(6, |b| *b == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let (start, end) = word()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let access = word()?.as_bytes();
    let offset = hex(word()?)?;
    let (major, minor) = word()?.split_once(':')?;
    let inode = word()?.parse().ok()?;
    let name = words.next().unwrap_or_default().trim_ascii_start();
    let prot = [b'r', b'w', b'x']
        .iter()
        .zip(access)
        .enumerate()
        .filter(|(_, (letter, found))| letter == found)
        .fold(0, |bits, (i, _)| bits | 1 << i);
    Some(Area {
        start: hex(start)?,
        end: hex(end)?,
        prot,
        shared: *access.get(3)? == b's',
        offset,
        device: libc::makedev(hex(major)? as u32, hex(minor)? as u32),
        inode,
        name: unescape(name),
        ..Area::default()
    })
}

/// Of all bytes, only the line feed is escaped (fs/proc/task_mmu.c, `seq_path(m, path, "\n")`).
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, behind)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(b"\\012") {
            plain.push(b'\n');
            rest = behind;
        } else {
            plain.push(first);
            rest = behind;
        }
    }
    plain
}

fn field(line: &[u8], area: &mut Area) -> Option<()> {
    let line = std::str::from_utf8(line).ok()?;
    let (name, value) = line.split_once(':')?;
    let bytes = || {
        let number = value.trim().strip_suffix("kB")?;
        number.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    match name {
        "Rss" => area.resident = bytes()?,
        "AnonHugePages" => area.huge = bytes()?,
        "KernelPageSize" => area.page = bytes()?,
        "Swap" => area.swapped = bytes()?,
        "VmFlags" => {
            let flags = value.split_whitespace();
            area.flags = flags
                .map(|flag| flag.as_bytes().try_into().ok())
                .collect::<Option<_>>()?;
        }
        _ => (),
    }
    Some(())
}

/// The areas of a process, without flags and sizes.
pub fn read(pid: Pid) -> Result<Vec<Area>> {
    parse(&super::Proc::process(pid).bytes("maps")?)
}

/// The areas of a process with flags and sizes, for which the kernel walks all its page tables.
pub fn read_all(pid: Pid) -> Result<Vec<Area>> {
    parse(&super::Proc::process(pid).bytes("smaps")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &[u8] = b"\
5654309ea000-5654309ec000 r--p 00002000 fe:01 247030                     /usr/bin/a b\\012c (deleted)
Size:                  8 kB
Rss:                   4 kB
AnonHugePages:         0 kB
Swap:                  0 kB
THPeligible:           0
VmFlags: rd mr mw me sd 
7f0000000000-7f0000400000 rw-s 00000000 00:00 0 
Rss:                4096 kB
AnonHugePages:      2048 kB
Swap:                 12 kB
ProtectionKey:         0
VmFlags: rd wr mr mw me ac hg nh 
7ffd8a5e2000-7ffd8a603000 rwxp 00000000 00:00 0                          [stack]
VmFlags: rd wr ex gd ac 
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
VmFlags: ex 
";

    #[test]
    fn both_files_read_the_same_but_for_flags_and_sizes() {
        let areas = parse(SMAPS).unwrap();
        assert_eq!(areas.len(), 3);
        let file = &areas[0];
        assert_eq!(
            (file.start, file.end, file.prot, file.shared, file.offset),
            (0x5654309ea000, 0x5654309ec000, 1, false, 0x2000)
        );
        assert_eq!((file.device, file.inode), (libc::makedev(0xfe, 1), 247030));
        assert_eq!(file.name, b"/usr/bin/a b\nc (deleted)");
        assert_eq!((file.resident, file.huge, file.swapped), (4096, 0, 0));
        assert!(areas[1].shared && areas[1].name.is_empty());
        assert_eq!(
            (areas[1].prot, areas[1].huge, areas[1].swapped),
            (3, 2 << 20, 12 << 10)
        );
        assert!(areas[1].has("hg") && areas[1].has("nh") && !areas[1].has("gd"));
        assert!(areas[2].has("gd") && areas[2].prot == 7);
        assert_eq!(areas[2].link(), "map_files/7ffd8a5e2000-7ffd8a603000");
        let lines = SMAPS.split_inclusive(|b| *b == b'\n');
        let maps: Vec<u8> = lines
            .filter(|l| l.contains(&b'-'))
            .flatten()
            .copied()
            .collect();
        let bare = parse(&maps).unwrap();
        assert_eq!(bare[0].name, file.name);
        assert!(bare.iter().all(|area| area.flags.is_empty()));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "x",
            "1-2",
            "1-2 r--p",
            "Rss: 4 kB",
            "1-z r--p 0 0:0 0",
            "1-2 r--p 0 0:0 0\nRss: x",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn our_own_are_read() {
        let pid = std::process::id() as Pid;
        let here = nonsense_is_refused as fn() as usize as u64;
        for areas in [read(pid).unwrap(), read_all(pid).unwrap()] {
            let code = areas
                .iter()
                .find(|a| a.start <= here && here < a.end)
                .unwrap();
            assert_eq!(code.prot, 5);
            assert!(areas.iter().any(|a| a.name == b"[vdso]"));
        }
    }
}
