//! Tomcat in a container of podman's: a servlet that counts in memory goes on elsewhere, and comes up warm many times over.
#![forbid(unsafe_code)]

use ferry_tests::{Container, LONG, Podman, State};
use std::process::Stdio;
use std::time::Duration;

/// Tomcat once it serves: a question that is asked earlier is kept waiting, and its answer may come too late.
#[track_caller]
fn tomcat<'h>(host: &'h Podman, words: &str) -> Container<'h> {
    let web = host.run("web", &format!("{words} web"));
    web.says("Server startup in");
    web
}

/// Answers 0 and 1 here, and 2 there.
#[track_caller]
fn moves(words: &str) {
    let (alder, birch) = Podman::pair();
    let web = tomcat(&alder, words);
    assert_eq!((web.answer(), web.answer()), ("0".into(), "1".into()));
    // What a JVM keeps of a connection that was closed is gone after a second; with it is another test.
    std::thread::sleep(Duration::from_millis(1200));
    let before = web.program().state().enduring();
    let archive = web.taken("");
    web.becomes("exited");
    let web = birch.restored("", &archive);
    assert_eq!(web.name, "web");
    before.assert_kept_by(&web.program(), State::enduring);
    assert_eq!((web.answer(), web.answer()), ("2".into(), "3".into()));
    assert!(web.logs().is_empty() || !web.logs().contains("SEVERE"));
    assert_eq!(
        web.exec("readlink /proc/1/exe").ok(),
        "/usr/lib/jvm/java-17-openjdk-amd64/bin/java"
    );
    birch.sh("podman stop -t 20 web").ok();
    assert_eq!(
        web.inspect("{{.State.ExitCode}}"),
        "143",
        "as java ends by SIGTERM"
    );
}

#[test]
fn tomcat_moves_with_all_it_wrote() {
    moves("");
}

#[test]
fn tomcat_moves_with_memory_file_systems_and_its_deployments_mounted() {
    let webapps = ferry_tests::podman::images().join("webapps");
    moves(&format!(
        "--tmpfs /tmp --tmpfs /var/cache/tomcat10 --tmpfs /var/log/tomcat10 -v {}:/var/lib/tomcat10/webapps:ro",
        webapps.display()
    ));
}

#[test]
fn three_warm_replicas_have_an_address_each() {
    let (alder, birch) = Podman::pair();
    let web = tomcat(&alder, "");
    assert_eq!((web.answer(), web.answer()), ("0".into(), "1".into()));
    let archive = web.taken("");
    let replicas =
        ["hello1", "hello2", "hello3"].map(|name| birch.restored(&format!("-n {name}"), &archive));
    let mut addresses: Vec<_> = replicas.iter().map(Container::address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for replica in &replicas {
        assert_eq!(
            (replica.answer(), replica.answer()),
            ("2".into(), "3".into())
        );
    }
    assert_eq!(
        birch.sh("podman ps --format '{{.Names}}' | sort").ok(),
        "hello1\nhello2\nhello3"
    );
}

#[test]
fn a_checkpoint_right_after_an_answer_can_be_restored() {
    let host = Podman::new("alder");
    let mut web = tomcat(&host, "");
    assert_eq!(web.answer(), "0");
    for next in 1..=5 {
        let address = web.address();
        let archive = host.path(&format!("{next}.ckpt"));
        let answer = host
            .sh(&format!(
                "curl -s -f http://{address}:8080/ && checkpoint {} | pack > {}",
                web.name,
                archive.display()
            ))
            .ok();
        assert_eq!(answer, next.to_string());
        host.sh(&format!("podman rm {}", web.name)).ok();
        web = host.restored(&format!("-n web{next}"), &archive);
    }
    assert_eq!(web.answer(), "6");
}

#[test]
fn a_checkpoint_under_load_can_be_restored() {
    let host = Podman::new("alder");
    let web = tomcat(&host, "");
    assert_eq!(web.answer(), "0");
    let address = web.address();
    let stop = host.path("stop").display().to_string();
    let load = [(); 2].map(|()| {
        host.shell(&format!(
            "until [ -e {stop} ]; do curl -s -m 5 http://{address}:8080/; done"
        ))
        .stdout(Stdio::null())
        .spawn()
        .expect("curl")
    });
    std::thread::sleep(Duration::from_secs(1));
    let archives = [(); 4].map(|()| {
        std::thread::sleep(Duration::from_millis(130));
        web.taken("--leave-running --tcp-established")
    });
    std::fs::write(&stop, "").expect("stop the load");
    for mut child in load {
        child.wait().expect("curl");
    }
    let count: u64 = web.answer().parse().expect("a number");
    assert!(count > 50, "it was under load: {count}");
    let mut last = 0;
    for (number, archive) in archives.iter().enumerate() {
        let replica = host.restored(&format!("-n replica{number}"), archive);
        let answer: u64 = replica.answer().parse().expect("a number");
        assert!(
            last <= answer && answer <= count,
            "{last} <= {answer} <= {count}"
        );
        last = answer;
        host.sh(&format!("podman rm -f -t 0 {}", replica.name)).ok();
    }
}

#[test]
fn a_stream_moves_it_in_one_line() {
    let (alder, birch) = Podman::pair();
    let web = tomcat(&alder, "");
    assert_eq!((web.answer(), web.answer()), ("0".into(), "1".into()));
    let receiver = birch
        .shell("nc -l -p 7000 | unpack | restore -n moved")
        .stdout(Stdio::piped())
        .spawn()
        .expect("nc");
    ferry_tests::until("nc to listen", LONG, || {
        (birch.sh("ss -Hltn sport = :7000").stdout.contains(":7000")).then_some(())
    });
    alder
        .sh("checkpoint web | pack | verify --pass | nc -N 192.0.2.2 7000")
        .ok();
    let output = receiver.wait_with_output().expect("wait for restore");
    assert!(output.status.success());
    let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let moved = birch.container("moved");
    assert!(
        moved.inspect("{{.Id}}").starts_with(&id) && id.len() >= 12,
        "{id}"
    );
    assert_eq!(moved.answer(), "2");
}
