//! Restoring into podman with other names, addresses, ports, networks and pods.
#![forbid(unsafe_code)]

use ferry_tests::{Container, Podman};

#[test]
fn replicas_of_one_archive_have_an_address_each() {
    let (alder, birch) = Podman::pair();
    let count = alder.run("count", "base");
    assert_eq!((count.answer(), count.answer()), ("0".into(), "1".into()));
    let archive = count.taken("");
    let replicas =
        ["hello1", "hello2", "hello3"].map(|name| birch.restored(&format!("-n {name}"), &archive));
    let mut addresses: Vec<_> = replicas.iter().map(Container::address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for replica in &replicas {
        assert_eq!(replica.answer(), "2");
        assert_eq!(
            replica
                .exec("hostname -I 2>/dev/null || ip -o -4 addr show eth0")
                .ok()
                .trim(),
            replica.address()
        );
    }
    assert_eq!(birch.sh("podman ps -q | wc -l").ok(), "3");
}

#[test]
fn ports_are_published_as_before_or_anew() {
    let (alder, birch) = Podman::pair();
    let count = alder.run("count", "-p 9000:8080 base");
    assert_eq!(alder.answer("http://192.0.2.1:9000/"), "0");
    let archive = count.taken("");
    birch.restored("-n one", &archive);
    assert_eq!(birch.answer("http://192.0.2.2:9000/"), "1");
    birch.restored("-n two -p 9001:8080", &archive);
    assert_eq!(alder.answer("http://192.0.2.2:9001/"), "1");
    assert_eq!(alder.answer("http://192.0.2.2:9000/"), "2");
}

#[test]
fn an_address_can_be_kept_chosen_or_left_to_podman() {
    let (alder, birch) = Podman::pair();
    let mac = "{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}";
    let count = alder.run(
        "count",
        "--ip 10.88.0.50 --mac-address 02:00:00:00:00:50 base",
    );
    assert_eq!(count.answer(), "0");
    let archive = count.taken("");
    let kept = birch.restored("", &archive);
    assert_eq!(
        (kept.address(), kept.inspect(mac)),
        ("10.88.0.50".into(), "02:00:00:00:00:50".into())
    );
    assert_eq!(kept.answer(), "1");
    let free = birch.restored("-n free --ignore-static-ip --ignore-static-mac", &archive);
    assert_ne!(free.address(), "10.88.0.50");
    assert_ne!(free.inspect(mac), "02:00:00:00:00:50");
    assert_eq!(free.answer(), "1");
    let chosen = birch.restored("-n chosen --ip 10.88.0.77 --ignore-static-mac", &archive);
    assert_eq!(chosen.address(), "10.88.0.77");
    assert_eq!(chosen.answer(), "1");
}

#[test]
fn a_network_can_be_chosen() {
    let (alder, birch) = Podman::pair();
    let count = alder.run("count", "base");
    assert_eq!(count.answer(), "0");
    let archive = count.taken("");
    birch
        .sh("podman network create --disable-dns --subnet 10.99.0.0/24 lab")
        .ok();
    let lab = birch.restored("-n lab --network lab", &archive);
    let address = lab.inspect("{{.NetworkSettings.Networks.lab.IPAddress}}");
    assert!(address.starts_with("10.99.0."), "{address}");
    assert_eq!(birch.answer(&format!("http://{address}:8080/")), "1");
    let none = birch.restored("-n none --network none", &archive);
    assert_eq!(none.exec("ip -o link | wc -l").ok(), "1");
    birch.restored("-n shared --network host", &archive);
    assert_eq!(birch.answer("http://127.0.0.1:8080/"), "1");
}

#[test]
fn it_can_join_a_pod() {
    let (alder, birch) = Podman::pair();
    let count = alder.run("count", "base");
    assert_eq!(count.answer(), "0");
    let archive = count.taken("");
    birch.sh("podman pod create --name crew -p 9000:8080").ok();
    let member = birch.restored("-n member --pod crew", &archive);
    assert_eq!(birch.answer("http://127.0.0.1:9000/"), "1");
    let pod = birch.sh("podman pod inspect -f '{{.ID}}' crew").ok();
    assert_eq!(member.inspect("{{.Pod}}"), pod);
    birch.sh("podman pod rm -f -t 0 crew").ok();
}

#[test]
fn the_one_made_last_needs_no_name_and_locks_no_option() {
    let (alder, birch) = Podman::pair();
    let older = alder.run("older", "base");
    let newer = alder.run("newer", "base");
    assert_eq!((older.answer(), newer.answer()), ("0".into(), "0".into()));
    let archive = alder.path("latest.ckpt");
    alder
        .sh(&format!(
            "checkpoint --latest --file-locks | pack > {}",
            archive.display()
        ))
        .ok();
    newer.becomes("exited");
    assert_eq!(older.status(), "running");
    let restored = birch.restored("--file-locks", &archive);
    assert_eq!(restored.name, "newer");
    assert_eq!(restored.answer(), "1");
}
