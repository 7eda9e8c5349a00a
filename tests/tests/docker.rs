//! Containers of docker: taken by name, and given back to docker as containers like any other.
#![forbid(unsafe_code)]

use ferry_tests::{Docker, LONG, Podman, busybox, until};

/// Counts, in its memory alone.
const COUNT: &str = "busybox sh -c 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done'";

/// The last number in a log.
fn last(log: &str) -> u64 {
    let last = log.lines().last().expect("a line in the log");
    last.parse().expect("a number in the log")
}

#[test]
fn a_container_of_dockers_moves_and_is_dockers_afterwards() {
    let docker = Docker::new("alder");
    docker.run("one", &format!("--hostname web --label a=b {COUNT}"));
    docker.says("one", "3");
    let image = docker.path("image");
    docker
        .sh(&format!("checkpoint docker:one > {}", image.display()))
        .ok();
    assert_eq!(docker.inspect("one", "{{.State.Status}}"), "exited");
    let counted = last(&docker.logs("one"));
    docker.sh("docker rm one").ok();
    let before = docker.traces();

    docker
        .sh(&format!("restore -n two < {}", image.display()))
        .ok();
    assert_eq!(docker.inspect("two", "{{.State.Status}}"), "running");
    assert_eq!(docker.inspect("two", "{{.Config.Hostname}}"), "web");
    assert_eq!(docker.inspect("two", "{{.Config.Labels.a}}"), "b");
    docker.says("two", &(counted + 3).to_string());
    let log = docker.logs("two");
    let first: u64 = log
        .lines()
        .next()
        .and_then(|l| l.parse().ok())
        .expect("a number");
    assert!(first > 3, "it counted anew: {log}");
    assert_eq!(docker.sh("docker exec two hostname").ok(), "web");
    docker.sh("docker pause two && docker unpause two").ok();
    docker.sh("docker stop -t 1 two").ok();
    assert_eq!(docker.inspect("two", "{{.State.ExitCode}}"), "137");
    // A cold start, as the word says.
    docker.sh("docker start two").ok();
    docker.says("two", "1");
    docker.sh("docker rm -f two").ok();
    docker.assert_none_left(&before);
}

#[test]
fn files_of_root_tmpfs_and_volume_come_along() {
    let docker = Docker::new("alder");
    docker.sh("docker volume create data").ok();
    docker.run("one", &format!("--tmpfs /scratch -v data:/data {COUNT}"));
    docker.says("one", "1");
    let make = "mkdir -p /home/x && echo root > /home/x/file && ln /home/x/file /home/x/again && rm /etc/group && \
                echo tmpfs > /scratch/file && echo volume > /data/file && chown 7:8 /data/file";
    docker.sh(&format!("docker exec one sh -c '{make}'")).ok();
    let look = "cat /home/x/again /scratch/file /data/file; stat -c %h /home/x/file; stat -c %u:%g /data/file; ls /etc";
    let image = docker.path("image");
    let there = docker.sh(&format!("docker exec one sh -c '{look}'")).ok();
    docker
        .sh(&format!("checkpoint docker:one > {}", image.display()))
        .ok();
    docker.sh("docker rm one").ok();
    let line = format!("restore -n two < {}", image.display());
    let failed = docker.sh(&line).fails_with(5);
    assert!(failed.stderr.contains("data"), "{}", failed.stderr);
    docker.sh("docker volume rm data").ok();
    docker.sh(&line).ok();
    let here = docker.sh(&format!("docker exec two sh -c '{look}'")).ok();
    assert_eq!(here, there);
}

#[test]
fn what_was_said_to_docker_run_is_said_again_through_three_generations() {
    let docker = Docker::new("alder");
    docker
        .sh("docker network create --subnet 10.9.0.0/24 net && docker volume create vol")
        .ok();
    let host = docker.path("shown");
    std::fs::create_dir(&host).expect("make a directory");
    for said in [
        "-t".to_owned(),
        "-i".into(),
        format!("-v vol:/data --volume inner:/inner:ro -v {}:/host:ro", host.display()),
        "--network net --ip 10.9.0.77 --hostname h --domainname d.org --add-host x:192.0.2.9 --dns 192.0.2.8 --dns-search a.b \
         --dns-option ndots:2 --mac-address 02:00:00:00:00:33"
            .into(),
        "--network host --ipc shareable --cgroupns host --read-only --tmpfs /tmp:size=1m,mode=700".into(),
        "-m 100m --memory-swap 200m --memory-reservation 50m --cpus 1.5 --cpu-shares 300 --cpuset-cpus 0 --pids-limit 77 \
         --oom-score-adj 200 --init"
            .into(),
        "--ulimit nofile=100:200 --sysctl net.core.somaxconn=99 --shm-size 8m --device /dev/zero:/dev/z".into(),
        "--cap-drop all --cap-add NET_RAW --security-opt no-new-privileges --user 1000:33 --group-add 44".into(),
        "--health-cmd true --health-interval 1s --expose 99 -p 127.0.0.1:7777:80 --log-driver local --log-opt max-size=1m \
         --env X=y --workdir /tmp --stop-signal INT --stop-timeout 3 --restart on-failure:3"
            .into(),
    ] {
        docker.run("g0", &format!("{said} {COUNT}"));
        docker.says("g0", "3");
        let shown = |name: &str| {
            let show = format!("docker inspect {name}");
            let all: serde_json::Value =
                serde_json::from_str(&docker.sh(&show).ok()).expect("what docker shows");
            let mut host = all[0]["HostConfig"].clone();
            let mut own = all[0]["Config"].clone();
            // Whether somebody was attached as it was made; and its name for itself is its id unless one was given.
            for told in ["AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce", "Hostname"] {
                own[told] = serde_json::Value::Null;
            }
            host["ContainerIDFile"] = serde_json::Value::Null;
            if let Some(binds) = host["Binds"].as_array_mut() {
                binds.sort_by_key(|bind| bind.to_string());
            }
            (host, own)
        };
        let (before, mut counted) = (shown("g0"), last(docker.logs("g0").trim()));
        for (from, to) in [("g0", "g1"), ("g1", "g2"), ("g2", "g3")] {
            let image = docker.path(to);
            docker
                .sh(&format!(
                    "checkpoint docker:{from} > {at} && docker rm -f {from} && restore --volumes keep -n {to} < {at}",
                    at = image.display()
                ))
                .ok();
            assert_eq!(shown(to), before, "{said}: {to}");
            let now = until("it to go on", LONG, || {
                let log = docker.logs(to);
                let number = log.lines().last()?.trim().parse::<u64>().ok()?;
                (number > counted).then_some(number)
            });
            assert!(now < counted + 200, "{said}: from {counted} to {now}");
            counted = now;
        }
        docker.sh("docker rm -f g3").ok();
    }
}

#[test]
fn replicas_answer_at_addresses_of_their_own() {
    let docker = Docker::new("alder");
    docker
        .sh("docker network create --subnet 10.9.0.0/24 net")
        .ok();
    docker.run(
        "one",
        "--network net --restart always busybox sh -c 'mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www'",
    );
    let address = |name: &str| {
        docker.inspect(
            name,
            "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        )
    };
    docker.answer(&format!("http://{}:8080/", address("one")));
    let image = docker.path("image");
    docker
        .sh(&format!(
            "checkpoint --leave-running docker:one > {}",
            image.display()
        ))
        .ok();
    let mut addresses = vec![address("one")];
    for name in ["two", "three"] {
        docker
            .sh(&format!("restore -n {name} < {}", image.display()))
            .ok();
        assert_eq!(
            docker.inspect(name, "{{.HostConfig.RestartPolicy.Name}}"),
            "always"
        );
        addresses.push(address(name));
    }
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for address in addresses {
        assert_eq!(docker.answer(&format!("http://{address}:8080/")), "hello");
    }
}

#[test]
fn a_failed_restore_leaves_nothing_and_runs_nothing() {
    let docker = Docker::new("alder");
    docker.run(
        "one",
        &format!("--restart always -v /anonymous -v named:/named {COUNT}"),
    );
    docker.says("one", "3");
    let image = docker.path("image");
    docker
        .sh(&format!("checkpoint docker:one > {}", image.display()))
        .ok();
    let before = docker.traces();
    let taken = docker
        .sh(&format!(
            "restore --volumes keep -n one < {}",
            image.display()
        ))
        .fails_with(5);
    assert!(taken.stderr.contains("-n"), "{}", taken.stderr);
    docker.assert_none_left(&before);
    docker.sh("docker rm -v one && docker volume rm named").ok();
    let before = docker.traces();
    docker
        .sh(&format!(
            "head -c -3000 {} | restore -n two",
            image.display()
        ))
        .fails_with(3);
    docker.assert_none_left(&before);
    docker.sh("docker rmi busybox").ok();
    let before = docker.traces();
    let missing = docker.sh(&format!("restore -n two < {}", image.display()));
    let missing = missing.fails_with(4);
    assert!(missing.stderr.contains("busybox"), "{}", missing.stderr);
    docker.assert_none_left(&before);
}

#[test]
fn what_cannot_be_taken_is_said() {
    let docker = Docker::new("alder");
    docker.run("one", COUNT);
    docker.sh("docker pause one").ok();
    let paused = docker.sh("checkpoint docker:one >/dev/null").fails_with(1);
    assert!(
        paused.stderr.contains("docker unpause one"),
        "{}",
        paused.stderr
    );
    docker.sh("docker unpause one && docker stop -t 0 one").ok();
    let ended = docker.sh("checkpoint docker:one >/dev/null").fails_with(1);
    assert!(
        ended.stderr.contains("docker start one"),
        "{}",
        ended.stderr
    );
    docker.sh("checkpoint docker:none >/dev/null").fails_with(5);
    let no_daemon = docker.sh("DOCKER_HOST=unix:///nowhere checkpoint docker:one >/dev/null");
    let no_daemon = no_daemon.fails_with(1);
    assert!(no_daemon.stderr.contains("daemon"), "{}", no_daemon.stderr);
}

#[test]
fn a_container_goes_from_podman_to_native_to_podman_to_docker() {
    let podman = Podman::bare("alder");
    let root = busybox(&podman, "busybox");
    podman
        .sh(&format!(
            "tar -C {} -c . | podman import -q - localhost/busybox",
            root.display()
        ))
        .ok();
    // Natively its output leads nowhere, and does so ever after: it counts into a file too.
    podman.run(
        "one",
        "localhost/busybox sh -c 'i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.1; done'",
    );
    let docker = Docker::on(podman);
    docker
        .sh("podman save localhost/busybox | docker load")
        .ok();
    let count = |read: &str| {
        until(&format!("`{read}` to give a number"), LONG, || {
            docker.sh(read).stdout.trim().parse::<u64>().ok()
        })
    };
    let mut counted = count("podman exec one cat /count");
    for (line, read) in [
        (
            "checkpoint --with-image podman:one | restore --engine native -n two",
            r#"cat /proc/$(python3 -c 'import json; print(json.load(open("/run/ferry/two.json"))["pid"])')/root/count"#,
        ),
        (
            "checkpoint native:two | restore --engine podman -n three",
            "podman exec three cat /count",
        ),
        (
            "checkpoint podman:three | restore --engine docker -n four",
            "docker exec four cat /count",
        ),
    ] {
        docker.sh(line).ok();
        let now = count(read);
        assert!(now >= counted, "{line}: from {counted} to {now}");
        until("it to go on", LONG, || (count(read) > now).then_some(()));
        counted = count(read);
    }
}
