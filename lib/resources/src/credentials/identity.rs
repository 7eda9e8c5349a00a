//! Ids and capabilities: the calls that change what a thread is into what it was, in the order in which none takes away
//! what a later one needs (capabilities(7), setresuid(2)).

use crate::{Error, Result};
use image::credentials::{Credentials, Ids};
use kernel::remote::{Call, call};

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const SETPCAP: u64 = 1 << 8;
/// `SECBIT_KEEP_CAPS`, which everybody may set for itself: permitted capabilities outlive a change of ids.
const KEEP_CAPS: u32 = 1 << 4;
/// `NGROUPS_MAX`, less what the scratch memory holds beside it.
const MOST_GROUPS: usize = 16384;

/// A call and its name.
pub(super) type Named = (&'static str, Call);

/// What a thread would need, and has not got, to become what it was.
pub(super) fn lacking(record: &Credentials, now: &Credentials) -> Vec<String> {
    let has = now.capabilities.permitted;
    let mut all = Vec::new();
    let lost: Vec<String> = bits(record.capabilities.permitted & !has)
        .map(|n| n.to_string())
        .collect();
    if !lost.is_empty() {
        all.push(format!(
            "it had capabilities that restore does not have here (number {})",
            lost.join(", ")
        ));
    }
    let mut need = |needed: bool, capability: u64, what: String, name: &str| {
        if needed && has & capability == 0 {
            all.push(format!("{what} needs {name}, which it has not got here"));
        }
    };
    let groups = sorted(&record.groups) != sorted(&now.groups);
    let what = format!("having the groups {:?}", record.groups);
    need(groups, SETGID, what, "CAP_SETGID");
    let what = |kind: &str, ids: &Ids| {
        let Ids {
            real,
            effective,
            saved,
            ..
        } = ids;
        format!("becoming {kind} {real} (effective {effective}, saved {saved})")
    };
    let strange = !reachable(&record.gid, &now.gid);
    need(strange, SETGID, what("group", &record.gid), "CAP_SETGID");
    let strange = !reachable(&record.uid, &now.uid);
    need(strange, SETUID, what("user", &record.uid), "CAP_SETUID");
    let fewer = now.capabilities.bounding & !record.capabilities.bounding;
    let what = "giving up capabilities for good (its bounding set)";
    need(known(fewer) != 0, SETPCAP, what.into(), "CAP_SETPCAP");
    let bits = (record.securebits ^ now.securebits) & !KEEP_CAPS;
    let what = format!("having the securebits {:#x}", record.securebits);
    need(bits != 0, SETPCAP, what, "CAP_SETPCAP");
    let inheritable = now.capabilities.inheritable | has;
    let more = record.capabilities.inheritable & !inheritable;
    let what = "its inheritable capabilities";
    need(more != 0, SETPCAP, what.into(), "CAP_SETPCAP");
    all
}

/// Whether a thread may take on these ids without a capability: those it has in some role.
fn reachable(wanted: &Ids, has: &Ids) -> bool {
    let roles = [has.real, has.effective, has.saved];
    let wants = [
        wanted.real,
        wanted.effective,
        wanted.saved,
        wanted.filesystem,
    ];
    wants.iter().all(|id| roles.contains(id))
}

fn sorted(groups: &[u32]) -> Vec<u32> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups
}

/// The calls, and the bytes they need at `address`.
pub(super) fn calls(
    record: &Credentials,
    now: &Credentials,
    address: u64,
) -> Result<(Vec<Named>, Vec<u8>)> {
    if record.groups.len() > MOST_GROUPS {
        return Err(Error::Refused(format!(
            "the image has {} supplementary groups in one thread",
            record.groups.len()
        )));
    }
    let (has, wanted) = (&now.capabilities, &record.capabilities);
    // struct __user_cap_header_struct, then three sets of capabilities, then the groups.
    let words = [
        vec![CAPABILITY_VERSION, 0],
        sets(has.permitted, has.permitted, has.inheritable),
        sets(has.permitted, has.permitted, wanted.inheritable),
        sets(wanted.effective, wanted.permitted, wanted.inheritable),
        record.groups.clone(),
    ];
    let [all, interim, last, groups] = [8, 32, 56, 80].map(|offset| address + offset);
    let bytes = words.concat().into_iter().flat_map(u32::to_ne_bytes);
    let capset = |at: u64| ("capset", Call::new(libc::SYS_capset, &[address, at]));

    let mut calls = Vec::new();
    if sorted(&record.groups) != sorted(&now.groups) {
        let arguments = [record.groups.len() as u64, groups];
        calls.push(("setgroups", Call::new(libc::SYS_setgroups, &arguments)));
    }
    calls.extend(ids(
        ("setresgid", libc::SYS_setresgid),
        ("setfsgid", libc::SYS_setfsgid),
        (&record.gid, &now.gid),
        None,
    ));
    let user = ids(
        ("setresuid", libc::SYS_setresuid),
        ("setfsuid", libc::SYS_setfsuid),
        (&record.uid, &now.uid),
        Some(capset(all)),
    );
    let mut securebits = now.securebits;
    let becomes_another = !user.is_empty();
    if becomes_another && securebits & KEEP_CAPS == 0 {
        calls.push(("PR_SET_KEEPCAPS", call::prctl(libc::PR_SET_KEEPCAPS, 1)));
        securebits |= KEEP_CAPS;
    }
    calls.extend(user);
    let mut effective_is_whole = becomes_another;
    if becomes_another || has.inheritable != wanted.inheritable {
        calls.push(capset(interim));
        effective_is_whole = true;
    }
    // A change of ids away from root clears the ambient set.
    if becomes_another || has.ambient != wanted.ambient {
        calls.push((
            "PR_CAP_AMBIENT_CLEAR_ALL",
            ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0),
        ));
        for n in bits(wanted.ambient) {
            calls.push((
                "PR_CAP_AMBIENT_RAISE",
                ambient(libc::PR_CAP_AMBIENT_RAISE, n),
            ));
        }
    }
    for n in bits(known(has.bounding & !wanted.bounding)) {
        calls.push(("PR_CAPBSET_DROP", call::prctl(libc::PR_CAPBSET_DROP, n)));
    }
    if securebits != record.securebits {
        calls.push(match (securebits ^ record.securebits) & !KEEP_CAPS {
            0 => {
                let keep = u64::from(record.securebits & KEEP_CAPS != 0);
                ("PR_SET_KEEPCAPS", call::prctl(libc::PR_SET_KEEPCAPS, keep))
            }
            _ => {
                let bits = record.securebits.into();
                (
                    "PR_SET_SECUREBITS",
                    call::prctl(libc::PR_SET_SECUREBITS, bits),
                )
            }
        });
    }
    if !calls.is_empty() && has.effective != has.permitted {
        // What it may do, it must be able to do now.
        calls.insert(0, capset(all));
        effective_is_whole = true;
    }
    let effective = if effective_is_whole {
        has.permitted
    } else {
        has.effective
    };
    if (effective, has.permitted) != (wanted.effective, wanted.permitted) {
        calls.push(capset(last));
    }
    Ok((calls, bytes.collect()))
}

/// `struct __user_cap_data_struct`, twice: low halves, then high ones.
fn sets(effective: u64, permitted: u64, inheritable: u64) -> Vec<u32> {
    let half = |shift: u32| [effective, permitted, inheritable].map(|set| (set >> shift) as u32);
    [half(0), half(32)].concat()
}

fn bits(set: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |n| set & 1 << n != 0)
}

fn ambient(operation: i32, capability: u64) -> Call {
    let arguments = [
        libc::PR_CAP_AMBIENT as u64,
        operation as u64,
        capability,
        0,
        0,
    ];
    Call::new(libc::SYS_prctl, &arguments)
}

/// The calls from some ids to others. The file system id follows the effective one and is set by itself only where it
/// has been apart (setfsuid(2)), which wants the capability again that a change of users takes out of force.
fn ids(
    three: (&'static str, i64),
    filesystem: (&'static str, i64),
    (wanted, has): (&Ids, &Ids),
    between: Option<Named>,
) -> Vec<Named> {
    if wanted == has {
        return Vec::new();
    }
    let values = [wanted.real, wanted.effective, wanted.saved].map(u64::from);
    let mut calls = vec![(three.0, Call::new(three.1, &values))];
    if wanted.filesystem != wanted.effective {
        calls.extend(between);
        calls.push((
            filesystem.0,
            Call::new(filesystem.1, &[wanted.filesystem.into()]),
        ));
    }
    calls
}

/// Capabilities that this kernel knows: dropping a higher one is an error.
fn known(set: u64) -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    let last = text.trim().parse().unwrap_or(40); // CAP_CHECKPOINT_RESTORE, the last one since Linux 5.9
    set & u64::MAX.checked_shr(63 - last).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::credentials::{Capabilities, Seccomp};

    fn of(id: u32, permitted: u64) -> Credentials {
        let ids = Ids {
            real: id,
            effective: id,
            saved: id,
            filesystem: id,
        };
        Credentials {
            uid: ids,
            gid: ids,
            groups: Vec::new(),
            capabilities: Capabilities {
                inheritable: 0,
                permitted,
                effective: permitted,
                bounding: !0,
                ambient: 0,
            },
            securebits: 0,
            no_new_privs: false,
            seccomp: Seccomp::Disabled,
            dumpable: 1,
        }
    }

    fn nobody() -> Credentials {
        let mut record = of(65534, 0x400);
        record.groups = vec![4, 5];
        let caps = &mut record.capabilities;
        (caps.inheritable, caps.effective, caps.ambient) = (0x400, 0, 0x400);
        caps.bounding = !0x21;
        record
    }

    fn names(record: &Credentials, now: &Credentials) -> Vec<&'static str> {
        let (calls, _) = calls(record, now, 0x1000).unwrap();
        calls.iter().map(|(what, _)| *what).collect()
    }

    #[test]
    fn groups_go_before_ids_and_the_right_to_change_goes_last() {
        let (calls, bytes) = calls(&nobody(), &of(0, 0xffff), 0x1000).unwrap();
        let names: Vec<_> = calls.iter().map(|(what, _)| *what).collect();
        assert_eq!(
            names,
            [
                "setgroups",
                "setresgid",
                "PR_SET_KEEPCAPS",
                "setresuid",
                "capset",
                "PR_CAP_AMBIENT_CLEAR_ALL",
                "PR_CAP_AMBIENT_RAISE",
                "PR_CAPBSET_DROP",
                "PR_CAPBSET_DROP",
                "PR_SET_KEEPCAPS",
                "capset",
            ]
        );
        assert_eq!(calls[0].1.args[..2], [2, 0x1050]);
        assert_eq!(bytes.len(), 80 + 8);
        assert_eq!(bytes[80], 4);
        assert_eq!(
            bytes[36..40],
            [0xff, 0xff, 0, 0],
            "still permitted in between"
        );
        assert_eq!(bytes[60..64], [0, 4, 0, 0], "permitted at the end");
    }

    #[test]
    fn what_a_thread_is_already_needs_no_call() {
        let mut nobody = nobody();
        nobody.capabilities.bounding = 0xffff;
        assert_eq!(names(&nobody, &nobody), [""; 0]);
        let mut now = nobody.clone();
        now.groups = vec![5, 4];
        now.capabilities.bounding = 0xfff;
        assert_eq!(names(&nobody, &now), [""; 0]);
        now.capabilities.effective = 0x400;
        assert_eq!(names(&nobody, &now), ["capset"]);
        assert_eq!(lacking(&nobody, &now), [""; 0]);
    }

    #[test]
    fn what_is_not_in_force_is_put_in_force_first() {
        // As after the exec of a program that belongs to another user and runs as that one.
        let (record, mut now) = (of(7, 0), of(0, SETUID));
        now.capabilities.effective = 0;
        now.gid = record.gid;
        let expected = ["capset", "PR_SET_KEEPCAPS", "setresuid", "capset"];
        assert_eq!(names(&record, &now)[..4], expected);
    }

    #[test]
    fn what_a_thread_may_not_become_is_said() {
        let (root, user) = (of(0, 0), of(1000, 0));
        let said = lacking(&root, &user).join("\n");
        assert!(
            said.contains("becoming user 0") && said.contains("CAP_SETGID"),
            "{said}"
        );
        let mut has_been = of(1000, 0);
        (has_been.uid.saved, has_been.gid.saved) = (0, 0);
        assert_eq!(lacking(&root, &has_been), [""; 0]);
        let mut less = of(1000, 0);
        less.capabilities.bounding = !1;
        less.securebits = 1;
        less.capabilities.inheritable = 2;
        assert_eq!(lacking(&less, &user).len(), 3);
        less.capabilities.permitted = 1 << 60;
        let said = lacking(&less, &user).join("\n");
        assert!(said.contains("number 60"), "{said}");
    }

    #[test]
    fn a_file_system_id_of_its_own_is_set_after_the_others() {
        let (mut record, now) = (nobody(), of(0, 0xffff));
        record.uid.filesystem = 7;
        let found = names(&record, &now);
        assert_eq!(found[3..7], ["setresuid", "capset", "setfsuid", "capset"]);
        record.groups = vec![0; MOST_GROUPS + 1];
        assert!(calls(&record, &now, 0).is_err());
    }
}
