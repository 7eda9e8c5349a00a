//! Containers of podman given back where there is no podman: as native ones, and from there to podman again.
#![forbid(unsafe_code)]

use ferry_tests::podman::images;
use ferry_tests::{Host, LONG, Podman, Program, Restored, State, Traces, busybox, until};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Restores without an engine; the words name a root file system where the archive has none.
#[track_caller]
fn natively(host: &Host, words: &str, archive: &Path) -> Restored {
    let line = format!(
        "restore --json --engine native {words} < {}",
        archive.display()
    );
    Restored::read(&host.sh(&line).ok())
}

fn program<'h>(host: &'h Host, restored: &Restored) -> Program<'h> {
    Program {
        host,
        pid: restored.pid,
        output: "/dev/null".into(),
    }
}

fn answer(host: &Host, restored: &Restored) -> String {
    let address = restored.addresses.first().expect("an address");
    host.answer(&format!("http://{address}:8080/"))
}

fn rootfs() -> String {
    format!("--rootfs {}", images().join("base").display())
}

/// A file as the container sees it.
#[track_caller]
fn seen(host: &Host, restored: &Restored, path: &str) -> String {
    let at = host.proc().join(format!("{}/root{path}", restored.pid));
    fs::read_to_string(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display()))
}

/// The mounts of a process as they are to be again: without ids, device numbers, and what names a directory of a host's.
fn mounts(host: &Host, pid: i32) -> BTreeSet<String> {
    let path = host.proc().join(format!("{pid}/mountinfo"));
    let text = fs::read_to_string(path).expect("its mounts");
    let of_line = |line: &str| {
        let (mount, system) = line.split_once(" - ").expect("two parts");
        let mut mount = mount.split(' ').skip(3);
        let (root, place) = (mount.next().expect("root"), mount.next().expect("place"));
        let mut system: Vec<&str> = system.split(' ').collect();
        let kind = system[0].to_owned();
        // A bind shows whatever file system the host has.
        let of_host = ["ext4", "xfs", "btrfs", "overlay"].contains(&&*kind)
            || (kind == "tmpfs" && root.contains('/') && root.len() > 6);
        if of_host {
            system.truncate(0);
        }
        let root = if of_host || kind == "cgroup" {
            ""
        } else {
            root
        };
        let rest = mount.collect::<Vec<_>>().join(" ");
        format!("{place} {rest} {root} {}", system.join(" "))
    };
    text.lines().map(of_line).collect()
}

#[test]
fn a_container_goes_on_without_podman() {
    let (alder, birch) = Podman::pair();
    let count = alder.run(
        "count",
        "--memory 200m --memory-swap 300m --pids-limit 77 --cpu-shares 300 --cpus 1.5 --cpuset-cpus 0 --tmpfs /scratch \
         -v data:/data base",
    );
    assert_eq!((count.answer(), count.answer()), ("0".into(), "1".into()));
    count
        .exec(
            "echo d > /data/d; echo s > /scratch/s; echo c > /root/c; rm /etc/motd; \
             dd if=/dev/zero of=/dev/shm/z bs=4096 count=1 2>/dev/null; mv /etc/skel /etc/bones",
        )
        .ok();
    let before = count.program().state_at_rest().enduring();
    let mounted = mounts(&alder, count.pid());
    let hostname = count.exec("hostname").ok();
    let archive = count.taken("");
    let lower = birch.sh(&format!(
        "find {} | sort | md5sum",
        images().join("base").display()
    ));
    let traces = Traces::of(&birch);

    let hello = natively(&birch, &format!("-n hello {}", rootfs()), &archive);
    assert_eq!(answer(&birch, &hello), "2");
    before.assert_kept_by(&program(&birch, &hello), State::enduring);
    assert_eq!(mounts(&birch, hello.pid), mounted);
    for (path, content) in [
        ("/data/d", "d\n"),
        ("/scratch/s", "s\n"),
        ("/root/c", "c\n"),
    ] {
        assert_eq!(seen(&birch, &hello, path), content);
    }
    let root = birch.proc().join(format!("{}/root", hello.pid));
    assert!(!root.join("etc/motd").exists() && !root.join("etc/skel").exists());
    assert!(root.join("etc/bones/.bashrc").exists());
    assert_eq!(root.join("dev/shm/z").metadata().expect("z").len(), 4096);
    assert_eq!(seen(&birch, &hello, "/etc/hostname").trim(), hostname);
    let address = &hello.addresses[0];
    let line = format!("{address}\t{hostname} hello");
    let hosts = seen(&birch, &hello, "/etc/hosts");
    assert!(hosts.lines().any(|l| l == line), "{line}: {hosts}");
    limits(&birch, &hello);

    birch.kill(hello.pid);
    traces.assert_none_left(&birch);
    let after = birch.sh(&format!(
        "find {} | sort | md5sum",
        images().join("base").display()
    ));
    assert_eq!(after.ok(), lower.ok(), "the directory below is as it was");
}

/// What the container says of its own groups, which it sees as it did.
#[track_caller]
fn limits(host: &Host, restored: &Restored) {
    for (file, value) in [
        ("memory/memory.limit_in_bytes", 200 << 20),
        ("memory/memory.memsw.limit_in_bytes", 300 << 20),
        ("pids/pids.max", 77),
        ("cpu/cpu.shares", 300),
        ("cpu/cpu.cfs_quota_us", 150_000),
        ("cpuset/cpuset.cpus", 0),
    ] {
        let path = format!("/sys/fs/cgroup/{file}");
        if Path::new("/sys/fs/cgroup")
            .join(file)
            .parent()
            .is_some_and(Path::exists)
        {
            let found = seen(host, restored, &path);
            assert_eq!(found.trim(), value.to_string(), "{file}");
        }
    }
    let path = format!("/proc/{}/cgroup", restored.pid);
    let groups = host.sh(&format!("cat {path}")).ok();
    assert!(groups.contains("/ferry/hello-"), "{groups}");
}

#[test]
fn an_archive_with_its_image_needs_nothing_but_the_tools() {
    let (alder, birch) = Podman::pair();
    let count = alder.run("count", "base");
    assert_eq!(count.answer(), "0");
    count.exec("echo c > /root/c; rm /etc/motd").ok();
    let archive = count.taken("--with-image");
    let traces = Traces::of(&birch);
    let hello = ["hello1", "hello2", "hello3"]
        .map(|name| natively(&birch, &format!("-n {name}"), &archive));
    let addresses: BTreeSet<_> = hello.iter().flat_map(|one| &one.addresses).collect();
    assert_eq!(addresses.len(), 3);
    for one in &hello {
        assert_eq!(answer(&birch, one), "1");
        assert_eq!(seen(&birch, one, "/root/c"), "c\n");
        let root = birch.proc().join(format!("{}/root", one.pid));
        assert!(root.join("usr/bin/python3").exists() && !root.join("etc/motd").exists());
        birch.kill(one.pid);
    }
    traces.assert_none_left(&birch);
}

#[test]
fn three_generations_and_back() {
    let (alder, birch) = Podman::pair();
    let count = alder.run("count", "base");
    assert_eq!(count.answer(), "0");
    count.exec("echo podman > /root/first").ok();
    let archive = count.taken("");
    let hello = natively(&birch, &format!("-n hello {}", rootfs()), &archive);
    assert_eq!(answer(&birch, &hello), "1");
    let root = birch.proc().join(format!("{}/root", hello.pid));
    fs::write(root.join("root/second"), "native\n").expect("write in the container");
    let archive = birch.path("second.ckpt");
    let line = format!("checkpoint native:hello | pack > {}", archive.display());
    birch.sh(&line).ok();
    let again = birch.restored("--engine podman -n again", &archive);
    assert_eq!(again.answer(), "2");
    assert_eq!(
        again.exec("cat /root/first /root/second").ok(),
        "podman\nnative"
    );
    assert_eq!(again.inspect("{{.ImageName}}"), "localhost/base:latest");
}

#[test]
fn one_with_users_of_its_own_goes_to_native_and_back_and_its_files_are_its_own() {
    let host = Podman::bare("alder");
    let root = busybox(&host, "busybox");
    host.sh(&format!(
        "chmod 755 {} && chown 33:33 {root}/home && tar -C {root} -c . | podman import -q - localhost/busybox",
        host.path("").display(),
        root = root.display(),
    ))
    .ok();
    let first = host.run(
        "first",
        "--uidmap 0:100000:65536 localhost/busybox sh -c 'echo x > /etc/x; chown 5:6 /etc/x; while :; do sleep 1; done'",
    );
    until("its file", LONG, || {
        (first.exec("stat -c %u /etc/x").stdout.trim() == "5").then_some(())
    });
    // As its root sees it, who may change what the image brought, too.
    let look = "cat /proc/self/uid_map; stat -c '%n %u:%g' /bin /etc /etc/x /etc/passwd /home /root; chown 7 /home && chown 33 /home; \
                echo y > /root/y && rm /root/y && echo all";
    let before = first.exec(look).ok();
    assert!(before.contains("/home 33:33\n") && before.ends_with("all"));
    let inside = |guest: &Restored| {
        let script = host.path("look.sh");
        fs::write(&script, look).expect("write the script");
        let enter = format!(
            "nsenter --all --target {} --setuid 0 --setgid 0 sh -c \"$(cat {})\"",
            guest.pid,
            script.display()
        );
        host.sh(&enter).ok()
    };
    let archive = first.taken("--leave-running");
    let whole = first.taken("--with-image");
    let one = natively(
        &host,
        &format!("-n one --rootfs {}", root.display()),
        &archive,
    );
    assert_eq!(inside(&one), before);
    let two = natively(&host, "-n two", &whole);
    assert_eq!(inside(&two), before);
    // What lies below is as it was, whoever it is shown to.
    let owner = format!("stat -c %u {}/bin", root.display());
    assert_eq!(host.sh(&owner).ok(), "0");
    let again = host.path("again.ckpt");
    for (name, words) in [("one", ""), ("two", "--with-image")] {
        let line = format!(
            "checkpoint {words} native:{name} | pack > {}",
            again.display()
        );
        host.sh(&line).ok();
        let back = host.restored(&format!("--engine podman -n back-{name}"), &again);
        assert_eq!(back.exec(look).ok(), before);
    }
    let three = natively(&host, "-n three", &again);
    assert_eq!(inside(&three), before);
}

#[test]
fn without_its_image_the_remedies_are_named() {
    let (alder, birch) = Podman::pair();
    let archive = alder.run("count", "base").taken("");
    let traces = Traces::of(&birch);
    for (words, wanted) in [
        ("", "--rootfs DIR"),
        ("", "--with-image"),
        ("", "localhost/base:latest"),
        ("--rootfs /not/here", "/not/here"),
        ("-p 8080:8080 --rootfs /", "--publish"),
    ] {
        let line = format!(
            "restore --engine native -n hello {words} < {}",
            archive.display()
        );
        let outcome = birch.sh(&line);
        assert_ne!(outcome.code, 0, "{line}");
        assert!(
            outcome.stderr.contains(wanted),
            "{line}: {}",
            outcome.stderr
        );
    }
    traces.assert_none_left(&birch);
}

#[test]
fn devices_are_limited_also_where_there_is_only_the_newer_version() {
    let (alder, birch) = Podman::pair();
    let archive = alder.run("count", "base").taken("");
    birch.sh("umount /sys/fs/cgroup/devices").ok();
    let name = format!("devices{}", std::process::id());
    let hello = natively(&birch, &format!("-n {name} {}", rootfs()), &archive);
    assert_eq!(answer(&birch, &hello), "0");
    let enter = format!("echo $$ > /sys/fs/cgroup/unified/ferry/{name}-*/cgroup.procs");
    birch.sh(&format!("{enter}; : < /dev/zero")).ok();
    let refused = birch.sh(&format!("{enter}; : < /dev/kmsg"));
    assert!(refused.stderr.contains("not permitted"), "{refused:?}");
    birch.sh(": < /dev/kmsg").ok();
}

#[test]
fn half_an_archive_leaves_nothing() {
    let (alder, birch) = Podman::pair();
    let archive = alder
        .run("count", "-v data:/data base")
        .taken("--with-image");
    let traces = Traces::of(&birch);
    let size = fs::metadata(&archive).expect("the archive").len();
    // In the middle of the layers, and short of the end.
    for len in [size / 2, size - 1000] {
        let line = format!(
            "head -c {len} {} | restore --engine native -n hello",
            archive.display()
        );
        birch.sh(&line).fails_with(3);
        traces.assert_none_left(&birch);
    }
}
