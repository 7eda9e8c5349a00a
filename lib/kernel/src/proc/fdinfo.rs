//! `/proc/PID/fdinfo/N` (proc_pid_fdinfo(5)): what every open file has, and what each kind adds.

use crate::{Error, Result};

/// One descriptor's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// Offset.
    pub position: u64,
    /// `O_*`, with `O_CLOEXEC` where the descriptor has `FD_CLOEXEC`.
    pub flags: u32,
    /// Mount it was opened through.
    pub mount: i32,
    /// Locks held through it by this process.
    pub locks: Vec<Lock>,
    /// The remaining lines.
    pub rest: String,
}

/// A `lock:` line (fs/locks.c, `lock_get_status`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// `FLOCK`, `POSIX`, `OFDLCK`, `LEASE`, `DELEG`.
    pub class: String,
    /// `ADVISORY`, or for a lease `ACTIVE`, `BREAKING`, `BREAKER`.
    pub state: String,
    /// `READ`, `WRITE`, `UNLCK`.
    pub kind: String,
    /// First byte.
    pub start: u64,
    /// Last byte; `None` is `EOF`.
    pub end: Option<u64>,
}

/// One registration in an epoll (fs/eventpoll.c, `ep_show_fdinfo`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpollTarget {
    /// The number it was registered under.
    pub number: i32,
    /// `EPOLL*`.
    pub events: u32,
    /// `epoll_data`.
    pub data: u64,
    /// Inode watched.
    pub inode: u64,
    /// Device of that inode, as the kernel has it (`dev_t` with 20 bits of minor number).
    pub device: u32,
}

/// A timerfd (fs/timerfd.c, `timerfd_show`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// `CLOCK_*`.
    pub clock: i32,
    /// Expirations not read.
    pub ticks: u64,
    /// `TFD_TIMER_*`.
    pub flags: u32,
    /// Nanoseconds to the next expiration.
    pub remaining: u64,
    /// Nanoseconds between expirations.
    pub interval: u64,
}

/// A watch of an inotify (fs/notify/fdinfo.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Watch descriptor.
    pub descriptor: i32,
    /// Inode watched.
    pub inode: u64,
    /// Its device, as the kernel has it.
    pub device: u32,
    /// `IN_*`.
    pub mask: u32,
    /// `struct file_handle`: type and bytes; absent where the file system has none.
    pub handle: Option<(i32, Vec<u8>)>,
}

/// A fanotify group (fs/notify/fdinfo.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `FAN_*` of fanotify_init(2).
    pub flags: u32,
    /// `O_*` of descriptors that come with events.
    pub event_flags: u32,
    /// What it watches.
    pub marks: Vec<Mark>,
}

/// A mark of a fanotify group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// What it is on.
    pub on: Marked,
    /// `FAN_MARK_*` that stay with it.
    pub flags: u32,
    /// Events that are told.
    pub mask: u64,
    /// Events that are not.
    pub ignored: u64,
}

/// What a mark is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    /// An inode; its descriptor and mask mean nothing.
    Inode(Watch),
    /// The mount of this id.
    Mount(u32),
    /// The file system of this device, as the kernel has it.
    Filesystem(u32),
}

/// The kernel's own `dev_t` as `stat(2)` gives it.
pub fn device(kernel: u32) -> u64 {
    libc::makedev(kernel >> 20, kernel & 0xfffff)
}

fn broken(line: &str) -> Error {
    Error::unreadable("fdinfo", format!("cannot read {line:?}"))
}

fn hex<T: TryFrom<u64>>(text: &str) -> Option<T> {
    u64::from_str_radix(text, 16).ok()?.try_into().ok()
}

/// Parses what every kind has.
pub fn parse(text: &str) -> Result<FdInfo> {
    let mut info = FdInfo::default();
    let mut seen = 0;
    for line in text.lines() {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.trim();
        let bad = || broken(line);
        match key {
            // Offsets may be "negative": /proc/PID/mem and hashed directories use all 64 bits.
            "pos" => {
                info.position = value.parse::<i64>().map_err(|_| bad())? as u64;
                seen += 1;
            }
            "flags" => {
                info.flags = u32::from_str_radix(value, 8).map_err(|_| bad())?;
                seen += 1;
            }
            "mnt_id" => {
                info.mount = value.parse().map_err(|_| bad())?;
                seen += 1;
            }
            "ino" => (),
            "lock" => info.locks.push(lock(value).ok_or_else(bad)?),
            _ => {
                info.rest.push_str(line);
                info.rest.push('\n');
            }
        }
    }
    if seen == 3 {
        Ok(info)
    } else {
        Err(broken(text))
    }
}

/// `1: POSIX  ADVISORY  WRITE 359 fe:00:11691 0 EOF`
fn lock(value: &str) -> Option<Lock> {
    let mut words = value.split_whitespace().skip(1);
    let [class, state, kind, _pid, _inode, start, end] =
        std::array::from_fn(|_| words.next().unwrap_or(""));
    Some(Lock {
        class: class.into(),
        state: state.into(),
        kind: kind.into(),
        start: start.parse().ok()?,
        end: match end {
            "EOF" => None,
            end => Some(end.parse().ok()?),
        },
    })
}

impl FdInfo {
    /// The value of a line that only this kind of file has.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.rest.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name == key).then(|| value.trim())
        })
    }

    fn must(&self, key: &str) -> Result<&str> {
        self.value(key).ok_or_else(|| broken(key))
    }

    /// Count, and whether it is a semaphore (which 5.10 does not say: `None`).
    pub fn eventfd(&self) -> Result<(u64, Option<bool>)> {
        let count = self.must("eventfd-count")?;
        Ok((
            hex(count).ok_or_else(|| broken(count))?,
            self.value("eventfd-semaphore").map(|v| v == "1"),
        ))
    }

    /// The mask.
    pub fn signalfd(&self) -> Result<u64> {
        let mask = self.must("sigmask")?;
        hex(mask).ok_or_else(|| broken(mask))
    }

    /// The process in our pid namespace; `None` where it is no more, 0 where it is in none of ours.
    pub fn pidfd(&self) -> Result<Option<i32>> {
        let pid = self.must("Pid")?;
        let pid: i32 = pid.parse().map_err(|_| broken(pid))?;
        Ok((pid != -1).then_some(pid))
    }

    /// The timer.
    pub fn timerfd(&self) -> Result<Timer> {
        let number = |key: &str| -> Result<u64> {
            let value = self.must(key)?;
            value.parse().map_err(|_| broken(value))
        };
        let time = |key: &str| -> Result<u64> {
            let value = self.must(key)?;
            let pair = value.trim_start_matches('(').trim_end_matches(')');
            let parsed = pair.split_once(',').and_then(|(seconds, rest)| {
                let seconds: u64 = seconds.trim().parse().ok()?;
                let rest: u64 = rest.trim().parse().ok()?;
                seconds.checked_mul(1_000_000_000)?.checked_add(rest)
            });
            parsed.ok_or_else(|| broken(value))
        };
        let flags = self.must("settime flags")?;
        Ok(Timer {
            clock: number("clockid")? as i32,
            ticks: number("ticks")?,
            flags: u32::from_str_radix(flags, 8).map_err(|_| broken(flags))?,
            remaining: time("it_value")?,
            interval: time("it_interval")?,
        })
    }

    /// The interest list.
    pub fn epoll(&self) -> Result<Vec<EpollTarget>> {
        let lines = self.rest.lines().filter(|l| l.starts_with("tfd:"));
        lines
            .map(|line| epoll_target(line).ok_or_else(|| broken(line)))
            .collect()
    }

    /// A fanotify group.
    pub fn fanotify(&self) -> Result<Group> {
        let mut group = None;
        let mut marks = Vec::new();
        for line in self.rest.lines().filter(|l| l.starts_with("fanotify ")) {
            if line.starts_with("fanotify flags:") {
                let number = |key| hex(word(line, key)?);
                group = number("flags").zip(number("event-flags"));
            } else {
                marks.push(mark(line).ok_or_else(|| broken(line))?);
            }
        }
        let (flags, event_flags) = group.ok_or_else(|| broken("fanotify flags"))?;
        Ok(Group {
            flags,
            event_flags,
            marks,
        })
    }

    /// The watches, newest first.
    pub fn inotify(&self) -> Result<Vec<Watch>> {
        let lines = self.rest.lines().filter(|l| l.starts_with("inotify "));
        lines
            .map(|line| watch(line).ok_or_else(|| broken(line)))
            .collect()
    }
}

/// `tfd:       11 events: 80000019 data:                b  pos:0 ino:40e sdev:10`
fn epoll_target(line: &str) -> Option<EpollTarget> {
    let spaced = line.replace(':', " ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let after = |key: &str| {
        let at = words.iter().position(|w| *w == key)?;
        words.get(at + 1).copied()
    };
    Some(EpollTarget {
        number: after("tfd")?.parse().ok()?,
        events: hex(after("events")?)?,
        data: hex(after("data")?)?,
        inode: hex(after("ino")?)?,
        device: hex(after("sdev")?)?,
    })
}

/// `inotify wd:2 ino:13 sdev:fe00000 mask:2 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:1300000000000000`
fn watch(line: &str) -> Option<Watch> {
    Some(Watch {
        descriptor: u64::from_str_radix(word(line, "wd")?, 16).ok()? as i32,
        ..watched(line)?
    })
}

/// The value behind a key and a colon.
fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    words.find_map(|word| word.strip_prefix(key)?.strip_prefix(':'))
}

/// `fanotify ino:996114 sdev:fe00000 mflags:40 mask:0 ignored_mask:20 fhandle-bytes:8 …`, or with `mnt_id:1b` or only
/// `sdev:1b` for the inode.
fn mark(line: &str) -> Option<Mark> {
    let number = |key| hex(word(line, key)?);
    let on = match (word(line, "ino"), word(line, "mnt_id"), word(line, "sdev")) {
        (Some(_), ..) => Marked::Inode(watched(line)?),
        (None, Some(mount), _) => Marked::Mount(hex(mount)?),
        (None, None, device) => Marked::Filesystem(hex(device?)?),
    };
    Some(Mark {
        on,
        flags: hex(word(line, "mflags")?)?,
        mask: number("mask")?,
        ignored: number("ignored_mask")?,
    })
}

fn watched(line: &str) -> Option<Watch> {
    let after = |key: &str| word(line, key);
    let handle = || {
        let kind = u64::from_str_radix(after("fhandle-type")?, 16).ok()? as i32;
        let text = after("f_handle")?.as_bytes();
        let bytes = text.chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        });
        Some((kind, bytes.collect::<Option<Vec<u8>>>()?))
    };
    Some(Watch {
        descriptor: 0,
        inode: hex(after("ino")?)?,
        device: hex(after("sdev")?)?,
        mask: hex(after("mask")?)?,
        handle: handle(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rest: &str) -> FdInfo {
        parse(&format!(
            "pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1038\n{rest}"
        ))
        .unwrap()
    }

    #[test]
    fn marks_of_a_fanotify_are_read() {
        let group = of("fanotify flags:3 event-flags:8000\n\
             fanotify sdev:1b mflags:0 mask:8 ignored_mask:0\n\
             fanotify mnt_id:1b mflags:0 mask:8 ignored_mask:0\n\
             fanotify ino:996114 sdev:fe00000 mflags:40 mask:0 ignored_mask:20 fhandle-bytes:8 fhandle-type:1 f_handle:14619900f4b26b3f\n")
        .fanotify()
        .unwrap();
        assert_eq!((group.flags, group.event_flags), (3, 0o100000));
        let [system, mount, inode] = &group.marks[..] else {
            panic!("{group:?}");
        };
        assert_eq!((&system.on, system.mask), (&Marked::Filesystem(0x1b), 8));
        assert_eq!(mount.on, Marked::Mount(27));
        assert_eq!((inode.flags, inode.ignored), (0x40, 0x20));
        let Marked::Inode(watch) = &inode.on else {
            panic!("{inode:?}");
        };
        assert_eq!(
            (watch.inode, watch.handle.as_ref().unwrap().0),
            (0x996114, 1)
        );
        let unknown = of(
            "fanotify flags:3 event-flags:0\nfanotify mnt_ns:1 mflags:0 mask:8 ignored_mask:0\n",
        );
        assert!(unknown.fanotify().is_err());
        assert!(of("").fanotify().is_err());
    }

    #[test]
    fn what_all_kinds_have_is_read() {
        let info = parse(
            "pos:\t5\nflags:\t02100002\nmnt_id:\t27\nino:\t10010775\n\
             lock:\t1: FLOCK  ADVISORY  READ 26312 fe:00:10010775 0 EOF\n\
             lock:\t2: POSIX  ADVISORY  WRITE 26312 fe:00:10010775 1 3\n\
             lock:\t3: OFDLCK ADVISORY  READ -1 fe:00:10010775 10 EOF\n\
             lock:\t4: LEASE  ACTIVE    WRITE 26312 fe:00:10010776 0 EOF\n",
        )
        .unwrap();
        assert_eq!((info.position, info.flags, info.mount), (5, 0o2100002, 27));
        let locks: Vec<_> = info
            .locks
            .iter()
            .map(|l| {
                (
                    l.class.as_str(),
                    l.state.as_str(),
                    l.kind.as_str(),
                    l.start,
                    l.end,
                )
            })
            .collect();
        assert_eq!(
            locks,
            [
                ("FLOCK", "ADVISORY", "READ", 0, None),
                ("POSIX", "ADVISORY", "WRITE", 1, Some(3)),
                ("OFDLCK", "ADVISORY", "READ", 10, None),
                ("LEASE", "ACTIVE", "WRITE", 0, None),
            ]
        );
        assert_eq!(info.rest, "");
    }

    #[test]
    fn an_offset_with_all_bits_is_read() {
        let info = parse("pos:\t-4096\nflags:\t0100000\nmnt_id:\t22\n").unwrap();
        assert_eq!(info.position, (-4096i64) as u64);
    }

    #[test]
    fn what_is_not_fdinfo_is_refused() {
        for text in [
            "",
            "pos:\t0\nflags:\t02\n",
            "pos:\tx\nflags:\t02\nmnt_id:\t1\n",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn counters_are_hexadecimal() {
        let new = of("eventfd-count:               1f\neventfd-id: 1\neventfd-semaphore: 1\n");
        assert_eq!(new.eventfd().unwrap(), (31, Some(true)));
        let old = of("eventfd-count: ffffffffffffffff\neventfd-id: 1\n");
        assert_eq!(old.eventfd().unwrap(), (u64::MAX, None));
        assert_eq!(
            of("sigmask:\t0000000000000202\n").signalfd().unwrap(),
            0x202
        );
    }

    #[test]
    fn process_descriptors_name_the_living_and_the_dead() {
        assert_eq!(
            of("Pid:\t26312\nNSpid:\t26312\n").pidfd().unwrap(),
            Some(26312)
        );
        assert_eq!(of("Pid:\t-1\nNSpid:\t-1\n").pidfd().unwrap(), None);
    }

    #[test]
    fn a_timer_is_read() {
        let timer = of(
            "clockid: 0\nticks: 7\nsettime flags: 01\nit_value: (4, 791782012)\nit_interval: (1, 0)\n",
        );
        assert_eq!(
            timer.timerfd().unwrap(),
            Timer {
                clock: 0,
                ticks: 7,
                flags: 1,
                remaining: 4_791_782_012,
                interval: 1_000_000_000
            }
        );
    }

    #[test]
    fn an_interest_list_is_read() {
        let epoll = of(
            "tfd:       11 events: 80000019 data:                b  pos:0 ino:40e sdev:10\n\
             tfd:        4 events: 40000018 data: ffffffffffffffff  pos:0 ino:40e sdev:10\n",
        );
        let found = epoll.epoll().unwrap();
        assert_eq!(
            found[0],
            EpollTarget {
                number: 11,
                events: 0x80000019,
                data: 11,
                inode: 0x40e,
                device: 0x10
            }
        );
        assert_eq!(found[1].data, u64::MAX);
    }

    #[test]
    fn watches_are_read_with_and_without_a_handle() {
        let inotify = of(
            "inotify wd:2 ino:13 sdev:fe00000 mask:2 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:1300000000000000\n\
             inotify wd:1 ino:3c4a7 sdev:fe00000 mask:fff ignored_mask:0\n",
        );
        let found = inotify.inotify().unwrap();
        assert_eq!(
            found[0],
            Watch {
                descriptor: 2,
                inode: 0x13,
                device: 0xfe00000,
                mask: 2,
                handle: Some((1, vec![0x13, 0, 0, 0, 0, 0, 0, 0]))
            }
        );
        assert_eq!(found[1].handle, None);
        assert_eq!(device(0xfe00000), libc::makedev(0xfe, 0));
    }
}
