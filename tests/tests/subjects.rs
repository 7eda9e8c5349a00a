//! Every subject of `tests/subjects`, taken and given back: in the host's namespaces, as process 1 of its own, through
//! three generations, as three replicas, and in a container of podman's with what podman allows by default. One test for each subject and each of these; a new subject needs no line
//! here.
#![forbid(unsafe_code)]

use ferry_tests::program::USERS;
use ferry_tests::{Host, LONG, Podman, Program, Way, built, until};
use libtest_mimic::{Arguments, Trial};
use std::path::Path;

/// The binaries of the package: those in `src/bin`, and those that its Cargo.toml names.
fn subjects() -> Vec<String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("subjects");
    let manifest =
        std::fs::read_to_string(package.join("Cargo.toml")).expect("the subjects' Cargo.toml");
    let mut after_bin = false;
    let mut names: Vec<String> = manifest
        .lines()
        .filter_map(|line| {
            if line.starts_with('[') {
                after_bin = line == "[[bin]]";
            }
            let name = line.strip_prefix("name = ")?.trim_matches('"');
            after_bin.then(|| name.to_owned())
        })
        .collect();
    for entry in std::fs::read_dir(package.join("src/bin"))
        .expect("list src/bin")
        .flatten()
    {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "rs") {
            names.push(
                path.file_stem()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned(),
            );
        }
    }
    names.sort();
    names.dedup();
    names
}

/// The subject's directory and its command line.
fn stage(host: &Host, subject: &str) -> (std::path::PathBuf, String) {
    assert!(
        built().join(subject).exists(),
        "{subject} is not built: `cargo build -p subjects` first"
    );
    let directory = host.path(subject);
    std::fs::create_dir(&directory).expect("make the subject's directory");
    let line = format!(
        "{} {}",
        built().join(subject).display(),
        directory.display()
    );
    (directory, line)
}

fn ready(directory: &Path) {
    until("the subject to be ready", LONG, || {
        directory.join("ready").exists().then_some(())
    });
}

/// Tells the subject to check, and wants `count` good verdicts.
fn verdicts(directory: &Path, programs: &[Program], count: usize) {
    std::fs::write(directory.join("go"), b"").expect("tell the subject");
    let verdict = until("the verdict", LONG, || {
        // First whether they are gone: what they wrote before that is then all there is.
        let gone = programs
            .iter()
            .all(|program| !program.host.lives(program.pid));
        let text = std::fs::read_to_string(directory.join("verdict")).unwrap_or_default();
        (gone || text.lines().count() >= count).then_some(text)
    });
    let output = std::fs::read_to_string(&programs[0].output).unwrap_or_default();
    assert_eq!(verdict, "ok\n".repeat(count), "its output: {output}");
}

fn undisturbed(subject: &str) {
    let host = Host::new("alder");
    let (directory, line) = stage(&host, subject);
    let program = Program::shared(&host, "subject", &line);
    ready(&directory);
    verdicts(&directory, &[program], 1);
}

fn in_the_hosts_namespaces(subject: &str) {
    let host = Host::new("alder");
    let (directory, line) = stage(&host, subject);
    let program = Program::shared(&host, "subject", &line);
    ready(&directory);
    let before = program.state_at_rest();
    // By a file: in a live pipe its pids would still be taken here.
    let (program, _) = Way::File.carry(&program, &host, "");
    before.assert_kept_by(&program, |state| state);
    verdicts(&directory, &[program], 1);
}

fn through_three_generations(subject: &str) {
    let host = Host::new("alder");
    let (directory, line) = stage(&host, subject);
    let mut program = Program::alone(&host, "subject", &line);
    ready(&directory);
    let before = program.state_at_rest();
    for way in [Way::Bare, Way::Pipe, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
        before.assert_kept_by(&program, |state| state);
    }
    verdicts(&directory, &[program], 1);
}

fn in_a_user_namespace(subject: &str) {
    let host = Host::new("alder");
    let (directory, line) = stage(&host, subject);
    std::os::unix::fs::chown(&directory, Some(USERS), Some(USERS)).expect("give it away");
    let mut program = Program::mapped(&host, "subject", &line);
    ready(&directory);
    let before = program.state_at_rest();
    for way in [Way::File, Way::Pipe] {
        program = Way::carry(way, &program, &host, "").0;
        before.assert_kept_by(&program, |state| state);
    }
    verdicts(&directory, &[program], 1);
}

/// What is not played there: file systems that only the host's root mounts; a thread whose working directory is in /proc, of a process in a user namespace further inside, where it may not go before all is
/// given back (docs/RESOURCES.md has the rows).
const NOT_IN_A_USER_NAMESPACE: [&str; 2] = ["namespaces-kinds", "namespaces-threads"];

fn as_three_replicas(subject: &str) {
    let host = Host::new("alder");
    let (directory, line) = stage(&host, subject);
    let program = Program::shared(&host, "subject", &line);
    ready(&directory);
    let file = host.path("archive").display().to_string();
    host.sh(&format!("checkpoint pid:{} | pack > {file}", program.pid))
        .ok();
    let replicas: Vec<Program> = ["hello1", "hello2", "hello3"]
        .iter()
        .map(|name| {
            let report = host.sh(&format!("restore --json -n {name} < {file}")).ok();
            program.moved(&host, ferry_tests::Restored::read(&report).pid)
        })
        .collect();
    verdicts(&directory, &replicas, 3);
}

fn in_a_container_of_podmans(subject: &str) {
    let host = Podman::new("alder");
    let (directory, line) = stage(&host, subject);
    // Podman's filter forbids personality(2), which that subject is about.
    let words = match subject {
        "limits" => "--security-opt seccomp=unconfined",
        // Not among its rights by default.
        "sockets-packet" | "sockets-raw" => "--cap-add NET_RAW",
        // What it mounts itself an engine would not make again; it looks at what is there.
        "namespaces-mount" | "namespaces-covered" | "namespaces-kinds" => "",
        name if name.starts_with("namespaces") => {
            "--cap-add SYS_ADMIN --security-opt seccomp=unconfined"
        }
        _ => "",
    };
    let container = host.run(
        "subject",
        &format!(
            "{words} -v {0}:{0} -v {1}:{1}:ro base {line}",
            directory.display(),
            built().display()
        ),
    );
    ready(&directory);
    let before = container.program().state_at_rest();
    let archive = container.taken("");
    let again = host.restored("-n again", &archive);
    before.assert_kept_by(&again.program(), |state| state);
    verdicts(&directory, &[again.program()], 1);
}

fn main() {
    let arguments = Arguments::from_args();
    type Play = fn(&str);
    let plays: [(&str, Play); 6] = [
        ("is_content_undisturbed", undisturbed),
        ("survives_in_the_hosts_namespaces", in_the_hosts_namespaces),
        ("survives_three_generations", through_three_generations),
        ("survives_in_a_user_namespace", in_a_user_namespace),
        ("becomes_three_replicas", as_three_replicas),
        ("survives_in_podman", in_a_container_of_podmans),
    ];
    let trials = subjects()
        .into_iter()
        .flat_map(|subject| {
            let mapped = |name: &str| name == "survives_in_a_user_namespace";
            let left_out = NOT_IN_A_USER_NAMESPACE.contains(&subject.as_str());
            let plays = plays
                .into_iter()
                .filter(move |(name, _)| !(left_out && mapped(name)));
            plays.map(move |(name, play)| {
                let subject = subject.clone();
                Trial::test(
                    format!("{}::{name}", subject.replace('-', "::")),
                    move || {
                        play(&subject);
                        Ok(())
                    },
                )
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
