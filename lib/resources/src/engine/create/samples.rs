//! On what `inspect` said of containers made for this (podman 4.3.1, docker 20.10.24).

use super::*;
use image::engine::Attachment;
use serde_json::Value;

const IMAGE: Option<&str> = Some("localhost/bb:latest");

fn sample(engine: Engine, text: &str) -> Configuration {
    let inspect: Value = serde_json::from_str(text).unwrap();
    let list = |path: &str| {
        let words = inspect.pointer(path).and_then(Value::as_array);
        words.map_or(Vec::new(), |words| {
            words
                .iter()
                .map(|w| w.as_str().unwrap().to_string())
                .collect::<Vec<_>>()
        })
    };
    let networks = inspect.pointer("/NetworkSettings/Networks").unwrap();
    let networks = networks.as_object().unwrap().iter();
    let mounts = inspect["Mounts"].as_array().unwrap().iter();
    Configuration {
        engine,
        version: "1".into(),
        id: inspect["Id"].as_str().unwrap().into(),
        command: list("/Config/CreateCommand"),
        networks: networks
            .map(|(name, network)| Attachment {
                network: name.clone(),
                addresses: vec![network["IPAddress"].as_str().unwrap().parse().unwrap()],
                mac: Some(network["MacAddress"].as_str().unwrap().into()),
                aliases: network["Aliases"].as_array().map_or(Vec::new(), |names| {
                    names
                        .iter()
                        .map(|n| n.as_str().unwrap().to_string())
                        .collect()
                }),
            })
            .collect(),
        volumes: mounts
            .filter(|mount| mount["Type"] == "volume")
            .map(|mount| Volume {
                name: mount["Name"].as_str().unwrap().into(),
                anonymous: mount["Name"].as_str().unwrap().len() == 64,
                destination: mount["Destination"].as_str().unwrap().into(),
                driver: "local".into(),
                options: Default::default(),
                labels: Default::default(),
            })
            .collect(),
        inspect,
        spec: Value::Null,
        image: None,
        terminal: false,
    }
}

fn podman_full() -> Configuration {
    sample(Engine::Podman, include_str!("samples/podman-full.json"))
}

fn podman_plain() -> Configuration {
    sample(Engine::Podman, include_str!("samples/podman-plain.json"))
}

fn docker_full() -> Configuration {
    sample(Engine::Docker, include_str!("samples/docker-full.json"))
}

fn docker_plain() -> Configuration {
    sample(Engine::Docker, include_str!("samples/docker-plain.json"))
}

fn renamed() -> Wishes {
    Wishes {
        name: "new".into(),
        renamed: true,
        ..Wishes::default()
    }
}

fn same_name() -> Wishes {
    Wishes {
        name: "web".into(),
        ..Wishes::default()
    }
}

/// Arguments, and what is said of those that are left out.
fn shown(creation: &Creation) -> Vec<String> {
    let warnings = creation.warnings.iter().map(|w| format!("# {w}"));
    creation.arguments.iter().cloned().chain(warnings).collect()
}

#[track_caller]
fn has(creation: &Creation, flags: &[&str]) {
    let all = shown(creation);
    for flag in flags {
        assert!(all.iter().any(|a| a == flag), "no {flag} in {all:#?}");
    }
}

#[track_caller]
fn lacks(creation: &Creation, prefixes: &[&str]) {
    let all = shown(creation);
    for prefix in prefixes {
        let found = all.iter().find(|a| a.starts_with(prefix));
        assert_eq!(found, None, "in {all:#?}");
    }
}

/// A configuration whose recorded command is `line`.
fn recorded(line: &str) -> Configuration {
    Configuration {
        command: line.split(' ').map(str::to_string).collect(),
        ..podman_plain()
    }
}

#[test]
fn a_recorded_command_is_said_again() {
    let made = podman(&podman_full(), IMAGE, &renamed()).unwrap();
    let recorded = flags::parse(&podman_full().command).unwrap().flags;
    let kept = recorded
        .iter()
        .filter(|flag| !["detach", "name", "network"].contains(&flag.name.as_str()));
    for flag in kept {
        has(&made, &[&flag.argument()]);
    }
    assert_eq!(recorded.len(), 49);
    // Each flag with a value has become one word, the network has been said anew, the image is called by its whole name.
    has(
        &made,
        &[
            "--pull=never",
            "--name=new",
            "--network=net1:ip=10.8.0.7,mac=02:42:0a:09:00:99,alias=ali",
            "--user=svc",
            "--interactive",
            "--tty",
            "--label=c=d e",
            "--volume=/srv/bb:/b:ro,rslave",
            "--mount=type=bind,src=/srv/web,dst=/e,readonly",
            "--publish=127.0.0.1:8083:81/udp",
            "--entrypoint=/bin/busybox",
            "--umask=0027",
        ],
    );
    assert!(
        made.arguments
            .ends_with(&["localhost/bb:latest", "sleep", "1000"].map(String::from))
    );
    assert_eq!(made.warnings, [""; 0]);
}

#[test]
fn addresses_are_asked_for_again_as_podman_does() {
    let network = |wishes: &Wishes, line: &str| {
        let made = podman(&recorded(line), IMAGE, wishes).unwrap();
        let found = made.arguments.iter().find(|a| a.starts_with("--network"));
        found.cloned().unwrap_or_default()
    };
    let plain = "podman run -d bb";
    let by_hand = "podman run --ip 10.88.0.50 --mac-address 02:00:00:00:00:01 bb";
    let had = "--network=podman:ip=10.88.0.2,mac=da:ae:49:c0:27:8a";
    assert_eq!(network(&same_name(), plain), had);
    assert_eq!(network(&renamed(), plain), "");
    assert_eq!(
        network(&renamed(), by_hand),
        "--network=podman:ip=10.88.0.50,mac=02:00:00:00:00:01"
    );
    let other = |change: fn(&mut Wishes)| {
        let mut wishes = renamed();
        change(&mut wishes);
        wishes
    };
    for (wishes, expected) in [
        (
            other(|w| w.ignore_static_ip = true),
            "--network=podman:mac=02:00:00:00:00:01",
        ),
        (
            other(|w| w.ignore_static_mac = true),
            "--network=podman:ip=10.88.0.50",
        ),
        (
            other(|w| (w.ignore_static_ip, w.ignore_static_mac) = (true, true)),
            "",
        ),
        (
            other(|w| w.ip = Some([10, 88, 0, 9].into())),
            "--network=podman:ip=10.88.0.9,mac=02:00:00:00:00:01",
        ),
        (
            other(|w| w.networks = vec!["net2:alias=x".into()]),
            "--network=net2:alias=x",
        ),
    ] {
        assert_eq!(network(&wishes, by_hand), expected);
    }
    assert_eq!(
        network(&renamed(), "podman run --net host bb"),
        "--network=host"
    );
    let shared = recorded("podman run --network container:db bb");
    assert!(podman(&shared, IMAGE, &renamed()).is_err());
    let elsewhere = other(|w| w.networks = vec!["podman".into()]);
    assert!(podman(&shared, IMAGE, &elsewhere).is_ok());
}

#[test]
fn what_came_from_the_callers_surroundings_is_taken_from_the_container() {
    let mut configuration = recorded(
        "podman run --env-file /f -e A -e GONE -e PA* --label-file /l -v ./x:/b:ro \
         --mount type=bind,source=y,target=/e --cidfile /c --pidfile /p --rm --replace --pull always bb",
    );
    configuration.inspect["Mounts"] = podman_full().inspect["Mounts"].clone();
    configuration.inspect["Config"]["Labels"] = serde_json::json!({"from": "a file"});
    let made = podman(&configuration, IMAGE, &renamed()).unwrap();
    has(
        &made,
        &[
            "--env=A=b",
            "--env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "--env=HOME=/root",
            "--label=from=a file",
            "--volume=/srv/bb:/b:ro",
            "--mount=type=bind,source=/srv/web,target=/e",
            "--rm",
            "# the pid is not written to /p (--pidfile): that belongs to the container it was said for",
        ],
    );
    lacks(
        &made,
        &[
            "--env-file",
            "--env=GONE",
            "--env=container",
            "--env=HOSTNAME",
            "--label-file",
            "--cidfile",
            "--pidfile",
            "--replace",
            "--pull=always",
        ],
    );
}

#[test]
fn ports_are_published_as_before_or_as_asked() {
    let line = "podman run -p 8080:80 -P bb";
    let made = podman(&recorded(line), IMAGE, &renamed()).unwrap();
    has(&made, &["--publish=8080:80", "--publish-all"]);
    let wishes = Wishes {
        publish: vec!["9090:80".into()],
        ..renamed()
    };
    for made in [
        podman(&recorded(line), IMAGE, &wishes).unwrap(),
        podman(&docker_full(), IMAGE, &wishes).unwrap(),
        docker(&docker_full(), IMAGE, &wishes).unwrap(),
    ] {
        has(&made, &["--publish=9090:80"]);
        lacks(&made, &["--publish=8", "--publish=1", "--publish-all"]);
    }
}

#[test]
fn a_pod_brings_its_own_network() {
    let pod = Wishes {
        pod: Some("p".into()),
        ..renamed()
    };
    for configuration in [podman_full(), docker_full()] {
        let made = podman(&configuration, IMAGE, &pod).unwrap();
        has(&made, &["--pod=p"]);
        lacks(
            &made,
            &[
                "--network",
                "--publish",
                "--hostname",
                "--dns",
                "--add-host",
                "--ip=",
            ],
        );
    }
    assert!(docker(&docker_full(), IMAGE, &pod).is_err());
    let and_a_port = Wishes {
        publish: vec!["1:1".into()],
        ..pod
    };
    assert!(podman(&podman_full(), IMAGE, &and_a_port).is_err());
    let mut in_a_pod = podman_plain();
    in_a_pod.inspect["Pod"] = "0123456789abcdef".into();
    let text = podman(&in_a_pod, IMAGE, &renamed())
        .unwrap_err()
        .to_string();
    assert!(text.contains("--pod"), "{text}");
}

#[test]
fn what_cannot_be_said_again_is_refused() {
    for line in [
        "podman run --preserve-fds 3 bb",
        "podman run --pid container:db bb",
        "podman run --ipc ns:/run/x bb",
        "podman run --network ns:/run/x bb",
    ] {
        let refused = podman(&recorded(line), IMAGE, &renamed()).unwrap_err();
        assert_eq!(refused.exit_code(), 1, "{line}");
    }
}

#[test]
fn a_container_without_a_recorded_command_is_made_from_what_inspect_says() {
    let unrecorded = |configuration| Configuration {
        command: Vec::new(),
        ..configuration
    };
    let made = podman(&unrecorded(podman_full()), IMAGE, &renamed()).unwrap();
    has(
        &made,
        &[
            "--network=net1:alias=ali",
            "--tty",
            "--interactive",
            "--read-only",
            "--hostname=hh",
            "--publish=8082:80/tcp",
            "--user=svc",
            "--stop-signal=2",
            "--stop-timeout=3",
            "--restart=on-failure:3",
            "--volume=/data",
            "--volume=vol1:/v:ro",
            "--volume=/srv/bb:/b:ro,rslave",
            "--memory=67108864",
            "--cpus=1.500000000",
            "--cap-add=CAP_SYS_TIME",
            "--device=/dev/null:/dev/mynull",
            "--ulimit=nofile=1000:2000",
            "--annotation=an=x",
            "--umask=0027",
            "--tz=UTC",
            "--tmpfs=/t:size=1m,mode=1777",
            "--log-opt=max-size=1MB",
            "--health-cmd=true",
            "--health-interval=5000000000ns",
            "--entrypoint=/bin/busybox",
        ],
    );
    // What podman itself puts there for --read-only, and for each container.
    lacks(
        &made,
        &[
            "--tmpfs=/run",
            "--env=container",
            "--env=HOSTNAME",
            "--cpu-quota",
        ],
    );
    assert!(
        made.arguments
            .ends_with(&["localhost/bb:latest", "sleep", "1000"].map(String::from))
    );
    let made = podman(&unrecorded(podman_plain()), IMAGE, &renamed()).unwrap();
    has(&made, &["--entrypoint=", "--env=A=b", "--volume=/data"]);
    lacks(&made, &["--hostname", "--network", "--label", "--memory"]);
}

#[test]
fn docker_makes_its_own_container_again() {
    let made = docker(&docker_full(), IMAGE, &renamed()).unwrap();
    has(
        &made,
        &[
            "--network=net1",
            "--ip=10.9.0.7",
            "--mac-address=02:42:0a:09:00:99",
            "--network-alias=ali",
            "--attach=stdout",
            "--init",
            "--publish=127.0.0.1:8081:81/udp",
            "--domainname=dom.ex",
            "--device-cgroup-rule=c 1:3 rwm",
            "--sysctl=net.ipv4.ip_forward=1",
            "--mount=type=bind,src=/srv/web,dst=/e,readonly",
            "--volume=/srv/bb:/b:ro",
            "--tmpfs=/t:size=1m,mode=1777",
            "--log-opt=max-size=1m",
        ],
    );
    // The short id and the host name are names that docker gives itself.
    lacks(&made, &["--network-alias=hh", "--network-alias=b473", "#"]);
    let made = docker(&docker_plain(), IMAGE, &same_name()).unwrap();
    // Docker chooses on its default network.
    lacks(&made, &["--ip", "--mac-address", "--network", "--hostname"]);
}

#[test]
fn a_container_is_carried_over_between_engines_and_what_is_lost_is_named() {
    let made = docker(&podman_full(), IMAGE, &renamed()).unwrap();
    has(
        &made,
        &[
            "--network=net1",
            "--entrypoint=/bin/busybox",
            "--tmpfs=/t:size=1m,mode=1777,exec",
            "--tmpfs=/run:exec",
            "# the annotation an=x is left out: docker has no such thing",
            "# the umask 0027 of `exec` is left out: docker has no such thing",
            "# the time zone UTC is left out: docker has no such thing",
        ],
    );
    let made = podman(&docker_full(), IMAGE, &renamed()).unwrap();
    has(
        &made,
        &[
            "--network=net1:ip=10.9.0.7,mac=02:42:0a:09:00:99,alias=ali",
            "--tmpfs=/t:size=1m,mode=1777,noexec",
            "# the domain name dom.ex is left out: podman has no such thing",
        ],
    );
    lacks(&made, &["--log-driver", "--attach"]);
    // The default networks have other names, and other addresses.
    for made in [
        docker(&podman_plain(), IMAGE, &same_name()).unwrap(),
        podman(&docker_plain(), IMAGE, &same_name()).unwrap(),
    ] {
        lacks(&made, &["--network", "--ip", "--mac"]);
    }
}

#[test]
fn every_network_but_the_first_is_connected_afterwards() {
    let mut configuration = docker_full();
    configuration.networks.push(Attachment {
        network: "net2".into(),
        addresses: vec!["10.10.0.3".parse().unwrap()],
        mac: None,
        aliases: vec!["other".into()],
    });
    let made = docker(&configuration, IMAGE, &same_name()).unwrap();
    assert_eq!(
        made.afterwards,
        [[
            "network",
            "connect",
            "--ip=10.10.0.3",
            "--alias=other",
            "net2",
            "web"
        ]]
    );
    let made = podman(&configuration, IMAGE, &renamed()).unwrap();
    has(&made, &["--network=net2:alias=other"]);
}

#[test]
fn a_seccomp_profile_that_docker_holds_goes_by_standard_input() {
    let mut configuration = docker_plain();
    let profile = "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}";
    configuration.inspect["HostConfig"]["SecurityOpt"] =
        serde_json::json!([format!("seccomp={profile}")]);
    for made in [
        docker(&configuration, IMAGE, &renamed()).unwrap(),
        podman(&configuration, IMAGE, &renamed()).unwrap(),
    ] {
        has(&made, &["--security-opt=seccomp=/dev/stdin"]);
        assert_eq!(made.input.as_deref(), Some(profile));
    }
}

#[test]
fn entry_points_of_several_words_and_none_are_kept() {
    let mut configuration = docker_plain();
    configuration.inspect["Config"]["Entrypoint"] = serde_json::json!(["tini", "--"]);
    let made = docker(&configuration, IMAGE, &renamed()).unwrap();
    has(&made, &["--entrypoint=tini", "--"]);
    let made = podman(&configuration, IMAGE, &renamed()).unwrap();
    has(&made, &["--entrypoint=[\"tini\",\"--\"]"]);
    // Podman joins its words; what is run tells where they end.
    let mut configuration = podman_plain();
    configuration.command.clear();
    configuration.inspect["Config"]["Entrypoint"] = "tini -- a b".into();
    configuration.inspect["Config"]["Cmd"] = serde_json::json!(["run"]);
    configuration.inspect["Path"] = "tini".into();
    configuration.inspect["Args"] = serde_json::json!(["--", "a b", "run"]);
    let made = podman(&configuration, IMAGE, &renamed()).unwrap();
    has(&made, &["--entrypoint=[\"tini\",\"--\",\"a b\"]", "run"]);
}

#[test]
fn a_root_of_the_users_is_podmans_alone() {
    let mut configuration = recorded("podman run --rootfs ./root sh");
    configuration.inspect["Rootfs"] = "/srv/root".into();
    let made = podman(&configuration, None, &renamed()).unwrap();
    assert!(
        made.arguments
            .ends_with(&["--rootfs", "/srv/root", "sh"].map(String::from))
    );
    assert!(docker(&configuration, None, &renamed()).is_err());
}

#[test]
fn a_bundle_is_no_image() {
    let mut configuration = podman_plain();
    configuration.engine = Engine::Runc;
    let text = docker(&configuration, IMAGE, &renamed())
        .unwrap_err()
        .to_string();
    assert!(text.contains("--bundle"), "{text}");
}
