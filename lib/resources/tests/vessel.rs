//! Vessels made for real, looked at from outside, and gone without a trace. Each case is a process of its own, for a
//! vessel is made by a process with one thread, in network and mount namespaces of its own with an empty `/run`.

mod vessels;

use image::namespaces::Namespace;
use image::namespaces::mount::Mounts;
use image::namespaces::uts::Uts;
use image::rootfs::Rootfs;
use kernel::namespaces::{Kind, identity, own};
use kernel::proc::{Proc, mountinfo, stat};
use kernel::rtnetlink::Rtnetlink;
use kernel::{Pid, within};
use resources::container::Files;
use resources::namespaces::mount::Covered;
use resources::rootfs::Policy;
use resources::vessel::native::{self, Network, Options};
use resources::vessel::registry::{self, DIR};
use resources::vessel::{self, Vessel};
use std::fs;
use std::path::Path;
use std::process::{Command, exit};
use std::time::Duration;
use vessels::{
    container, end, kill, named, nothing_is_left, pour, prepare, process_1, subject, until,
};

type Case = (&'static str, fn());

const CASES: &[Case] = &[
    (
        "a_named_container_has_pids_mounts_and_an_address_of_its_own",
        a_named_container_has_pids_mounts_and_an_address_of_its_own,
    ),
    (
        "a_failed_restore_leaves_nothing",
        a_failed_restore_leaves_nothing,
    ),
    (
        "a_restore_killed_outright_leaves_nothing",
        a_restore_killed_outright_leaves_nothing,
    ),
    (
        "what_a_killed_keeper_left_is_cleaned_by_the_next_look",
        what_a_killed_keeper_left_is_cleaned_by_the_next_look,
    ),
    (
        "replicas_get_addresses_of_their_own_and_reach_each_other",
        replicas_get_addresses_of_their_own_and_reach_each_other,
    ),
    ("a_name_is_given_once", a_name_is_given_once),
    (
        "the_init_ends_as_the_root_does_and_hands_signals_on",
        the_init_ends_as_the_root_does_and_hands_signals_on,
    ),
    (
        "a_tree_of_the_hosts_gets_its_very_pid",
        a_tree_of_the_hosts_gets_its_very_pid,
    ),
    (
        "a_directory_becomes_the_root_with_devices_and_proc",
        a_directory_becomes_the_root_with_devices_and_proc,
    ),
    ("names_and_clocks_go_on", names_and_clocks_go_on),
    ("networks_of_three_kinds", networks_of_three_kinds),
    (
        "a_root_file_system_and_tmpfs_travel_whole",
        a_root_file_system_and_tmpfs_travel_whole,
    ),
];

/// A harness of a few lines: the cases named on the command line, or all.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = &arguments[..]
        && flag == "--case"
    {
        let case = CASES.iter().find(|(n, _)| n == name).unwrap();
        prepare();
        case.1();
        nothing_is_left();
        return;
    }
    if arguments.iter().any(|a| a == "--list") {
        // None of them is to be ignored.
        let ignored = arguments.iter().any(|a| a == "--ignored");
        let listed = if ignored { &[][..] } else { CASES };
        listed.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let own = std::env::current_exe().unwrap();
    let mut failed = 0;
    for (name, _) in CASES {
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(*f)) {
            continue;
        }
        let mut run = Command::new("timeout");
        run.args(["-s", "KILL", "30", "unshare", "-m", "-n"]);
        let ended = run.arg(&own).args(["--case", name]).status().unwrap();
        println!(
            "test {name} ... {}",
            if ended.success() { "ok" } else { "FAILED" }
        );
        failed += i32::from(!ended.success());
    }
    exit(if failed > 0 { 101 } else { 0 });
}

fn a_named_container_has_pids_mounts_and_an_address_of_its_own() {
    let vessel = native::make(&container(4711), &named("a")).unwrap();
    let pid = vessel.pid();
    for kind in Kind::ALL {
        let is_own = [Kind::Mount, Kind::Network, Kind::Pid].contains(&kind);
        assert_eq!(
            identity(pid, kind).unwrap() != own(kind).unwrap(),
            is_own,
            "{kind:?}"
        );
    }
    let address = vessel.addresses()[0];
    assert_eq!(vessel.changed(), [("192.0.2.77".parse().unwrap(), address)]);
    let (first, root) = pour(vessel, 4711, "exec sleep 100");
    assert_eq!(first, pid);
    let inside = kernel::proc::status::read(root)
        .unwrap()
        .numbers("NSpid")
        .unwrap();
    assert_eq!(inside, [i64::from(root), 4711]);
    let proc = mountinfo::read(root).unwrap();
    assert_eq!(proc.iter().filter(|m| m.mountpoint == b"/proc").count(), 2);
    let (links, addresses, routes) = within(root, &[kernel::Namespace::Net], || {
        let mut rt = Rtnetlink::open().unwrap();
        (
            rt.links().unwrap(),
            rt.addresses().unwrap(),
            rt.routes().unwrap(),
        )
    })
    .unwrap();
    assert!(links.iter().all(|l| l.up) && links.iter().any(|l| l.name == "eth0"));
    assert!(
        addresses
            .iter()
            .any(|a| a.address == address && a.prefix == 20)
    );
    assert!(
        routes
            .iter()
            .any(|r| r.destination.is_none() && r.gateway.is_some())
    );
    let ping = Command::new("ip")
        .args(["netns", "exec", "a", "true"])
        .status();
    assert!(ping.unwrap().success());
    let entry = registry::find("a").unwrap();
    assert_eq!((entry.root.unwrap().pid, entry.init), (root, true));
    assert_eq!(entry.addresses, [address]);
    let mode = fs::metadata(format!("{DIR}/a.json")).unwrap().permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o600
    );
    assert_eq!(Proc::process(first).text("comm").unwrap(), "ferry: a\n");
    end(first);
    until("the root ends with process 1", || stat::read(root).is_err());
}

fn a_failed_restore_leaves_nothing() {
    let vessel = native::make(&container(4711), &named("a")).unwrap();
    let pid = vessel.pid();
    drop(vessel);
    assert!(stat::read(pid).is_err());
    nothing_is_left();
    // In the middle of it: the record asks for a mount that cannot be.
    let mut container = process_1();
    let found =
        resources::namespaces::mount::dump(std::process::id() as Pid, None, Files::default(), &[])
            .unwrap();
    let mut mounts: Mounts = found.mounts;
    let mut bad = mounts.mounts[0].clone();
    bad.mountpoint = "/not/here".into();
    bad.fstype = "tmpfs".into();
    bad.origin = image::namespaces::mount::Origin::Tmpfs { tree: 0 };
    mounts.mounts.push(bad);
    container.namespaces.mount = Namespace::Own(mounts);
    let error = native::make(&container, &named("b"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("/not/here"), "{error}");
}

fn a_restore_killed_outright_leaves_nothing() {
    for round in 0..40 {
        // A process of ours that makes a vessel and dies without a word, at any moment.
        let child = match kernel::namespaces::fork(&Default::default()).unwrap() {
            kernel::namespaces::Forked::Child => {
                let vessel = native::make(&container(4711), &named("a"));
                fs::write("/run/pid", vessel.unwrap().pid().to_string()).unwrap();
                kill(std::process::id() as Pid, libc::SIGKILL);
                kernel::namespaces::leave(1);
            }
            kernel::namespaces::Forked::Parent(child) => child,
        };
        if round > 0 {
            std::thread::sleep(Duration::from_micros(round * 500));
            let _ = child.signal(libc::SIGKILL);
        }
        assert_eq!(vessel::wait(child.pid()).unwrap(), 128 + libc::SIGKILL);
        if let Ok(pid) = fs::read_to_string("/run/pid") {
            let pid: Pid = pid.parse().unwrap();
            until("process 1 dies with its tracer", || {
                !stat::read(pid).is_ok_and(|s| s.state != 'Z')
            });
            fs::remove_file("/run/pid").unwrap();
        }
        nothing_is_left();
    }
}

fn what_a_killed_keeper_left_is_cleaned_by_the_next_look() {
    let vessel = native::make(&process_1(), &named("a")).unwrap();
    let (first, _) = pour(vessel, 1, "exec sleep 100");
    let keeper = registry::find("a").unwrap().keeper;
    end(keeper.pid);
    end(first);
    assert!(Path::new(DIR).join("a.json").exists());
    assert!(registry::find("a").is_err());
}

fn replicas_get_addresses_of_their_own_and_reach_each_other() {
    let mut made = Vec::new();
    for name in ["hello1", "hello2", "hello3"] {
        let vessel = native::make(&container(4711), &named(name)).unwrap();
        made.push((
            vessel.addresses()[0],
            pour(vessel, 4711, "exec sleep 100").0,
        ));
    }
    let mut distinct: Vec<_> = made.iter().map(|(address, _)| *address).collect();
    distinct.dedup();
    assert_eq!(distinct.len(), 3);
    let (there, pid) = (made[1].0, made[1].1);
    let listener = within(pid, &[kernel::Namespace::Net], || {
        std::net::TcpListener::bind((there, 80)).unwrap()
    })
    .unwrap();
    within(made[0].1, &[kernel::Namespace::Net], || {
        std::net::TcpStream::connect((there, 80)).unwrap();
    })
    .unwrap();
    // And from the host.
    std::net::TcpStream::connect((there, 80)).unwrap();
    drop(listener);
    for (_, pid) in made {
        end(pid);
    }
}

fn a_name_is_given_once() {
    let vessel = native::make(&process_1(), &named("a")).unwrap();
    let error = native::make(&process_1(), &named("a")).unwrap_err();
    assert!(matches!(error, resources::Error::Name(_)), "{error}");
    assert!(registry::find("a").is_err(), "it does not run yet");
    drop(vessel);
    let again = native::make(&process_1(), &named("a")).unwrap();
    drop(again);
    for bad in ["../a", "a/b", ""] {
        assert!(native::make(&process_1(), &named(bad)).is_err());
    }
}

fn the_init_ends_as_the_root_does_and_hands_signals_on() {
    let vessel = native::make(&container(4711), &named("a")).unwrap();
    let script = "trap 'exit 7' TERM; echo ready > /run/ready; while :; do sleep 0.01; done";
    let (first, _) = pour(vessel, 4711, script);
    until("it runs", || Path::new("/run/ready").exists());
    kill(first, libc::SIGTERM);
    assert_eq!(vessel::wait(first).unwrap(), 7);
    // Orphans are reaped, and do not end it.
    let vessel = native::make(&container(4711), &named("b")).unwrap();
    let script = "(sleep 0.05 & ) ; sleep 0.2; [ $(ls -d /proc/[0-9]* | wc -l) = 5 ] || ls -d /proc/[0-9]*; kill -9 $$";
    let (first, _) = pour(vessel, 4711, script);
    assert_eq!(vessel::wait(first).unwrap(), 128 + libc::SIGKILL);
}

fn a_tree_of_the_hosts_gets_its_very_pid() {
    let free = 1_000_000 / 32 + (std::process::id() as Pid % 500);
    let vessel = native::make(&container(free), &Options::default()).unwrap();
    assert_eq!(
        (vessel.pid(), vessel.is_init(), vessel.name()),
        (free, false, None)
    );
    assert!(!Path::new(DIR).exists());
    let error = native::make(&container(free), &Options::default()).unwrap_err();
    assert!(matches!(error, resources::Error::Name(_)), "{error}");
    let (pid, _) = pour(vessel, free, "exit 3");
    assert_eq!(vessel::wait(pid).unwrap(), 3);
}

fn a_directory_becomes_the_root_with_devices_and_proc() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    for name in ["bin", "lib", "lib64", "usr", "out"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let options = Options {
        rootfs: Some(dir.path().into()),
        ..named("a")
    };
    let vessel = native::make(&process_1(), &options).unwrap();
    vessel.settle().unwrap();
    let pid = vessel.pid();
    let mounts = mountinfo::read(pid).unwrap();
    let at = |place: &[u8]| mounts.iter().find(|m| m.mountpoint == place).unwrap();
    assert_eq!(at(b"/proc").fstype, "proc");
    assert_eq!(at(b"/dev/pts").fstype, "devpts");
    assert!(at(b"/sys").options.contains(&"ro".into()));
    assert_eq!(at(b"/dev/null").fstype, "devtmpfs");
    let root = format!("/proc/{pid}/root");
    assert!(Path::new(&root).join("out").is_dir());
    assert!(!Path::new(&root).join("etc").exists());
    assert!(Path::new(&root).join("proc/1/status").exists());
    drop(vessel);
    assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 0);
}

fn names_and_clocks_go_on() {
    let mut container = process_1();
    container.namespaces.uts = Namespace::Own(Uts {
        hostname: "web-7".into(),
        domainname: "example".into(),
    });
    let day = 86_400_000_000_000;
    let options = Options {
        clocks: Some(resources::namespaces::time::Clocks {
            monotonic: 1000 * day,
            boottime: 1001 * day,
        }),
        ..named("a")
    };
    let vessel = native::make(&container, &options).unwrap();
    let taken = resources::container::dump(&subject(vessel.pid(), "a", false)).unwrap();
    assert_eq!(taken.namespaces.uts, container.namespaces.uts);
    assert_eq!(taken.root, 1);
    assert!(taken.namespaces.time.own().is_some());
    assert!(taken.namespaces.network.own().unwrap().links.len() == 2);
    assert_eq!(taken.addresses, vessel.addresses());
    let script =
        "hostname > /run/name; read up rest < /proc/uptime; echo $up > /run/up; exec sleep 100";
    let (pid, _) = pour(vessel, 1, script);
    until("it writes", || {
        fs::read_to_string("/run/up").is_ok_and(|t| t.ends_with('\n'))
    });
    assert_eq!(fs::read_to_string("/run/name").unwrap(), "web-7\n");
    let up = fs::read_to_string("/run/up").unwrap();
    let days = up.trim().parse::<f64>().unwrap() / 86400.0;
    assert!((1001.0..1001.1).contains(&days), "{days}");
    end(pid);
}

fn networks_of_three_kinds() {
    let with = |network| Options {
        network: Some(network),
        ..named("a")
    };
    let vessel = native::make(&process_1(), &with(Network::Host)).unwrap();
    assert_eq!(
        identity(vessel.pid(), Kind::Network).unwrap(),
        own(Kind::Network).unwrap()
    );
    assert!(vessel.addresses().is_empty());
    drop(vessel);
    let vessel = native::make(&process_1(), &with(Network::None)).unwrap();
    let links = within(vessel.pid(), &[kernel::Namespace::Net], || {
        Rtnetlink::open().unwrap().links().unwrap()
    })
    .unwrap();
    assert!(links.len() == 1 && links[0].up);
    drop(vessel);
    // What was on the bridge comes back under its address without a name, and nobody else gets it meanwhile.
    let first = native::make(&process_1(), &with(Network::Bridge)).unwrap();
    let mut taken = resources::container::dump(&subject(first.pid(), "a", false)).unwrap();
    let address = first.addresses()[0];
    taken.namespaces.mount = Namespace::Host;
    let error = native::make(&taken, &Options::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("taken"), "{error}");
    drop(first);
    let again = native::make(&taken, &Options::default()).unwrap();
    assert_eq!(again.addresses(), [address]);
    assert!(again.changed().is_empty());
    drop(again);
}

/// Everything `find` and `getfattr`-less tools can tell about a tree: names, types, owners, modes, sizes, blocks of
/// sparse files, link counts, times, targets.
fn survey(root: &str) -> String {
    let format = "%P\\t%y\\t%m\\t%U\\t%G\\t%s\\t%n\\t%T@\\t%l\\n";
    let found = Command::new("find")
        .args([root, "-xdev", "-printf", format])
        .output()
        .unwrap();
    let text = String::from_utf8(found.stdout).unwrap();
    // proc is a mount of its own: its time is that of its making.
    let lines = text.lines().filter(|l| !l.starts_with("proc\t"));
    // Sizes and link counts of directories are the file system's own business.
    let mut lines: Vec<String> = lines
        .map(|l| {
            let fields: Vec<&str> = l.split('\t').collect();
            let keep = |i: &usize| fields[1] != "d" || ![5, 6].contains(i);
            let kept = fields
                .iter()
                .enumerate()
                .filter(|(i, _)| keep(i))
                .map(|(_, f)| *f);
            kept.collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

fn a_root_file_system_and_tmpfs_travel_whole() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let top = dir.path();
    let build = r#"
        cd "$1"; mkdir -p bin usr/deep/er var 'sp ace'; echo hello > usr/a; ln usr/a usr/deep/b; ln -s ../gone usr/link
        head -c 3000000 /dev/urandom > var/big; truncate -s 40M var/sparse
        printf x | dd of=var/sparse bs=1 seek=20000000 conv=notrunc 2>/dev/null
        mkfifo var/fifo; mknod var/node c 1 3; chown 7:8 usr/a; chmod 4755 var/big; chmod 1777 var
        touch -h -d @1000000000.5 usr/link var/big usr/deep usr "sp ace"
    "#;
    let built = Command::new("bash")
        .args(["-ec", build, "-"])
        .arg(top)
        .status();
    assert!(built.unwrap().success());
    let file = fs::File::open(top.join("var/big")).unwrap();
    let fd = std::os::fd::AsFd::as_fd(&file);
    kernel::xattr::set(fd, "trusted.colour".as_ref(), b"blue").unwrap();
    let options = Options {
        rootfs: Some(top.into()),
        ..named("a")
    };
    let source = native::make(&process_1(), &options).unwrap();
    let shm = format!("/proc/{}/root/dev/shm", source.pid());
    fs::write(format!("{shm}/note"), "in memory").unwrap();
    source.settle().unwrap();

    let taken = resources::container::dump(&subject(source.pid(), "a", true)).unwrap();
    assert_eq!(taken.rootfs, Rootfs::Travels);
    let blocked =
        resources::container::blockers(&subject(source.pid(), "a", true), &[source.pid()]).unwrap();
    assert_eq!(blocked, []);
    let header = image::Header::new("test", "a", "0");
    let mut writer = image::Writer::new(Vec::new(), &header).unwrap();
    resources::rootfs::dump(source.pid(), &taken, &mut writer).unwrap();
    let image = writer.finish().unwrap();
    assert!(
        image.len() < 8 << 20,
        "holes do not travel: {}",
        image.len()
    );

    let copy = native::make(&taken, &named("b")).unwrap();
    let mut pour =
        resources::rootfs::Pour::new(copy.pid(), &taken, &Policy::default(), &Covered::new())
            .unwrap();
    let mut reader = image::Reader::open(std::io::Cursor::new(image)).unwrap();
    while let Some(mut entry) = reader.next().unwrap() {
        if *entry.kind() == image::Kind::Member {
            let member = entry.member().unwrap().clone();
            pour.member(&member, &mut entry).unwrap();
        }
    }
    pour.finish().unwrap();
    copy.settle().unwrap();
    let (old, new) = (
        format!("/proc/{}/root", source.pid()),
        format!("/proc/{}/root", copy.pid()),
    );
    assert_eq!(survey(&format!("{new}/")), survey(&format!("{old}/")));
    let same = Command::new("cmp")
        .args([&old, &new].map(|r| format!("{r}/var/big")))
        .status();
    assert!(same.unwrap().success());
    let file = fs::File::open(format!("{new}/var/big")).unwrap();
    let found = kernel::xattr::all(std::os::fd::AsFd::as_fd(&file)).unwrap();
    assert_eq!(found[std::ffi::OsStr::new("trusted.colour")], b"blue");
    assert_eq!(
        fs::read_to_string(format!("{new}/dev/shm/note")).unwrap(),
        "in memory"
    );
    use std::os::unix::fs::MetadataExt;
    let sparse = fs::metadata(format!("{new}/var/sparse")).unwrap();
    assert!(sparse.len() == 40 << 20 && sparse.blocks() < 1000);
    let mounted = |pid| {
        let all = mountinfo::read(pid).unwrap().into_iter();
        all.map(|m| (m.mountpoint, m.fstype, m.options))
            .collect::<Vec<_>>()
    };
    assert_eq!(mounted(copy.pid())[1..], mounted(source.pid())[1..]);
    // A directory that the user names is not written to.
    let other = tempfile::tempdir_in("/tmp").unwrap();
    let options = Options {
        rootfs: Some(other.path().into()),
        ..named("c")
    };
    let named = native::make(&taken, &options).unwrap();
    let mut pour =
        resources::rootfs::Pour::new(named.pid(), &taken, &Policy::default(), &Covered::new())
            .unwrap();
    let member = image::Member::new("rootfs/file", image::MemberKind::Regular { size: 0 });
    pour.member(&member, &mut std::io::empty()).unwrap();
    assert!(!other.path().join("file").exists());
    drop(named);
    assert!(Path::new("/var/lib/ferry/b").is_dir());
    // And once more, from the copy.
    let again = resources::container::dump(&subject(copy.pid(), "b", false)).unwrap();
    assert_eq!(again.rootfs, Rootfs::Travels);
    drop((source, copy));
}
