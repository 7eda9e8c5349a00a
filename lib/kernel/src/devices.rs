//! The devices that a cgroup of version 2 may use: a small program in the kernel says yes or no to each use (bpf(2),
//! `BPF_PROG_TYPE_CGROUP_DEVICE`; Documentation/admin-guide/cgroup-v2.rst, device controller).

use crate::Result;
use crate::error::check;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Something that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Block devices; else character devices.
    pub block: bool,
    /// Major number; none: all.
    pub major: Option<u32>,
    /// Minor number; none: all.
    pub minor: Option<u32>,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// Its node may be made.
    pub make: bool,
}

/// One instruction (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

// include/uapi/linux/bpf.h, bpf_common.h
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP_UNEQUAL: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
/// The context at first (`struct bpf_cgroup_dev_ctx`), then what an access has of a rule's.
const SCRATCH: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: u32) -> Instruction {
    Instruction {
        code,
        registers: from << 4 | to,
        offset,
        immediate: immediate as i32,
    }
}

/// The program: allowed is what one of the rules allows.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let load = |to, offset| instruction(LOAD_WORD, to, SCRATCH, offset, 0);
    let exit = |verdict| {
        [
            instruction(MOVE, RESULT, 0, 0, verdict),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    };
    let mut all = vec![
        load(TYPE, 0),
        instruction(AND, TYPE, 0, 0, 0xffff),
        load(ACCESS, 0),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules {
        let bit = |on: bool, bit: u32| if on { bit } else { 0 };
        let access = bit(rule.make, 1) | bit(rule.read, 2) | bit(rule.write, 4);
        let kind = if rule.block { 1 } else { 2 };
        // Each jump leads past the end of the rule; where that is, is known when all of it is there.
        let mut part = vec![
            instruction(JUMP_UNEQUAL, TYPE, 0, 0, kind),
            instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0),
            instruction(AND, SCRATCH, 0, 0, access),
            instruction(JUMP_UNEQUAL_REGISTER, SCRATCH, ACCESS, 0, 0),
        ];
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            part.extend(number.map(|n| instruction(JUMP_UNEQUAL, register, 0, 0, n)));
        }
        part.extend(exit(1));
        let len = part.len();
        for (i, one) in part.iter_mut().enumerate() {
            if [JUMP_UNEQUAL, JUMP_UNEQUAL_REGISTER].contains(&one.code) {
                one.offset = (len - i - 1) as i16;
            }
        }
        all.extend(part);
    }
    all.extend(exit(0));
    all
}

/// `union bpf_attr` for BPF_PROG_LOAD, as far as it is used; the kernel takes the rest for zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// The same for BPF_PROG_ATTACH.
#[repr(C)]
struct Attach {
    cgroup: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE_ATTACHED: u32 = 6;
/// Besides those above and below, which all have to agree.
const ALLOW_MULTI: u32 = 2;

/// Allows a cgroup, given by its directory, nothing but these devices, from now on.
pub fn restrict(cgroup: BorrowedFd, rules: &[Rule]) -> Result<()> {
    let instructions = program(rules);
    let load = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: the struct is of the size given and points to as many instructions as it says and to a NUL-terminated
    // string, all of which outlive the call; a descriptor that is returned is ours alone.
    let loaded = unsafe {
        let fd = libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, size_of::<Load>());
        OwnedFd::from_raw_fd(check(fd, || "load a program about devices".into())? as i32)
    };
    let attach = Attach {
        cgroup: cgroup.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: CGROUP_DEVICE_ATTACHED,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the struct is of the size given and outlives the call; both descriptors are open meanwhile.
    let attached =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attach, size_of::<Attach>()) };
    check(attached, || "attach a program about devices".into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::process::Command;

    #[test]
    fn a_rule_that_does_not_fit_leads_to_the_next() {
        let rule = Rule {
            block: false,
            major: Some(1),
            minor: None,
            read: true,
            write: false,
            make: false,
        };
        let all = program(&[rule]);
        // Six to begin with, five and a verdict of two for the rule, and the last verdict.
        assert_eq!(all.len(), 6 + 7 + 2);
        let jumps: Vec<_> = all
            .iter()
            .map(|i| i.offset)
            .filter(|o| *o > 8 || *o < 0)
            .collect();
        assert_eq!(jumps, [0; 0]);
        let ends = |at: usize| at + 1 + all[at].offset as usize;
        assert_eq!([ends(6), ends(9), ends(10)], [13, 13, 13]);
        assert_eq!(all[8].immediate, 2);
    }

    #[test]
    fn a_group_uses_the_devices_it_may_and_no_other() {
        let mounts = crate::proc::mountinfo::read_own().unwrap();
        let unified = mounts.iter().rev().find(|m| m.fstype == "cgroup2").unwrap();
        let top = String::from_utf8(unified.mountpoint.clone()).unwrap();
        let group = Path::new(&top).join(format!("test-devices-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let rule = |minor, write| Rule {
            block: false,
            major: Some(1),
            minor: Some(minor),
            read: true,
            write,
            make: false,
        };
        let dir = std::fs::File::open(&group).unwrap();
        // /dev/null, and /dev/zero to be read.
        let done = restrict(dir.as_fd(), &[rule(3, true), rule(5, false)]);
        let script = "echo 0 > $0/cgroup.procs; \
            try() { eval \"$1\" 2>/dev/null && echo yes || echo no; }; \
            try ': > /dev/null'; try ': < /dev/zero'; try ': > /dev/zero'; try ': < /dev/full'";
        let shell = Command::new("bash")
            .args(["-c", script])
            .arg(&group)
            .output();
        std::fs::remove_dir(&group).unwrap();
        done.unwrap();
        let said = String::from_utf8(shell.unwrap().stdout).unwrap();
        assert_eq!(said, "yes\nyes\nno\nno\n");
    }
}
