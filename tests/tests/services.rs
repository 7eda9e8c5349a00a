//! Unmodified servers under load, whose clients stay connected while they move to another host, back, and there again.
#![forbid(unsafe_code)]

use ferry_tests::{LONG, Program, World, programs, until};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const PORT: u16 = 8080;

/// Waits for words in a file.
#[track_caller]
fn says(output: &Path, words: &str) -> String {
    until(&format!("`{words}` in {}", output.display()), LONG, || {
        let said = std::fs::read_to_string(output).unwrap_or_default();
        said.contains(words).then_some(said)
    })
}

/// Waits for more lines in a file than there are.
#[track_caller]
fn goes_on(output: &Path) {
    let read = || std::fs::read_to_string(output).unwrap_or_default();
    let before = read().lines().count();
    until(&format!("more of {}", output.display()), LONG, || {
        (read().lines().count() > before + 2).then_some(())
    });
}

/// Starts a client that asks over one connection; its words come in a file.
fn ask(world: &World, address: &str, words: &str) -> PathBuf {
    let output = world.client.path("client.out");
    let line = format!(
        "/usr/bin/python3 {} {address} {PORT} {} {words}",
        programs().join("keepalive.py").display(),
        world.client.path("enough").display(),
    );
    world.client.start(&line, &output);
    says(&output, "1\n");
    output
}

/// Three generations of a server, each while its client asks over a connection that is never made anew.
fn keeps_its_client(world: &World, program: &Program<'_>, words: &str) {
    let address = world.contained(program, "server");
    let output = ask(world, &address, words);
    let mut at = 0;
    for _ in 0..3 {
        goes_on(&output);
        at = world.moved("server", &address, at).0;
        goes_on(&output);
    }
    std::fs::write(world.client.path("enough"), b"").expect("tell the client");
    says(&output, "all were right");
}

#[test]
fn nginx_keeps_the_connection_of_its_client() {
    let world = World::new();
    let directory = world.hosts[0].path("nginx");
    std::fs::create_dir_all(directory.join("html")).expect("make a directory");
    std::fs::write(directory.join("html/index.html"), "one\n").expect("write a page");
    let configuration = std::fs::read_to_string(programs().join("nginx.conf"))
        .expect("the configuration")
        .replace("http {", "http { keepalive_requests 1000000;");
    std::fs::write(directory.join("nginx.conf"), configuration).expect("write the configuration");
    let line = format!(
        "/usr/sbin/nginx -e error.log -p {0} -c {0}/nginx.conf",
        directory.display()
    );
    let program = Program::alone(&world.hosts[0], "nginx", &line);
    assert_eq!(program.answer(PORT, "/"), "one");
    keeps_its_client(&world, &program, "");
}

#[test]
fn node_counts_on_for_its_client() {
    let world = World::new();
    let script = programs().join("counter.js");
    let line = format!("node {} {PORT}", script.display());
    let program = Program::alone(&world.hosts[0], "node", &line);
    program.says("ready");
    keeps_its_client(&world, &program, "count");
}

#[test]
fn caddy_in_go_keeps_the_connection_of_its_client() {
    let world = World::new();
    let home = world.hosts[0].path("caddy");
    std::fs::create_dir(&home).expect("make a directory");
    let file = home.join("Caddyfile");
    std::fs::write(
        &file,
        format!("{{\nadmin off\n}}\n:{PORT} {{\nrespond \"one\"\n}}\n"),
    )
    .expect("write a Caddyfile");
    let line = format!(
        "env HOME={} caddy run --config {} --adapter caddyfile",
        home.display(),
        file.display()
    );
    let program = Program::alone(&world.hosts[0], "caddy", &line);
    assert_eq!(program.answer(PORT, "/"), "one");
    keeps_its_client(&world, &program, "");
}

#[test]
fn redis_keeps_its_subscribers() {
    let world = World::new();
    let line = format!("redis-server --port {PORT} --protected-mode no --save '' --daemonize no");
    let program = Program::alone(&world.hosts[0], "redis", &line);
    until("redis to answer", LONG, || {
        let pong = program.network(&format!("redis-cli -p {PORT} PING"));
        (pong.stdout == "PONG\n").then_some(())
    });
    let address = world.contained(&program, "server");
    let asks = |words: &str| {
        world
            .client
            .sh(&format!("redis-cli -h {address} -p {PORT} {words}"))
            .ok()
    };
    let outputs = ["news", "sport"].map(|channel| {
        let output = world.client.path(channel);
        let line = format!("redis-cli -h {address} -p {PORT} --csv SUBSCRIBE {channel}");
        world.client.start(&line, &output);
        says(&output, "subscribe");
        output
    });
    let mut at = 0;
    let mut published = 0;
    for generation in 0..=3 {
        if generation > 0 {
            at = world.moved("server", &address, at).0;
        }
        for _ in 0..5 {
            published += 1;
            for channel in ["news", "sport"] {
                let heard = asks(&format!("PUBLISH {channel} {channel}-{published}"));
                assert_eq!(heard, "1", "one subscriber of {channel}, who never left");
            }
        }
    }
    for (channel, output) in ["news", "sport"].iter().zip(outputs) {
        let said = says(&output, &format!("{channel}-{published}"));
        let numbers: Vec<String> = said
            .lines()
            .filter_map(|line| {
                Some(
                    line.split_once(&format!("\"{channel}-"))?
                        .1
                        .replace('"', ""),
                )
            })
            .collect();
        let wanted: Vec<String> = (1..=published).map(|n| n.to_string()).collect();
        assert_eq!(numbers, wanted, "{said}");
    }
    assert_eq!(asks("CLIENT LIST TYPE pubsub").lines().count(), 2);
}

#[test]
fn a_login_by_ssh_stays_logged_in() {
    let world = World::new();
    let folder = world.hosts[0].path("ssh");
    let at = folder.display();
    world.hosts[0]
        .sh(&format!(
            "mkdir -m 700 {at} && ssh-keygen -q -t ed25519 -N '' -f {at}/host && ssh-keygen -q -t ed25519 -N '' -f {at}/user && \
             printf '%s\\n' 'HostKey {at}/host' 'AuthorizedKeysFile {at}/user.pub' 'StrictModes no' 'UsePAM no' \
             'PermitRootLogin prohibit-password' 'PidFile none' 'ListenAddress 0.0.0.0' 'Port {PORT}' > {at}/config"
        ))
        .ok();
    let line = format!("/usr/sbin/sshd -D -f {at}/config -E {at}/log");
    let program = Program::alone(&world.hosts[0], "sshd", &line);
    until("sshd to listen", LONG, || {
        let listening = program.network(&format!("ss -Hltn sport = :{PORT}"));
        listening.stdout.contains("LISTEN").then_some(())
    });
    let address = world.contained(&program, "server");
    let output = world.client.path("session.out");
    let file = std::fs::File::create(&output).expect("make a file");
    let mut session = world
        .client
        .shell(&format!(
            "exec ssh -tt -q -p {PORT} -i {at}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@{address} \
             'exec bash --norc --noprofile'"
        ))
        .stdin(Stdio::piped())
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()
        .expect("start ssh");
    let mut keys = session.stdin.take().expect("its input");
    let mut types = |line: &str| keys.write_all(line.as_bytes()).expect("type");
    types("PS1=; n=0; tty; echo begins-$((1 + 1))\n");
    says(&output, "begins-2");
    let mut host = 0;
    for generation in 1..=3 {
        // Half a line is typed before the move, the other half after it; a job waits in the background.
        types("sleep 1000 & n=$((n + 1)); echo gene");
        says(&output, "echo gene");
        host = world.moved("server", &address, host).0;
        types("ration-$n-of-$(jobs | wc -l)\n");
        says(&output, &format!("generation-{generation}-of-{generation}"));
    }
    types("kill $(jobs -p); stty size; exit 7\n");
    assert_eq!(session.wait().expect("wait for ssh").code(), Some(7));
}

#[test]
fn postgresql_is_benchmarked_through_its_moves_and_stays_whole() {
    let world = World::new();
    let bin = "/usr/lib/postgresql/15/bin";
    let cluster = world.hosts[0].path("cluster");
    let at = cluster.display();
    // The user of the database has to find the way to it.
    let as_user = "setpriv --reuid postgres --regid postgres --clear-groups env HOME=/";
    world.hosts[0]
        .sh(&format!(
            "install -d -m 700 -o postgres -g postgres {at} && chmod 711 {at}/.. && cd / && \
             {as_user} {bin}/initdb -D {at} -A trust --data-checksums --no-sync -U postgres && \
             echo 'host all all 0.0.0.0/0 trust' >> {at}/pg_hba.conf && \
             printf '%s\\n' \"listen_addresses = '*'\" 'port = {PORT}' \"unix_socket_directories = ''\" \
             'max_parallel_workers_per_gather = 2' 'checkpoint_timeout = 30s' 'fsync = off' >> {at}/postgresql.conf"
        ))
        .ok();
    let line = format!("{as_user} {bin}/postgres -D {at}");
    let program = Program::alone(&world.hosts[0], "postgres", &line);
    until("the database to be ready", LONG, || {
        let ready = program.network(&format!("{bin}/pg_isready -h 127.0.0.1 -p {PORT}"));
        (ready.code == 0).then_some(())
    });
    let address = world.contained(&program, "server");
    let to = format!("-h {address} -p {PORT} -U postgres");
    let client = |line: &str| world.client.sh(line).ok();
    client(&format!("{bin}/pgbench {to} -i -q -s 3 postgres"));
    client(&format!(
        "psql {to} -qc 'CREATE EXTENSION amcheck' postgres"
    ));
    let output = world.client.path("pgbench.out");
    world.client.start(
        &format!("{bin}/pgbench {to} -c 4 -j 2 -T 20 -P 1 -n postgres"),
        &output,
    );
    let mut host = 0;
    let mut pid = 0;
    for _ in 0..3 {
        goes_on(&output);
        (host, pid) = world.moved("server", &address, host);
    }
    goes_on(&output);
    let said = says(&output, "number of failed transactions: 0 ");
    assert!(!said.contains("error"), "{said}");
    let number = |name: &str| {
        let line = said.lines().find(|line| line.starts_with(name));
        let words = line.and_then(|line| line.rsplit(' ').next());
        words.unwrap_or_else(|| panic!("{name}: {said}")).to_owned()
    };
    let count = client(&format!(
        "psql {to} -Atc 'SELECT count(*) FROM pgbench_history' postgres"
    ));
    assert_eq!(count, number("number of transactions actually processed:"));
    let sums = client(&format!(
        "psql {to} -Atc 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history), \
         (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers)' postgres"
    ));
    assert_eq!(sums, "t|t");
    client(&format!("{bin}/pg_amcheck {to} --heapallindexed postgres"));
    let host = &world.hosts[host];
    host.sh(&format!("kill -INT {pid}")).ok();
    until("the database to end", LONG, || {
        (!host.lives(pid)).then_some(())
    });
    host.sh(&format!("{as_user} {bin}/pg_checksums --check -D {at}"))
        .ok();
}
