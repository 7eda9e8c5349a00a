//! Memory as a whole: what processes share since they were forked is shared again, through generations.
#![forbid(unsafe_code)]

use ferry_tests::asked::Asked;
use ferry_tests::{Host, LONG, Podman, Program, Traces, Way, programs, until};
use std::path::Path;

/// The sum of what its processes have of memory, each shared page divided among them, in KiB.
fn share(program: &Program) -> u64 {
    let one = |pid: i32| -> u64 {
        let path = program.host.proc().join(format!("{pid}/smaps_rollup"));
        let text = std::fs::read_to_string(path).expect("smaps_rollup");
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = pss.and_then(|rest| rest.split_whitespace().next());
        number.and_then(|n| n.parse().ok()).expect("a Pss line")
    };
    program.tree().into_iter().map(one).sum()
}

fn in_common(before: u64, after: u64) {
    let most = before + before / 20;
    assert!(after <= most, "{before} KiB became {after}");
}

/// Asks the root and each of its five workers whether all they had in memory is there.
fn is_whole(directory: &Path, number: u32) {
    std::fs::write(directory.join(format!("ask{number}")), b"").expect("ask");
    let said = until("the answer", LONG, || {
        std::fs::read_to_string(directory.join(format!("said{number}"))).ok()
    });
    assert_eq!(said, "yyyyyy");
}

fn started<'h>(host: &'h Host) -> (std::path::PathBuf, Program<'h>) {
    let directory = host.path("prefork");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "/usr/bin/python3 {} {}",
        programs().join("prefork.py").display(),
        directory.display()
    );
    let program = Program::alone(host, "prefork", &line);
    until("the workers", LONG, || {
        directory.join("ready").exists().then_some(())
    });
    (directory, program)
}

#[test]
fn what_workers_share_with_their_parent_they_share_again() {
    let host = Host::new("alder");
    let (directory, mut program) = started(&host);
    let before = share(&program);
    let state = program.state_at_rest();
    for (number, way) in [Way::Pipe, Way::File, Way::Directory]
        .into_iter()
        .enumerate()
    {
        program = Way::carry(way, &program, &host, "").0;
        state.assert_kept_by(&program, |state| state);
        in_common(before, share(&program));
        is_whole(&directory, number as u32);
        in_common(before, share(&program));
    }
}

#[test]
fn an_image_has_what_is_shared_once() {
    let host = Host::new("alder");
    let (directory, program) = started(&host);
    let size = host
        .sh(&format!(
            "checkpoint --leave-running pid:{} | wc -c",
            program.pid
        ))
        .ok();
    let size: u64 = size.trim().parse().expect("a number");
    assert!(size < 250 << 20, "{size} bytes");
    is_whole(&directory, 0);
}

#[test]
fn workers_share_again_in_a_container_of_podmans() {
    let host = Podman::new("alder");
    let directory = host.path("prefork");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "-v {0}:{0} -v {1}:{1}:ro base sh -c 'exec python3 {1}/prefork.py {0}'",
        directory.display(),
        programs().display()
    );
    let container = host.run("prefork", &line);
    until("the workers", LONG, || {
        directory.join("ready").exists().then_some(())
    });
    let before = share(&container.program());
    let archive = container.taken("");
    let again = host.restored("-n again", &archive);
    in_common(before, share(&again.program()));
    is_whole(&directory, 0);
}

/// Huge pages that the host has set aside; as many as before afterwards.
struct Reserved(String);

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

impl Reserved {
    fn pages(count: u32) -> Self {
        let before = std::fs::read_to_string(HUGE_PAGES).expect("huge pages");
        std::fs::write(HUGE_PAGES, count.to_string()).expect("set huge pages aside");
        let now = std::fs::read_to_string(HUGE_PAGES).expect("huge pages");
        assert_eq!(
            now.trim(),
            count.to_string(),
            "the host has no memory for huge pages"
        );
        Reserved(before)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = std::fs::write(HUGE_PAGES, self.0.trim());
    }
}

#[test]
fn huge_pages_of_hugetlbfs_come_back_in_memory_files_and_segments() {
    // There and here at once.
    let reserved = Reserved::pages(96);
    let host = Host::new("alder");
    let (asked, mut program) = Asked::alone(&host, "hugetlb", "");
    for way in [Way::File, Way::Bare, Way::Directory] {
        program = Way::carry(way, &program, &host, "").0;
    }
    let file = host.path("archive").display().to_string();
    host.sh(&format!(
        "checkpoint --leave-running pid:{} > {file}",
        program.pid
    ))
    .ok();
    asked.is_whole();
    program.ends();
    drop(reserved);
    let traces = Traces::of(&host);
    let refused = host
        .sh(&format!("restore -n none --network none < {file}"))
        .fails_with(4);
    assert!(
        refused.stderr.contains("nr_hugepages"),
        "{}",
        refused.stderr
    );
    traces.assert_none_left(&host);
}
