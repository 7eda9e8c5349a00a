use super::*;

const HOST: &[u8] = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
    24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,mode=755\n\
    27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
    28 27 0:25 / /run rw - tmpfs tmpfs rw\n";

fn sorted(container: &[u8], travels: bool) -> Found {
    let files = Files {
        with_image: travels,
        ..Files::default()
    };
    sorted_with(container, HOST, files, None)
}

fn sorted_with(
    container: &[u8],
    host: &[u8],
    files: Files,
    configuration: Option<&Configuration>,
) -> Found {
    let [container, host] = [container, host].map(|text| mountinfo::parse(text).unwrap());
    let read = |path: &Path| {
        let is_file = path.extension().is_some() || path.ends_with("hosts");
        Ok(is_file.then(|| path.as_os_str().as_bytes().to_vec()))
    };
    let mut sorter = Sorter {
        host: &host,
        foreign: HashSet::new(),
        files,
        outside: &[],
        engine: engine::Mounts::new(configuration, &read),
        brought: BTreeMap::new(),
        trees: 0,
        covered: true,
    };
    sort(7, container, &mut sorter)
}

fn origins(found: &Found) -> Vec<(String, Origin)> {
    let mounts = found.mounts.mounts.iter();
    mounts
        .map(|m| (m.mountpoint.to_string(), m.origin.clone()))
        .collect()
}

#[test]
fn a_copy_of_the_hosts_mounts_is_the_hosts_but_for_what_was_added() {
    let found = sorted(
        b"90 80 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
        91 90 0:21 / /proc rw,relatime - proc proc rw\n\
        92 91 0:50 / /proc rw,nosuid - proc proc rw\n\
        93 90 0:25 / /run rw - tmpfs tmpfs rw\n\
        94 90 0:51 / /mnt rw - tmpfs none rw,size=4k\n\
        95 90 254:0 /srv/data /opt ro - ext4 /dev/vda rw,discard\n\
        96 94 0:51 /a /media rw - tmpfs none rw,size=4k\n",
        true,
    );
    assert_eq!(found.rootfs, Rootfs::Host);
    assert!(found.blockers.is_empty());
    let all = origins(&found);
    let opt = Name::from("/srv/data");
    for wanted in [
        ("/", Origin::Host),
        ("/proc", Origin::Host),
        ("/proc", Origin::Fresh),
        ("/run", Origin::Host),
        ("/opt", Origin::Bind { path: opt }),
        ("/mnt", Origin::Tmpfs { tree: 0 }),
        ("/media", Origin::Again { mount: MountId(94) }),
    ] {
        assert!(all.contains(&(wanted.0.into(), wanted.1)), "{all:?}");
    }
    assert_eq!(all.len(), 7);
}

#[test]
fn an_overlay_of_its_own_is_made_again_where_its_directories_have_whole_names() {
    let found = sorted(
        b"90 80 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
        94 90 0:51 / /mnt rw shared:7 - tmpfs none rw\n\
        95 90 0:52 / /a rw - overlay o rw,lowerdir=/mnt/l:/mnt/k,upperdir=/mnt/u,workdir=/mnt/w\n\
        96 90 0:53 / /b rw - overlay o rw,lowerdir=mnt/l\n\
        97 90 0:51 /a /c rw shared:8 master:7 - tmpfs none rw\n\
        98 90 0:51 /b /d rw shared:8 master:7 - tmpfs none rw\n\
        99 90 0:54 / /auto rw - autofs systemd-1 rw,fd=5\n",
        false,
    );
    let all = origins(&found);
    assert!(all.contains(&("/a".into(), Origin::Overlay {})));
    let blocked: Vec<_> = found.blockers.iter().map(|b| &*b.place).collect();
    // Of group 8 none shows what both show; the first may begin it.
    assert_eq!(blocked, ["mount at /b", "mount at /auto", "mount at /d"]);
    let slave = found.mounts.mounts.iter().find(|m| m.id == MountId(97));
    let groups = slave.map(|m| (m.peers, m.master));
    assert_eq!(groups, Some((Some(8), Some(7))));
}

#[test]
fn what_nobody_reaches_is_known() {
    let text = b"90 80 254:0 / / rw - ext4 /dev/vda rw\n\
        91 90 0:50 / /a rw - tmpfs a rw\n\
        92 91 0:51 / /a/under rw - tmpfs b rw\n\
        93 91 0:52 / /a rw - tmpfs c rw\n\
        94 93 0:53 / /a/over rw - tmpfs d rw\n\
        95 90 0:54 / /way/in rw - tmpfs e rw\n\
        96 90 0:55 / /way rw - tmpfs f rw\n";
    let mounts = in_order(mountinfo::parse(text).unwrap());
    assert_eq!(covered(&mounts), BTreeSet::from([91, 92, 95]));
}

#[test]
fn what_covers_is_made_after_what_it_covers() {
    // As a copy of a mount namespace may have it: the ids say nothing of the order.
    let text = b"90 80 254:0 / / rw - ext4 /dev/vda rw\n\
        91 90 0:56 / /way rw - tmpfs f rw\n\
        92 91 0:57 / /way/in rw - tmpfs g rw\n\
        93 90 0:54 / /way/in rw - tmpfs e rw\n\
        94 93 0:53 / /way/in/deep rw - tmpfs d rw\n\
        95 90 0:58 / /way-in rw - tmpfs h rw\n\
        96 97 0:60 / /a/x rw - tmpfs b rw\n\
        97 90 0:59 / /a rw - tmpfs a rw\n";
    let mounts = in_order(mountinfo::parse(text).unwrap());
    let ids: Vec<u32> = mounts.iter().map(|m| m.id).collect();
    assert_eq!(ids, [90, 93, 94, 95, 97, 91, 92, 96]);
    assert_eq!(covered(&mounts), BTreeSet::from([93, 94]));
}

#[test]
fn a_covered_mount_travels_with_what_is_in_it_or_not_at_all() {
    let found = sorted(
        b"90 80 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
        91 90 0:50 / /a rw - tmpfs a rw\n\
        92 91 0:51 / /a/sub rw - tmpfs b rw\n\
        93 91 0:52 / /a rw - tmpfs c rw\n\
        94 90 254:0 /srv /b rw - ext4 /dev/vda rw\n\
        95 94 0:53 / /b rw - tmpfs d rw\n\
        96 90 8:1 / /c rw - ext4 /dev/sda1 rw\n\
        97 96 0:54 / /c/sub rw - tmpfs e rw\n\
        98 96 0:55 / /c rw - tmpfs f rw\n",
        false,
    );
    assert_eq!(found.blockers, []);
    let all = found.mounts.mounts.iter().map(|m| (m.id.0, m.covered));
    let wanted = [
        (90, false),
        (91, true),
        (92, true),
        (93, false),
        (94, true),
        (95, false),
        (98, false),
    ];
    assert_eq!(all.collect::<Vec<_>>(), wanted);
}

#[test]
fn a_root_of_its_own_is_a_directory_of_the_hosts_or_travels() {
    let text = b"90 80 254:0 /srv/root / rw,relatime - ext4 /dev/vda rw,discard\n\
        91 90 0:50 / /proc rw - proc proc rw\n\
        92 91 0:50 /sys /proc/sys ro - proc proc rw\n\
        93 90 0:6 /null /dev/null rw - devtmpfs devtmpfs rw,mode=755\n\
        94 90 0:25 / /run ro - tmpfs tmpfs rw\n";
    let found = sorted(text, false);
    assert_eq!(found.rootfs, Rootfs::Directory(Name::from("/srv/root")));
    assert_eq!(sorted(text, true).rootfs, Rootfs::Travels);
    let path = Name::from("/dev/null");
    let all = origins(&found);
    assert!(all.contains(&("/".into(), Origin::Root)));
    assert!(all.contains(&("/proc".into(), Origin::Fresh)));
    assert!(all.contains(&("/dev/null".into(), Origin::Bind { path })));
    let path = Name::from("/run");
    assert!(all.contains(&("/run".into(), Origin::Bind { path })));
    assert!(all.contains(&("/proc/sys".into(), Origin::Again { mount: MountId(91) })));
    let kept = sorted(
        b"90 80 254:0 /var/lib/ferry/a / rw - ext4 /dev/vda rw\n",
        false,
    );
    assert_eq!(kept.rootfs, Rootfs::Travels);
}

fn podman() -> Configuration {
    let volume = |name: &str, destination: &str| image::engine::Volume {
        name: name.into(),
        anonymous: false,
        destination: destination.into(),
        driver: "local".into(),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
    };
    Configuration {
        engine: image::container::Engine::Podman,
        version: "4.3.1".into(),
        id: "34".repeat(32),
        command: vec![],
        inspect: serde_json::Value::Null,
        spec: serde_json::Value::Null,
        image: None,
        networks: vec![],
        volumes: vec![volume("store", "/data"), volume("more", "/more")],
        terminal: false,
    }
}

#[test]
fn mounts_of_an_engine_are_told_from_the_users() {
    let id = "34".repeat(32);
    let container = format!(
        "149 95 0:43 / / rw - overlay overlay rw,lowerdir=/s/l/IO:/s/l/AB,upperdir=/s/o/db/diff,workdir=/s/o/db/work\n\
        151 149 254:0 /s/volumes/store/_data /data rw - ext4 /dev/vda rw\n\
        152 149 254:0 /s/volumes/store/_data/x /again rw - ext4 /dev/vda rw\n\
        153 149 0:48 / /dev rw - tmpfs tmpfs rw,size=65536k,mode=755\n\
        154 149 254:0 /s/volumes/more/_data /more rw - ext4 /dev/vda rw\n\
        155 149 254:0 /srv /srv ro - ext4 /dev/vda rw\n\
        161 149 254:0 /r/overlay-containers/{id}/userdata/hosts /etc/hosts rw - ext4 /dev/vda rw\n\
        162 153 0:42 / /dev/shm rw - tmpfs shm rw,size=64000k\n\
        163 149 254:0 /r/overlay-containers/{id}/userdata/run/secrets /run/secrets rw - ext4 /dev/vda rw\n\
        164 149 254:0 /r/overlay-containers/{}/userdata/hosts /other rw - ext4 /dev/vda rw\n",
        "ab".repeat(32)
    );
    let host = format!(
        "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
        89 27 0:42 / /s/overlay-containers/{id}/userdata/shm rw - tmpfs shm rw,size=64000k\n\
        92 27 0:43 / /s/o/db/merged rw - overlay overlay rw,lowerdir=/s/l/IO:/s/l/AB,upperdir=/s/o/db/diff\n"
    );
    let with = |files, configuration: Option<&Configuration>| {
        let found = sorted_with(container.as_bytes(), host.as_bytes(), files, configuration);
        assert_eq!(found.blockers, []);
        (found.rootfs.clone(), origins(&found), found)
    };
    let podman = podman();
    let (rootfs, all, found) = with(Files::default(), Some(&podman));
    let layers = |changes, layers| Rootfs::Layers { changes, layers };
    assert_eq!(rootfs, layers(true, false));
    let volume = |name: &str, tree| Origin::Volume {
        name: name.into(),
        tree,
    };
    let bind = |path: &str| Origin::Bind { path: path.into() };
    let hosts = format!("/r/overlay-containers/{id}/userdata/hosts");
    let written = || Origin::Written {
        content: hosts.clone().into_bytes().into(),
    };
    for (place, origin) in [
        ("/", Origin::Root),
        ("/data", volume("store", Some(0))),
        (
            "/again",
            Origin::Again {
                mount: MountId(151),
            },
        ),
        ("/dev", Origin::Tmpfs { tree: 0 }),
        ("/more", volume("more", Some(1))),
        ("/srv", bind("/srv")),
        ("/etc/hosts", written()),
        ("/run/secrets", Origin::Tmpfs { tree: 2 }),
        ("/dev/shm", Origin::Tmpfs { tree: 1 }),
        ("/other", bind(&hosts.replace("34", "ab"))),
    ] {
        assert!(all.contains(&(place.into(), origin)), "{place}: {all:?}");
    }
    let secrets = found.mounts.mounts.iter().find(|m| m.id == MountId(163));
    assert_eq!(secrets.unwrap().fstype, "tmpfs");
    let ignored = Files {
        with_image: true,
        ignore_rootfs: true,
        ignore_volumes: true,
    };
    let (rootfs, all, _) = with(ignored, Some(&podman));
    assert_eq!(rootfs, layers(false, true));
    assert!(all.contains(&("/data".into(), volume("store", None))));
    // As a mere process tree: volumes are directories of the host's, but what the engine wrote is known by its place.
    let (rootfs, all, _) = with(Files::default(), None);
    assert_eq!(rootfs, layers(true, false));
    assert!(all.contains(&("/data".into(), bind("/s/volumes/store/_data"))));
    assert!(all.contains(&("/etc/hosts".into(), written())));
}

#[test]
fn what_cannot_be_made_again_is_named() {
    let found = sorted(
        b"90 80 0:77 / / rw - overlay overlay rw\n\
        91 90 0:78 / /data rw - fuse.sshfs host: rw\n\
        92 90 254:0 /gone//deleted /file rw - ext4 /dev/vda rw\n",
        false,
    );
    let places: Vec<_> = found.blockers.iter().map(|b| b.place.as_str()).collect();
    assert_eq!(places, ["mount at /", "mount at /data", "mount at /file"]);
    let chroot = sorted(b"91 90 0:50 / /proc rw - proc proc rw\n", false);
    assert_eq!(chroot.blockers[0].place, "root directory");
}
