//! Mounts that a container has from elsewhere: what takes their place on another host, and what is in the way.
#![forbid(unsafe_code)]

use ferry_tests::{Host, Program, Restored, Way};

/// A program that has a file of its tmpfs at `/DIRECTORY/data` open, and says what is in another one when it is told.
fn reader<'h>(host: &'h Host, directory: &str, mounts: &str) -> Program<'h> {
    let script = host.path("inside");
    std::fs::write(
        &script,
        format!(
            "mount --make-rprivate /\n{mounts}\necho mounted\n\
             while ! test -e {directory}/go; do sleep 0.01; done\ncat {directory}/data/name\nsleep 1000\n"
        ),
    )
    .expect("write the script");
    let line = format!("unshare --mount bash {}", script.display());
    let program = Program::shared(host, "program", &line);
    program.says("mounted");
    program
}

fn told(host: &Host, program: &Program, directory: &str, pid: i32) -> String {
    let program = program.moved(host, pid);
    std::fs::write(format!("{directory}/go"), "").expect("tell it");
    let said = program.says("here");
    said.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn another_directory_takes_the_place_of_one_of_the_hosts() {
    let host = Host::new("alder");
    let directory = host.path("d").display().to_string();
    for name in ["data", "there", "here"] {
        std::fs::create_dir_all(format!("{directory}/{name}")).expect("make a directory");
        let text = format!("it is {name}\n");
        std::fs::write(format!("{directory}/{name}/name"), text).expect("write a name");
    }
    let mounts = format!("mount --bind {directory}/there {directory}/data");
    let program = reader(&host, &directory, &mounts);
    let image = host.path("image").display().to_string();
    host.sh(&format!("checkpoint pid:{} > {image}", program.pid))
        .ok();
    std::fs::remove_dir_all(format!("{directory}/there")).expect("remove it");
    let missing = host.sh(&format!("restore < {image}")).fails_with(1);
    let remedy = format!("--mount {directory}/data=PATH");
    assert!(missing.stderr.contains(&remedy), "{}", missing.stderr);
    let nothing = host
        .sh(&format!("restore --mount /nowhere=/srv < {image}"))
        .fails_with(1);
    assert!(nothing.stderr.contains("had nothing mounted there"));
    host.sh(&format!("restore --mount nowhere < {image}"))
        .fails_with(2);
    let line = format!("restore --json --mount {directory}/data={directory}/here < {image}");
    let restored = Restored::read(&host.sh(&line).ok());
    let said = told(&host, &program, &directory, restored.pid);
    assert_eq!(said, "it is here");
}

#[test]
fn what_no_host_can_make_again_stays_behind_when_asked_to() {
    let host = Host::new("alder");
    let directory = host.path("d").display().to_string();
    for name in ["data", "low", "here"] {
        std::fs::create_dir_all(format!("{directory}/{name}")).expect("make a directory");
    }
    std::fs::write(format!("{directory}/here/name"), "it is here\n").expect("write a name");
    // An overlay of a directory without a whole name stands for file systems of devices, of FUSE and the like.
    let mounts = format!("cd {directory}; mount -t overlay -o lowerdir=low:here none data");
    let program = reader(&host, &directory, &mounts);
    let refused = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    assert!(
        refused.stderr.contains("relative path"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("checkpoint --mount"),
        "{}",
        refused.stderr
    );
    program.runs_free();
    host.sh(&format!(
        "checkpoint --mount /nowhere pid:{} > /dev/null",
        program.pid
    ))
    .fails_with(1);
    let image = host.path("image").display().to_string();
    host.sh(&format!(
        "checkpoint --mount {directory}/data pid:{} > {image}",
        program.pid
    ))
    .ok();
    let refused = host.sh(&format!("restore < {image}")).fails_with(4);
    assert!(
        refused.stderr.contains("that stayed behind"),
        "{}",
        refused.stderr
    );
    let line = format!("restore --json --mount {directory}/data={directory}/here < {image}");
    let restored = Restored::read(&host.sh(&line).ok());
    let said = told(&host, &program, &directory, restored.pid);
    assert_eq!(said, "it is here");
}

#[test]
fn a_directory_of_a_mount_that_was_taken_off_is_named() {
    let host = Host::new("alder");
    let directory = host.path("d").display().to_string();
    std::fs::create_dir_all(format!("{directory}/data")).expect("make a directory");
    let mounts = format!(
        "mount -t tmpfs none {directory}/data; exec 7< {directory}/data; umount -l {directory}/data"
    );
    let program = reader(&host, &directory, &mounts);
    let refused = host
        .sh(&format!("checkpoint pid:{} > /dev/null", program.pid))
        .fails_with(4);
    assert!(
        refused.stderr.contains("descriptor 7"),
        "{}",
        refused.stderr
    );
    program.runs_free();
}

#[test]
fn files_of_a_mount_that_was_taken_off_are_on_one_again() {
    let host = Host::new("alder");
    let directory = host.path("d").display().to_string();
    std::fs::create_dir_all(format!("{directory}/data")).expect("make a directory");
    let script = host.path("inside");
    let text = format!(
        "mount -t tmpfs none {directory}/data; cd {directory}; mkdir data/in; echo one > data/name; echo two > data/in/name\n\
         exec 7<> data/name 8< data/in/name; read -N 1 -u 7; umount -l data; echo mounted\n\
         while ! test -e {directory}/go; do sleep 0.01; done\n\
         cat <&7; cat <&8; echo three >&7; readlink /proc/$$/fd/7 /proc/$$/fd/8; stat -L -c %h /proc/$$/fd/[78]\n\
         stat -L -c %d /proc/$$/fd/[78] | uniq | wc -l; cat /proc/$$/fd/7; ls data; echo end; sleep 1000\n"
    );
    std::fs::write(&script, text).expect("write the script");
    let line = format!("unshare --mount bash {}", script.display());
    let mut program = Program::alone(&host, "program", &line);
    program.says("mounted");
    for way in [Way::File, Way::Pipe, Way::Bare] {
        program = Way::carry(way, &program, &host, "").0;
    }
    std::fs::write(format!("{directory}/go"), "").expect("tell it");
    let said = program.says("end");
    let wanted = "ne\ntwo\n/name\n/in/name\n1\n1\n1\none\nthree\nend\n";
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn what_took_from_the_host_takes_from_it_again() {
    let host = Host::new("alder");
    let shared = host.path("shared").display().to_string();
    host.sh(&format!(
        "mkdir -p {shared}/data {shared}/own; mount --bind {shared} {shared}; mount --make-shared {shared}"
    ))
    .ok();
    let script = host.path("inside");
    let text = format!(
        "mount -t tmpfs none {shared}/own; echo mounted\nwhile ! test -e {shared}/go; do sleep 0.01; done\n\
         cat {shared}/data/name; grep -c ' {shared} .* master:' /proc/self/mountinfo\n\
         grep ' {shared}/own ' /proc/self/mountinfo | grep -c master:; echo end; sleep 1000\n"
    );
    std::fs::write(&script, text).expect("write the script");
    let line = format!(
        "unshare --mount --propagation slave bash {}",
        script.display()
    );
    let mut program = Program::shared(&host, "program", &line);
    program.says("mounted");
    for way in [Way::File, Way::File] {
        program = Way::carry(way, &program, &host, "").0;
    }
    host.sh(&format!(
        "mount -t tmpfs none {shared}/data; echo of the host > {shared}/data/name; touch {shared}/go"
    ))
    .ok();
    let said = program.says("end");
    assert!(said.ends_with("of the host\n1\n0\nend\n"), "{said}");
    let seen = host.sh("cat /proc/self/mountinfo").ok();
    assert!(!seen.contains(&format!("{shared}/own")), "{}", seen);
}

#[test]
fn pinned_objects_are_named() {
    let host = Host::new("alder");
    let directory = host.path("d").display().to_string();
    std::fs::create_dir_all(format!("{directory}/data")).expect("make a directory");
    let mounts = format!("mount -t bpf none {directory}/data; mkdir {directory}/data/pinned");
    let program = reader(&host, &directory, &mounts);
    let line = format!("checkpoint pid:{} > /dev/null", program.pid);
    let refused = host.sh(&line).fails_with(4);
    let words = "objects pinned in a file system for BPF";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    assert!(host.lives(program.pid));
}
