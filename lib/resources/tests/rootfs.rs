//! File trees of a container whose root is an overlay: taken from one, given back to another over the same layers.
//! Everything is in a tmpfs, in a mount namespace of the test's own.
#![forbid(unsafe_code)]

use image::container::{Container, Engine};
use image::engine::{Configuration, Volume};
use image::rootfs::Rootfs;
use image::sockets::tcp::Connections;
use image::{Kind, Reader, Writer};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use resources::container::{Files, Subject};
use resources::namespaces::mount::Covered;
use resources::rootfs::{Content, Policy, Pour};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A host with two layers of an image, and containers over them.
struct Host {
    dir: tempfile::TempDir,
}

const LAYERS: &str = r#"
    mkdir -p lower1 lower2; cd lower1
    mkdir -p etc usr data run proc dev opt/app/deep srv/gone srv/renamed/in var/log
    ln -s usr/bin bin; ln -s usr/lib lib; ln -s usr/lib64 lib64
    echo one > etc/one; echo two > etc/two; echo three > etc/three; ln etc/three etc/linked
    for i in $(seq 40); do echo $i > opt/app/deep/$i; done
    echo kept > srv/renamed/in/file; echo x > srv/gone/file; echo log > var/log/old; echo data > data/of-the-image
    mkdir opt/file-to-be; echo x > opt/file-to-be/x; echo x > opt/directory-to-be
    cd ../lower2; mkdir -p etc opt/app; echo newer > etc/two; mknod etc/gone-already c 0 0; echo hello > opt/app/second
"#;

impl Host {
    /// Run by a thread of its own, whose mount namespace this becomes.
    fn new() -> Host {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("needs root");
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let kind = Some("tmpfs");
        mount(kind, dir.path(), kind, MsFlags::empty(), none).unwrap();
        let host = Host { dir };
        host.shell(LAYERS);
        host
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn shell(&self, script: &str) {
        let status = Command::new("bash")
            .args(["-ec", script])
            .current_dir(self.dir.path())
            .status();
        assert!(status.unwrap().success());
    }

    /// Storage for a container, as an engine makes it.
    fn storage(&self, name: &str, options: &str) {
        self.shell(&format!(
            "mkdir -p {name}/upper {name}/work {name}/merged {name}/volume; mount -t overlay overlay {name}/merged \
             -o lowerdir=lower2:lower1,upperdir={name}/upper,workdir={name}/work{options}"
        ));
    }

    /// Its process, with mounts of its own.
    fn start(&self, name: &str, last: &str) -> Process {
        let script = format!(
            "cd {name}/merged; mount --bind /usr usr; mount --bind ../volume data; mount -t tmpfs tmpfs run; \
             mount -t proc proc proc; {last}
             echo; exec chroot . /usr/bin/sleep 1000 > /dev/null 2>&1"
        );
        let mut child = Command::new("unshare")
            .args(["-m", "--propagation", "private", "bash", "-c", &script])
            .current_dir(self.dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        let process = Process(child);
        let comm = format!("/proc/{}/comm", process.0.id());
        while fs::read_to_string(&comm).unwrap() != "sleep\n" {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        process
    }
}

struct Process(Child);

impl Process {
    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn configuration() -> Configuration {
    let volume = Volume {
        name: "store".into(),
        anonymous: false,
        destination: "/data".into(),
        driver: "local".into(),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
    };
    Configuration {
        engine: Engine::Podman,
        version: "4.3.1".into(),
        id: "ab".repeat(32),
        command: vec![],
        inspect: serde_json::Value::Null,
        spec: serde_json::Value::Null,
        image: None,
        networks: vec![],
        volumes: vec![volume],
        terminal: false,
    }
}

fn taken(process: &Process, files: Files) -> (Container, Vec<u8>) {
    let configuration = configuration();
    let subject = Subject {
        outside: &[],
        root: process.pid(),
        name: "a",
        engine: Engine::Podman,
        configuration: Some(&configuration),
        files,
        connections: Connections::None,
    };
    let found = resources::container::blockers(&subject, &[process.pid()]).unwrap();
    assert_eq!(found, []);
    let container = resources::container::dump(&subject).unwrap();
    let header = image::Header::new("test", "a", "0");
    let mut writer = Writer::new(Vec::new(), &header).unwrap();
    if resources::rootfs::has_layers(&container) {
        resources::rootfs::dump_layers(process.pid(), &mut writer).unwrap();
    }
    resources::rootfs::dump(process.pid(), &container, &mut writer).unwrap();
    (container, writer.finish().unwrap())
}

fn pour(mut pour: Pour, image: &[u8], only: &str) {
    let mut reader = Reader::open(std::io::Cursor::new(image.to_vec())).unwrap();
    while let Some(mut entry) = reader.next().unwrap() {
        if *entry.kind() == Kind::Member && entry.path().starts_with(only) {
            let member = entry.member().unwrap().clone();
            pour.member(&member, &mut entry).unwrap();
        }
    }
    pour.finish().unwrap();
}

/// All that can be told of a tree, a line for each file.
fn survey(top: &Path) -> Vec<String> {
    fn look(
        path: &Path,
        top: &Path,
        links: &mut BTreeMap<(u64, u64), PathBuf>,
        lines: &mut Vec<String>,
    ) {
        let stat = fs::symlink_metadata(path).unwrap();
        let below = path.strip_prefix(top).unwrap();
        let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
        let file = File::options().read(true).custom_flags(flags).open(path);
        let attributes = kernel::xattr::all(file.unwrap().as_fd()).unwrap();
        let mut line = format!(
            "{below:?} {:o} {}:{} {}.{} {:?}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            attributes,
        );
        let kind = stat.file_type();
        if !kind.is_dir() {
            let first = links
                .entry((stat.dev(), stat.ino()))
                .or_insert_with(|| below.into());
            line += &format!(" {} {} {first:?}", stat.nlink(), stat.rdev());
        }
        if kind.is_file() {
            let mut file = File::open(path).unwrap();
            let (mut sum, mut size, mut chunk) = (DefaultHasher::new(), 0, vec![0; 1 << 16]);
            loop {
                let got = file.read(&mut chunk).unwrap();
                if got == 0 {
                    break;
                }
                if chunk[..got].iter().any(|byte| *byte != 0) {
                    (size, &chunk[..got]).hash(&mut sum);
                }
                size += got;
            }
            line += &format!(" {size} {:x} {}", sum.finish(), stat.blocks());
        }
        if kind.is_symlink() {
            line += &format!(" {:?}", fs::read_link(path).unwrap());
        }
        lines.push(line);
        if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(path)
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            names.sort();
            for path in names {
                look(&path, top, links, lines);
            }
        }
    }
    let mut lines = Vec::new();
    look(top, top, &mut BTreeMap::new(), &mut lines);
    lines
}

fn same(old: &Path, new: &Path) {
    let (old, new) = (survey(old), survey(new));
    for (old, new) in old.iter().zip(&new) {
        assert_eq!(new, old);
    }
    assert_eq!(new.len(), old.len());
}

/// What a container does to its files.
const WORK: &str = r#"
    echo changed > etc/one; rm etc/two etc/three; rm -r srv/gone
    rm -r opt/file-to-be; echo file > opt/file-to-be; rm opt/directory-to-be; mkdir opt/directory-to-be; echo in > opt/directory-to-be/in
    rm -r opt/app/deep; mkdir opt/app/deep; echo new > opt/app/deep/new; mkdir -p opt/app/deep/er; echo 7 > opt/app/deep/7
    cp -a srv/renamed srv/moved; rm -r srv/renamed; mv var/log/old var/log/older
    echo link > var/a; ln var/a var/b; ln var/a 'var/c c'; ln -s ../nowhere var/link; ln var/link var/link2
    printf 'odd' > $'var/new\nline'; echo x > $'var/\xff\xfe'; touch var/-; mkdir 'var/sp ace'; echo 'x' > "var/$(printf 'n%.0s' $(seq 200))"
    truncate -s 1G var/sparse; printf x | dd of=var/sparse bs=1 seek=700000000 conv=notrunc status=none; truncate -s 5000 var/hole
    head -c 3000000 /dev/urandom > var/big; mkfifo var/fifo; mknod var/node c 1 3; mknod var/block b 7 9
    chown 7:8 var/a; chmod 6755 var/big; chmod 1777 'var/sp ace'; chown -h 5:6 var/link; chmod 700 opt
    ln etc/linked etc/again; touch -d @1000000000.123456789 var/big etc/one opt/app etc var 'var/sp ace'; touch -h -d @1.5 var/link
    touch -d 1960-01-01 var/old
"#;

fn attributes(top: &Path) {
    let set = |path: &str, name: &str, value: &[u8]| {
        let file = File::open(top.join(path)).unwrap();
        kernel::xattr::set(file.as_fd(), name.as_ref(), value).unwrap();
    };
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("var/big", "security.capability", &capability);
    set("var/big", "trusted.colour", b"blue");
    set("var/sp ace", "trusted.colour", &[0; 3000]);
    // As a container notes it that has overlays of its own.
    set("var/sp ace", "trusted.overlay.opaque", b"y");
}

#[test]
fn what_was_changed_on_top_of_an_image_is_the_same_over_the_same_image() {
    let host = Host::new();
    host.storage("a", "");
    host.storage("b", "");
    host.shell(&format!("cd a/merged; {WORK}"));
    attributes(&host.path("a/merged"));
    // What an engine has made in the new one before, and a place that is mounted over there.
    host.shell("cd b/merged; echo stub > etc/hosts; mkdir -p opt/app/deep/engines; mkdir var/a; echo x > var/a/x");
    host.shell("cp -a b/merged/etc/hosts a/merged/etc/hosts; touch -d @1000000000 a/merged/etc");
    let source = host.start("a", "");
    let (container, image) = taken(&source, Files::default());
    let layers = Rootfs::Layers {
        changes: true,
        layers: false,
    };
    assert_eq!(container.rootfs, layers);
    assert!(
        image.len() < 8 << 20,
        "holes do not travel: {}",
        image.len()
    );
    // One that may only read: it is written to from outside.
    let copy = host.start("b", "mount -o remount,bind,ro .;");
    let changes = Pour::new(copy.pid(), &container, &Policy::default(), &Covered::new()).unwrap();
    pour(changes, &image, "changes");
    same(&host.path("a/merged"), &host.path("b/merged"));
    // And what it changed is a change again, of the same kind.
    let (_, again) = taken(&copy, Files::default());
    host.storage("c", "");
    let third = host.start("c", "");
    let changes = Pour::new(third.pid(), &container, &Policy::default(), &Covered::new()).unwrap();
    pour(changes, &again, "changes");
    same(&host.path("a/merged"), &host.path("c/merged"));
    // The mounts are all where they were.
    let usr = format!("/proc/{}/root/usr/bin/sleep", copy.pid());
    assert!(Path::new(&usr).exists());
}

#[test]
fn renamed_directories_and_mere_attributes_travel_whole() {
    let host = Host::new();
    host.storage("a", ",redirect_dir=on,metacopy=on");
    host.storage("b", "");
    host.shell(
        "cd a/merged; mv opt/app opt/moved; echo more > opt/moved/deep/41; rm opt/moved/deep/3; mv srv/renamed/in srv/in; \
         chmod 600 var/log/old; chown 9:9 etc/one; mv etc/one etc/uno",
    );
    let upper = host.path("a/upper/opt/moved");
    let notes = kernel::xattr::all(File::open(upper).unwrap().as_fd()).unwrap();
    let redirect = std::ffi::OsStr::new("trusted.overlay.redirect");
    assert!(notes.contains_key(redirect), "{notes:?}");
    let source = host.start("a", "");
    let (container, image) = taken(&source, Files::default());
    let copy = host.start("b", "");
    let changes = Pour::new(copy.pid(), &container, &Policy::default(), &Covered::new()).unwrap();
    pour(changes, &image, "changes");
    same(&host.path("a/merged"), &host.path("b/merged"));
}

#[test]
fn volumes_and_tmpfs_have_what_the_image_has_and_nothing_else() {
    let host = Host::new();
    host.storage("a", "");
    host.storage("b", "");
    host.shell(
        "echo mine > a/volume/file; mkdir a/volume/dir; echo new > a/volume/dir/new; chmod 1770 a/volume; \
         mkdir b/volume/dir; echo old > b/volume/dir/old; ln b/volume/dir/old b/volume/file; \
         echo more > b/volume/more; touch -d @77 a/volume b/volume/dir",
    );
    let fill = "mknod run/null c 1 3; echo a > run/a; mkdir run/mine; mkdir run/point; mount -t tmpfs tmpfs run/point;";
    let source = host.start(
        "a",
        &format!("{fill} echo 1 > run/point/1; touch -d @99 run/mine;"),
    );
    let (container, image) = taken(&source, Files::default());
    let copy = host.start(
        "b",
        &format!("{fill} echo 2 > run/point/2; rm -r run/mine; echo b > run/b; mount -o remount,bind,ro data; mount --bind run/null etc/one;"),
    );
    let root = |process: &Process, path: &str| {
        PathBuf::from(format!("/proc/{}/root/{path}", process.pid()))
    };
    let device = root(&copy, "run/null").metadata().unwrap().ino();
    let kept = Policy {
        volumes: BTreeMap::from([("store".into(), Content::Kept)]),
        changes: Some(Content::Kept),
    };
    let before = survey(&host.path("b/volume"));
    pour(
        Pour::new(copy.pid(), &container, &kept, &Covered::new()).unwrap(),
        &image,
        "",
    );
    assert_eq!(survey(&host.path("b/volume")), before);
    same(&root(&source, "run"), &root(&copy, "run"));
    // What is mounted elsewhere is the same file as before.
    assert_eq!(root(&copy, "run/null").metadata().unwrap().ino(), device);
    pour(
        Pour::new(copy.pid(), &container, &Policy::default(), &Covered::new()).unwrap(),
        &image,
        "volume",
    );
    same(&host.path("a/volume"), &host.path("b/volume"));
    // Left out altogether.
    let files = Files {
        ignore_rootfs: true,
        ignore_volumes: true,
        ..Files::default()
    };
    let (_, little) = taken(&source, files);
    let mut reader = Reader::open(std::io::Cursor::new(little)).unwrap();
    while let Some(entry) = reader.next().unwrap() {
        let path = entry.path();
        assert!(
            path.starts_with("tmpfs/") || path.ends_with(".json"),
            "{path}"
        );
    }
}

#[test]
fn a_tmpfs_with_content_needs_a_place() {
    let host = Host::new();
    host.storage("a", "");
    host.storage("b", "");
    let source = host.start(
        "a",
        "mkdir opt/more; mount -t tmpfs tmpfs opt/more; echo x > opt/more/x;",
    );
    let (container, image) = taken(&source, Files::default());
    let copy = host.start("b", "");
    let mut pour = Pour::new(copy.pid(), &container, &Policy::default(), &Covered::new()).unwrap();
    let mut reader = Reader::open(std::io::Cursor::new(image)).unwrap();
    let mut said = None;
    while let Some(mut entry) = reader.next().unwrap() {
        if let Some(member) = entry.member().cloned()
            && let Err(e) = pour.member(&member, &mut entry)
        {
            said = Some(e.to_string());
            break;
        }
    }
    assert!(said.unwrap().contains("does not have"), "and says so");
}

#[test]
fn the_layers_of_an_image_are_one_tree() {
    let host = Host::new();
    host.storage("a", "");
    host.storage("b", "");
    host.shell("cd a/merged; echo changed > etc/one; rm etc/two");
    let source = host.start("a", "");
    let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let before = mounts();
    let files = Files {
        with_image: true,
        ..Files::default()
    };
    let (container, image) = taken(&source, files);
    let layers = Rootfs::Layers {
        changes: true,
        layers: true,
    };
    assert_eq!(container.rootfs, layers);
    assert_eq!(mounts(), before);
    fs::create_dir(host.path("layers")).unwrap();
    pour(
        Pour::layers(&host.path("layers")).unwrap(),
        &image,
        "rootfs",
    );
    host.shell("mkdir view; mount -t overlay overlay view -o lowerdir=lower2:lower1");
    same(&host.path("view"), &host.path("layers"));
    // Where there are layers already, these are left out.
    let copy = host.start("b", "");
    let all = Pour::new(copy.pid(), &container, &Policy::default(), &Covered::new()).unwrap();
    pour(all, &image, "");
    same(&host.path("a/merged"), &host.path("b/merged"));
    assert!(!host.path("b/upper/srv").exists());
}
