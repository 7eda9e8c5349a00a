//! Images and archives of a real program between the tools: every form is read by every reader, what is inside is shown,
//! and what is damaged is refused.
#![forbid(unsafe_code)]

use ferry_tests::{Host, Program, programs};

/// A host with the program's bare image in `bare` and its archive in `archive`; the program runs on.
fn taken(host: &Host) -> Program<'_> {
    let directory = host.path("halfway");
    std::fs::create_dir(&directory).expect("make a directory");
    let line = format!(
        "/usr/bin/python3 {} {}",
        programs().join("halfway.py").display(),
        directory.display()
    );
    let program = Program::alone(host, "halfway", &line);
    program.says("ready");
    host.sh(&format!(
        "cd {0} && checkpoint --leave-running pid:{1} > bare && pack < bare > archive",
        host.path("").display(),
        program.pid
    ))
    .ok();
    program
}

/// A line of bash in the directory of the images.
fn here(host: &Host, line: &str) -> ferry_tests::Outcome {
    host.sh(&format!("cd {} && {line}", host.path("").display()))
}

#[test]
fn unpacked_an_archive_is_the_image_it_was_made_of() {
    let host = Host::new("alder");
    let _program = taken(&host);
    here(&host, "unpack < archive | cmp - bare").ok();
    here(
        &host,
        "pack -l 19 < bare > small && unpack --require-seal small | cmp - bare",
    )
    .ok();
    here(&host, "pack --level 3 bare | unpack | cmp - bare").ok();
    here(&host, "[ $(stat -c %s archive) -lt $(stat -c %s bare) ]").ok();
    here(&host, "unpack --require-seal < bare > /dev/null").fails_with(3);
}

#[test]
fn as_a_directory_it_is_private_and_packs_again() {
    let host = Host::new("alder");
    let _program = taken(&host);
    here(
        &host,
        "unpack -C one archive && unpack --directory two < bare && diff -r one two",
    )
    .ok();
    assert_eq!(here(&host, "stat -c %a one").ok(), "700");
    assert_eq!(here(&host, "find one -type f ! -perm 600").ok(), "");
    here(
        &host,
        "pack one > again && unpack < again | cmp - bare && verify one && verify again",
    )
    .ok();
    here(&host, "unpack -C one archive").fails_with(1);
}

#[test]
fn everybody_can_list_it_with_tar_and_zstd() {
    let host = Host::new("alder");
    let _program = taken(&host);
    let bare = here(&host, "tar -t < bare").ok();
    assert!(bare.starts_with("header.json\n"), "{bare}");
    assert!(
        bare.contains("tree.json") && bare.contains("process/1.json"),
        "{bare}"
    );
    let archive = here(&host, "zstd -dc < archive | tar -t | grep json").ok();
    assert!(archive.contains("process/1.json"), "{archive}");
}

#[test]
fn verify_says_whether_it_is_whole_and_shows_what_is_inside() {
    let host = Host::new("alder");
    let _program = taken(&host);
    here(
        &host,
        "verify archive && verify --require-seal < archive && verify bare && verify --host archive",
    )
    .ok();
    here(&host, "verify --require-seal bare").fails_with(3);
    let shown = here(&host, "verify --show < archive").ok();
    for word in ["python3", "cat", "pipe"] {
        assert!(shown.contains(word), "shows {word}: {shown}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&here(&host, "verify --show --json --stats stats archive").ok())
            .expect("JSON");
    assert!(json.is_object(), "{json}");
    here(&host, "verify --pass < archive | cmp - archive").ok();
    here(&host, "verify --pass < bare | cmp - bare").ok();
}

#[test]
fn a_damaged_one_is_refused_and_its_end_held_back() {
    let host = Host::new("alder");
    let _program = taken(&host);
    here(&host, "size=$(stat -c %s archive) && head -c $((size - 1)) archive > cut && cp archive flipped && \
         printf '\\377' | dd of=flipped bs=1 seek=$((size / 2)) conv=notrunc status=none && ! cmp -s flipped archive")
    .ok();
    for file in ["cut", "flipped"] {
        let outcome = here(&host, &format!("verify {file}")).fails_with(3);
        assert!(!outcome.stderr.is_empty());
        here(&host, &format!("unpack {file} > unpacked")).fails_with(3);
        here(&host, "verify unpacked").fails_with(3);
        here(&host, &format!("verify -q --pass < {file} > passed")).fails_with(3);
        here(&host, "verify passed").fails_with(3);
        here(&host, &format!("rm -rf d; unpack -C d {file}")).fails_with(3);
        here(&host, "[ ! -e d ]").ok();
    }
}

#[test]
fn the_tools_need_little_memory_whatever_the_size() {
    let host = Host::new("alder");
    let line = "/usr/bin/python3 -c 'import os,time; x=[os.urandom(1<<20) for _ in range(300)]; print(\"ready\",flush=True); time.sleep(1000)'";
    let program = Program::alone(&host, "large", line);
    program.says("ready");
    // RLIMIT_DATA in KiB: well below the 300 MB of the image.
    let limit = "ulimit -d 200000";
    here(
        &host,
        &format!("{limit}; checkpoint pid:{} > bare", program.pid),
    )
    .ok();
    here(
        &host,
        &format!("{limit}; pack < bare > archive && verify archive && unpack archive | cmp - bare"),
    )
    .ok();
    here(&host, "[ $(stat -c %s archive) -gt 300000000 ]").ok();
    here(&host, "restore --json < archive").ok();
}
