//! What a container of podman's keeps in files: its layer, volumes, tmpfs, shared memory, bind mounts.
#![forbid(unsafe_code)]

use ferry_tests::Podman;

#[test]
fn volumes_travel_and_are_kept_or_replaced() {
    let (alder, birch) = Podman::pair();
    let count = alder.run("count", "-v data:/data -v /cache base");
    count.says("ready");
    count
        .exec("echo alder > /data/note; ln /data/note /data/link; echo warm > /cache/c")
        .ok();
    let archive = count.taken("");
    let first = birch.restored("", &archive);
    assert_eq!(first.exec("cat /data/link /cache/c").ok(), "alder\nwarm");
    assert_eq!(
        first.inspect("{{range .Mounts}}{{.Type}}{{end}}"),
        "volumevolume"
    );
    birch.sh("podman rm -f -t 0 count; echo birch > $(podman volume inspect -f '{{.Mountpoint}}' data)/note").ok();

    let before = birch.traces();
    let outcome = birch.sh(&format!("restore -n again < {}", archive.display()));
    assert_ne!(outcome.code, 0);
    assert!(
        outcome.stderr.contains("data") && outcome.stderr.contains("--volumes"),
        "{}",
        outcome.stderr
    );
    birch.assert_none_left(&before);

    let keep = birch.restored("-n keep --volumes keep", &archive);
    assert_eq!(keep.exec("cat /data/note").ok(), "birch");
    birch.sh("podman rm -f -t 0 keep").ok();
    let replace = birch.restored("-n replace --volumes replace", &archive);
    assert_eq!(replace.exec("cat /data/note").ok(), "alder");
    birch
        .sh("podman rm -f -t 0 replace && podman volume rm data")
        .ok();
    let without = birch.restored("-n without --ignore-volumes", &archive);
    assert_eq!(without.exec("ls /data").ok(), "");
}

#[test]
fn volumes_and_changes_can_stay_behind() {
    let (alder, birch) = Podman::pair();
    let count = alder.run("count", "-v data:/data base");
    assert_eq!(count.answer(), "0");
    count.exec("echo x > /data/note; echo y > /note").ok();
    let archive = count.taken("--ignore-volumes --ignore-rootfs");
    let on = birch.restored("", &archive);
    assert_eq!(on.exec("ls /data; ls /note 2>/dev/null; true").ok(), "");
    assert_eq!(on.answer(), "1");

    count.podman.sh("podman rm count").ok();
    let count = alder.run("count", "base");
    assert_eq!(count.answer(), "0");
    count.exec("echo y > /note").ok();
    let archive = count.taken("");
    let on = birch.restored("-n with", &archive);
    assert_eq!(on.exec("cat /note").ok(), "y");
    let on = birch.restored("-n without --ignore-rootfs", &archive);
    assert_ne!(on.exec("cat /note").code, 0);
}

/// Type, mode, owner, links, target and size of every file, and a checksum of what is in it; not of the files that podman
/// writes for each container.
const LIST: &str = "cd / && exec 2>&1
    find . -xdev \\( -path ./proc -o -path ./sys -o -path ./dev -o -path ./etc/hosts -o -path ./etc/hostname -o -path ./etc/resolv.conf -o -path ./run/.containerenv \\) -prune -o \\
        \\( -type d -printf '%p d %m %U:%G\\n' -o -printf '%p %y %m %U:%G %n %l %s %TY-%Tm-%TdT%TH:%TM\\n' \\) | sort
    find etc work usr/share/zoneinfo -xdev -type f -size -9M ! -name hosts ! -name hostname ! -name resolv.conf -print0 | sort -z | xargs -0 sha256sum";

#[test]
fn what_it_wrote_deleted_renamed_and_linked_is_identical() {
    let (alder, birch) = Podman::pair();
    let sleeper = alder.run("sleeper", "base sleep 100000");
    sleeper
        .exec(
            "set -e
            mkdir /work && cd /work
            python3 -c '
import os
for d in range(1, 21):
    os.mkdir(str(d))
    for f in range(1000):
        with open(f\"{d}/f{f:03}\", \"w\") as file:
            file.write(f\"{d} {f}\\n\")
'
            truncate -s 1G sparse; echo middle | dd of=sparse bs=1 seek=500000000 conv=notrunc status=none
            ln 1/f000 hard; ln -s 1/f001 soft; ln /usr/bin/perl perl-too
            rm /etc/issue; rm -r /usr/share/zoneinfo; mkdir /usr/share/zoneinfo; echo new > /usr/share/zoneinfo/only
            mv /etc/debian_version /etc/version; mkdir /etc/alternatives.new; mv /etc/profile.d /etc/moved.d || true
            chown 1234:4321 1/f002; chmod 4711 1/f003; chmod 700 1; mkfifo fifo
            touch -d 2001-02-03 1/f004; echo more >> /etc/passwd; echo 'odd name' > \"a
b\"",
        )
        .ok();
    let before = sleeper.exec(LIST).ok();
    assert!(
        before.lines().count() > 42_000,
        "{}",
        before.lines().count()
    );
    let archive = sleeper.taken("");
    let on = birch.restored("-n on", &archive);
    let after = on.exec(LIST).ok();
    let gone: Vec<_> = lines_missing(&before, &after);
    let new: Vec<_> = lines_missing(&after, &before);
    assert!(
        gone.is_empty() && new.is_empty(),
        "gone: {gone:#?}\nnew: {new:#?}"
    );
    assert_eq!(
        on.exec("tail -c +500000001 /work/sparse | head -c 6").ok(),
        "middle"
    );
    let blocks: u64 = on
        .exec("stat -c %b /work/sparse")
        .ok()
        .parse()
        .expect("a number");
    assert!(blocks < 1000, "sparse as before: {blocks} blocks");
    assert_eq!(on.exec("stat -c %Y /work/1/f004").ok(), "981158400");
}

fn lines_missing<'a>(of: &'a str, here: &str) -> Vec<&'a str> {
    let here: std::collections::BTreeSet<&str> = here.lines().collect();
    of.lines()
        .filter(|line| !here.contains(line))
        .take(20)
        .collect()
}

#[test]
fn memory_file_systems_and_bind_mounts_come_along() {
    let (alder, birch) = Podman::pair();
    let shared = alder.path("shared");
    std::fs::create_dir(&shared).expect("make a directory");
    std::fs::write(shared.join("note"), "from the host\n").expect("write a file");
    let count = alder.run(
        "count",
        &format!(
            "--tmpfs /fast:size=16m,mode=1770 --read-only -v {0}:/shared -v {0}/note:/note:ro --shm-size 8m base",
            shared.display()
        ),
    );
    assert_eq!(count.answer(), "0");
    count.exec("echo quick > /fast/q; chown 12:34 /fast/q; echo s > /dev/shm/s; echo r > /run/r; echo back > /shared/back").ok();
    let archive = count.taken("");
    let on = birch.restored("", &archive);
    assert_eq!(on.answer(), "1");
    assert_eq!(
        on.exec("cat /fast/q /dev/shm/s /run/r /shared/back /note; stat -c '%u:%g' /fast/q")
            .ok(),
        "quick\ns\nr\nback\nfrom the host\n12:34"
    );
    assert_ne!(on.exec("touch /etc/x").code, 0, "still read-only");
    assert_ne!(on.exec("touch /note").code, 0, "still read-only");
    let mounts = on.exec("cat /proc/self/mounts").ok();
    for wanted in [
        "tmpfs /fast tmpfs",
        " /dev/shm tmpfs",
        " /shared ",
        " /note ",
    ] {
        assert!(mounts.contains(wanted), "{wanted} in {mounts}");
    }
}

#[test]
fn what_a_program_has_mounted_itself_is_missed_in_words() {
    let host = Podman::new("alder");
    let count = host.run(
        "count",
        "--cap-add SYS_ADMIN --security-opt seccomp=unconfined base",
    );
    assert_eq!(count.answer(), "0");
    count.exec("mount --bind /etc /mnt").ok();
    let archive = count.taken("");
    let restored = host
        .sh(&format!("restore --json -n again < {}", archive.display()))
        .fails_with(0);
    let words = "not mounted in the new container, as a program had in the old one: /mnt";
    assert!(restored.stderr.contains(words), "{}", restored.stderr);
    // And of what the engine mounts nothing is missed.
    let plain = host.run("plain", "base");
    assert_eq!(plain.answer(), "0");
    let archive = plain.taken("");
    let restored = host
        .sh(&format!("restore --json -n other < {}", archive.display()))
        .fails_with(0);
    assert!(
        !restored.stderr.contains("not mounted"),
        "{}",
        restored.stderr
    );
}
