//! Open files of live processes: taken, and given back to a tree grown for them; then both are looked at side by side.

use image::files::OpenFiles;
use image::files::fs::Fs;
use image::files::table::Table;
use image::ids::{Pid, TableId};
use image::sockets::tcp::Connections;
use kernel::pidfd::PidFd;
use kernel::proc::{Proc, family, fdinfo};
use kernel::ptrace::{self, Event};
use kernel::remote::Stub;
use resources::files::{self, Opened, Stdio};
use resources::{Target, tree};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio as Standard};

const STUB: u64 = 0x10_0000;

/// A program as process 1 of a pid namespace of its own.
struct Contained {
    unshare: Child,
    root: i32,
}

impl Contained {
    /// Starts Python code, which runs in an empty directory of its own until it is killed.
    fn python(code: &str, directory: &std::path::Path) -> Self {
        let before = "import os; os.closerange(3, 65536)\nimport sys, time, fcntl, socket, select, ctypes, struct\n\
                      libc = ctypes.CDLL(None, use_errno=True)\n\
                      def rest():\n  time.sleep(1000)\n";
        let after = "\nprint('ready', flush=True)\nrest()\n";
        Self::start(
            &["python3", "-c", &format!("{before}{code}{after}")],
            directory,
        )
    }

    fn start(command: &[&str], directory: &std::path::Path) -> Self {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(command);
        unshare
            .current_dir(directory)
            .stdin(Standard::null())
            .stdout(Standard::piped())
            .stderr(Standard::null())
            .process_group(0);
        let mut unshare = unshare.spawn().unwrap();
        let mut line = String::new();
        let out = unshare.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let children = Proc::thread(unshare.id() as i32, unshare.id() as i32);
        let root = children.text("children").unwrap().trim().parse().unwrap();
        Contained { unshare, root }
    }

    /// Our pids, by those inside.
    fn pids(&self) -> BTreeMap<Pid, i32> {
        let namespace = family::pid_namespace(self.root);
        let family = family::family(self.root, namespace.as_deref()).unwrap();
        let inside = |pid| {
            let names = kernel::proc::status::read(pid)
                .unwrap()
                .numbers("NSpid")
                .unwrap();
            *names.last().unwrap() as Pid
        };
        family
            .iter()
            .map(|process| (inside(process.pid), process.pid))
            .collect()
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// All that an image has of a container's files.
struct Image {
    tree: image::tree::Tree,
    files: OpenFiles,
    places: BTreeMap<Pid, (Option<Table>, Fs)>,
    blobs: HashMap<String, Vec<u8>>,
}

fn take(source: &Contained) -> resources::Result<Image> {
    let namespace = family::pid_namespace(source.root);
    let mut frozen = tree::freeze(source.root, namespace.as_deref(), None)?;
    let taken = files::dump(&mut frozen.source);
    let image = taken.and_then(|taken| {
        let mut places = BTreeMap::new();
        for (i, process) in frozen.source.processes.iter().enumerate() {
            let table = taken.table(TableId(i as u32));
            places.insert(process.inside, (table, taken.fs(process.pid)?));
        }
        Ok(Image {
            tree: image::tree::Tree {
                terminals: taken.terminals.clone(),
                ..tree::dump(&frozen, source.root, &|_| false, None, STUB)?
            },
            files: serde_json::from_str(&serde_json::to_string(&taken.record).unwrap()).unwrap(),
            places,
            blobs: streamed(&taken),
        })
    });
    frozen.thaw()?;
    image
}

/// What follows `files.json`, as a reader of the image finds it.
fn streamed(taken: &files::Taken) -> HashMap<String, Vec<u8>> {
    let header = image::Header::new("test", "test", "test");
    let mut writer = image::Writer::new(Vec::new(), &header).unwrap();
    taken.write_blobs(&mut writer).unwrap();
    let bytes = std::io::Cursor::new(writer.finish().unwrap());
    let mut reader = image::Reader::open(bytes).unwrap();
    let mut found = HashMap::new();
    while let Some(mut entry) = reader.next().unwrap() {
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents).unwrap();
        found.insert(entry.path().to_string(), contents);
    }
    found
}

/// A container given back, as far as files go.
struct Restored {
    container: Contained,
    target: Target,
}

impl Restored {
    /// The restored process's descriptor, ours.
    fn borrow(&self, inside: Pid, number: i32) -> std::fs::File {
        let pid = self.target.processes[&inside].pid;
        PidFd::open(pid).unwrap().borrow(number).unwrap().into()
    }
}

fn give(image: &Image, directory: &std::path::Path) -> resources::Result<Restored> {
    give_with(image, directory, |_| Ok(Stdio::Null))
}

/// `stdio` is told the vessel's process 1.
fn give_with(
    image: &Image,
    directory: &std::path::Path,
    stdio: impl FnOnce(i32) -> resources::Result<Stdio>,
) -> resources::Result<Restored> {
    let container = Contained::start(&["sh", "-c", "echo ready; exec sleep 1000"], directory);
    std::thread::sleep(std::time::Duration::from_millis(50));
    let running = ptrace::seize(container.root, 0)?;
    running.interrupt()?;
    let Event::Stop(stopped) = running.wait()? else {
        panic!("no stop");
    };
    let stdio = stdio(container.root)?;
    let terminals = files::Terminals::make(&image.tree.terminals, container.root, &stdio)?;
    let first = Stub::install(stopped, STUB)?;
    let grown = tree::grow(&image.tree, first, true, &terminals)?;
    let mut target = Target {
        segments: Default::default(),
        processes: grown.processes,
        files: HashMap::new(),
        objects: HashMap::new(),
        addresses: Vec::new(),
        connections: Connections::None,
        root_pid: container.root,
        covered: Default::default(),
        inners: Default::default(),
    };
    let mut opened: Opened = files::open(image.files.clone(), terminals, &mut target, &stdio)?;
    for (path, contents) in &image.blobs {
        opened.blob(path, &mut contents.as_slice())?;
    }
    for (inside, (table, fs)) in &image.places {
        opened.place(&mut target, *inside, table.as_ref(), fs)?;
    }
    opened.resume(&mut target)?;
    Ok(Restored { container, target })
}

/// What `/proc` shows of a process's files; numbers that are made anew with each kernel object are left out.
fn shown(pid: i32) -> Vec<String> {
    let proc = Proc::process(pid);
    let mut all = vec![
        format!("cwd {}", proc.link("cwd").unwrap().display()),
        format!("root {}", proc.link("root").unwrap().display()),
        kernel::proc::status::read(pid)
            .unwrap()
            .get("Umask")
            .unwrap()
            .to_string(),
    ];
    for number in proc.numbers("fd").unwrap() {
        let link = proc
            .link(&format!("fd/{number}"))
            .unwrap()
            .display()
            .to_string()
            // A deleted file whose name is another's by now is made beside it.
            .replace("/c.1 (deleted)", "/c (deleted)");
        // Standard output leads to this test at the source.
        if number == 1 {
            continue;
        }
        let kind = link
            .split_once(":[")
            .map_or(link.as_str(), |(kind, _)| kind);
        let info = fdinfo::parse(&proc.text(&format!("fdinfo/{number}")).unwrap()).unwrap();
        // O_NOFOLLOW and O_TMPFILE mean nothing any more once a file is open.
        let flags = info.flags & !0o20_400_000;
        let mut rest: Vec<String> = info.rest.lines().filter_map(lasting).collect();
        rest.sort();
        all.push(format!(
            "{number} {kind} {} {:o} {:?} {rest:?}",
            info.position, flags, info.locks
        ));
    }
    all
}

/// A line of fdinfo, without what need not last.
fn lasting(line: &str) -> Option<String> {
    let made_anew = ["eventfd-id:", "it_value:", "Pid:", "NSpid:", "Ngid:"];
    if made_anew.iter().any(|key| line.starts_with(key)) {
        return None;
    }
    let words = line.split_whitespace();
    let kept: Vec<&str> = words
        .filter(|w| {
            !(line.starts_with("tfd:") && (w.starts_with("ino:") || w.starts_with("sdev:")))
        })
        .collect();
    Some(kept.join(" "))
}

/// There and back; everything that `/proc` shows must be the same.
fn cross(code: &str) -> (tempfile::TempDir, Contained, Restored) {
    let directory = tempfile::tempdir().unwrap();
    let source = Contained::python(code, directory.path());
    let pids: Vec<i32> = source.pids().into_values().collect();
    assert_eq!(files::blockers(&pids, Connections::None).unwrap(), []);
    let before: Vec<_> = source.pids().values().map(|pid| shown(*pid)).collect();
    let image = take(&source).unwrap();
    let after: Vec<_> = source.pids().values().map(|pid| shown(*pid)).collect();
    assert_eq!(before, after, "taking changes nothing");
    let restored = give(&image, directory.path()).unwrap();
    let now: Vec<_> = restored
        .target
        .processes
        .values()
        .map(|p| shown(p.pid))
        .collect();
    for (before, now) in before.iter().zip(&now) {
        let differs = before
            .iter()
            .zip(now)
            .filter(|(b, n)| b != n)
            .collect::<Vec<_>>();
        assert!(
            differs.is_empty() && before.len() == now.len(),
            "{differs:#?}\n{before:#?}\n{now:#?}"
        );
    }
    (directory, source, restored)
}

fn rest_of(file: &mut std::fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn regular_files_keep_offset_and_flags() {
    let (_dir, _source, restored) = cross(
        "open('a', 'w').write('0123456789')\n\
         a = os.open('a', os.O_RDWR | os.O_APPEND); os.lseek(a, 4, 0)\n\
         b = os.open('a', os.O_RDONLY | os.O_NONBLOCK); os.dup2(b, 50)\n\
         os.dup2(b, 777, inheritable=False)\n\
         os.umask(0o27); os.mkdir('sub'); d = os.open('sub', os.O_RDONLY | os.O_DIRECTORY)\n\
         os.open('a', os.O_PATH); os.open('/proc/1/status', 0); os.open('/dev/zero', os.O_RDWR)\n\
         os.chdir('sub')",
    );
    let mut ten = restored.borrow(1, 50);
    assert_eq!(rest_of(&mut ten), b"0123456789");
    // The duplicates share their offset, as they did.
    assert_eq!(rest_of(&mut restored.borrow(1, 777)), b"");
}

#[test]
fn deleted_files_travel_with_their_holes() {
    let (_dir, _source, mut restored) = cross(
        "a = os.open('a', os.O_RDWR | os.O_CREAT, 0o640); b = os.open('a', os.O_RDONLY)\n\
         os.pwrite(a, b'end', 5 << 30); os.pwrite(a, b'x' * 200000, 4096); os.lseek(a, 4096, 0); os.unlink('a')\n\
         c = os.open('c', os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW); os.write(c, b'small'); os.unlink('c')\n\
         open('c', 'w').write('another of that name')\n\
         os.mkdir('d'); os.open('d', os.O_RDONLY); os.rmdir('d')\n\
         os.dup2(a, 10); os.dup2(b, 11)",
    );
    let mut a = restored.borrow(1, 10);
    assert_eq!(a.metadata().unwrap().len(), (5 << 30) + 3);
    let mut bytes = vec![0; 200_000];
    a.read_exact(&mut bytes).unwrap();
    assert!(bytes.iter().all(|b| *b == b'x'));
    let b = restored.borrow(1, 11);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(a.metadata().unwrap().ino(), b.metadata().unwrap().ino());
    assert!(a.metadata().unwrap().blocks() < 2000, "the holes are holes");
    restored.target.processes.clear();
}

#[test]
fn pipes_and_fifos_are_full_of_what_was_in_them() {
    let (_dir, _source, restored) = cross(
        "r, w = os.pipe(); os.write(w, b'hello'); os.dup2(r, 20); os.dup2(w, 21); os.set_blocking(w, False)\n\
         R, W = os.pipe(); fcntl.fcntl(W, 1031, 1 << 20); os.write(W, b'y' * 500000); os.close(W); os.dup2(R, 22)\n\
         p, q = os.pipe2(os.O_DIRECT); os.write(q, b'one'); os.write(q, b'three'); os.dup2(p, 23)\n\
         os.close(os.open('/dev/null', 0))\n\
         os.mkfifo('f'); f = os.open('f', os.O_RDWR); g = os.open('f', os.O_RDONLY); os.write(f, b'fifo'); os.dup2(g, 24)\n\
         h = os.open('/proc/self/fd/%d' % r, os.O_WRONLY)\n\
         x, y = os.pipe(); os.close(x)\n\
         if os.fork() == 0: os.close(r); rest()",
    );
    let mut wide = restored.borrow(1, 22);
    assert_eq!(rest_of(&mut wide), vec![b'y'; 500_000]);
    let mut five = [0; 5];
    restored.borrow(1, 20).read_exact(&mut five).unwrap();
    assert_eq!(&five, b"hello");
    let mut some = [0; 64];
    assert_eq!(restored.borrow(1, 23).read(&mut some).unwrap(), 3);
    assert_eq!(restored.borrow(1, 23).read(&mut some).unwrap(), 5);
    assert_eq!(restored.borrow(1, 24).read(&mut some).unwrap(), 4);
    let capacity = kernel::pipe::capacity(wide.as_fd()).unwrap();
    assert_eq!(capacity, 1 << 20);
}

#[test]
fn descriptors_of_events_are_as_they_were() {
    cross(
        "e = libc.eventfd(5, 0o2000001); libc.eventfd(7, 0)\n\
         t = libc.timerfd_create(1, 0); libc.timerfd_settime(t, 0, struct.pack('qqqq', 7, 0, 500, 0), None)\n\
         u = libc.timerfd_create(0, 0o4000); libc.timerfd_settime(u, 1, struct.pack('qqqq', 0, 0, int(time.time()) + 900, 5), None)\n\
         v = libc.timerfd_create(1, 0); libc.timerfd_settime(v, 0, struct.pack('qqqq', 0, 0, 0, 1), None)\n\
         s = libc.syscall(289, -1, struct.pack('Q', 0x200), 8, 0)\n\
         ep = select.epoll(); ep.register(e, 1); ep.register(t, 1 | 1 << 31); ep.register(s, 1)\n\
         d = os.dup(e); ep.register(d, 4); os.close(d)\n\
         r, w = os.pipe(); ep.register(r, 1); os.dup2(r, 60); os.dup2(s, 61); x = os.dup(s); ep.register(x, 1); os.close(x)\n\
         os.open('/dev/null', 0); os.dup2(w, r)\n\
         nested = select.epoll(); nested.register(ep.fileno(), 1)\n\
         os.pidfd_open(1); q = os.fork()\n\
         if q == 0: rest()\n\
         os.pidfd_open(q)\n\
         q = os.fork()\n\
         if q == 0: os._exit(0)\n\
         os.pidfd_open(q); os.waitpid(q, 0)",
    );
}

#[test]
fn watches_keep_their_numbers_and_places() {
    let (dir, _source, restored) = cross(
        "os.mkdir('x'); open('y', 'w')\n\
         i = libc.inotify_init1(0)\n\
         libc.inotify_rm_watch(i, libc.inotify_add_watch(i, b'/tmp', 2))\n\
         os.read(i, 100)\n\
         libc.inotify_add_watch(i, b'x', 0x100); libc.inotify_add_watch(i, b'y', 0xfff); os.dup2(i, 30)",
    );
    std::fs::write(dir.path().join("x/new"), "").unwrap();
    let mut event = [0; 64];
    let count = restored.borrow(1, 30).read(&mut event).unwrap();
    assert!(count > 16 && event.windows(3).any(|w| w == b"new"));
}

#[test]
fn memory_files_keep_name_contents_and_seals() {
    let (_dir, _source, restored) = cross(
        "m = os.memfd_create('a name', 2 | 1); os.write(m, b'z' * 300000); fcntl.fcntl(m, 1033, 2 | 4)\n\
         os.dup2(m, 40); os.open('/proc/self/fd/%d' % m, 0); os.memfd_create('empty', 0)",
    );
    let memory = restored.borrow(1, 40);
    assert_eq!(kernel::descriptor::seals(memory.as_fd()).unwrap(), 2 | 4);
    assert_eq!(memory.metadata().unwrap().len(), 300_000);
}

#[test]
fn locks_and_owners_are_held_again() {
    let (dir, source, restored) = {
        let directory = tempfile::tempdir().unwrap();
        let code = "f = open('l', 'w+'); f.write('hello'); f.flush()\n\
             fcntl.lockf(f, fcntl.LOCK_EX, 3, 1); g = open('l', 'r+'); fcntl.flock(g, fcntl.LOCK_SH)\n\
             fcntl.fcntl(g, 37, struct.pack('hhqqi', 0, 0, 10, 0, 0))\n\
             r, w = os.pipe(); fcntl.fcntl(r, 8, os.getpid()); fcntl.fcntl(r, 10, 40); os.dup2(r, 70)\n\
             fcntl.fcntl(r, 4, 0o20000 | 0o4000)\n\
             if os.fork() == 0: rest()";
        let mut source = Contained::python(code, directory.path());
        let before: Vec<_> = source.pids().values().map(|pid| shown(*pid)).collect();
        let image = take(&source).unwrap();
        // While the source holds the locks, nobody else gets them.
        let refused = give(&image, directory.path()).err().unwrap().to_string();
        assert!(refused.contains("may hold that lock"), "{refused}");
        // As in a pipe on one host, where the source may be about to end.
        let restored = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(500));
                source.unshare.kill().unwrap();
                source.unshare.wait().unwrap();
            });
            give(&image, directory.path()).unwrap()
        });
        let now: Vec<_> = restored
            .target
            .processes
            .values()
            .map(|p| shown(p.pid))
            .collect();
        assert_eq!(before, now);
        (directory, source, restored)
    };
    let owned = restored.borrow(1, 70);
    let owner = kernel::descriptor::owner(owned.as_fd()).unwrap();
    let root = restored.target.processes[&1].pid;
    assert_eq!(owner, Some((kernel::descriptor::OwnerKind::Process, root)));
    assert_eq!(kernel::descriptor::signal(owned.as_fd()).unwrap(), 40);
    drop((dir, source));
}

#[test]
fn a_changed_root_is_changed_again() {
    cross(
        "os.mkdir('jail'); os.mkdir('jail/in')\n\
         if os.fork() == 0:\n  os.chroot('jail'); os.chdir('/in'); rest()\n\
         time.sleep(0.2)",
    );
}

#[test]
fn what_cannot_be_taken_is_said_before() {
    let directory = tempfile::tempdir().unwrap();
    let code = "os.open('/dev/kmsg', 0); libc.syscall(425, 4, ctypes.create_string_buffer(256))\n\
                libc.syscall(323, 1); old = os.open('/proc/self/ns/uts', 0)\n\
                libc.unshare(0x4000000); os.open('/proc/self/ns/uts', 0); libc.setns(old, 0)\n\
                open('perm', 'w').close(); libc.syscall(301, libc.syscall(300, 4, 0), 1, 0x10000, -100, b'perm'); libc.syscall(447, 0)\n\
                r, w = os.pipe(); child = os.fork()\n\
                if child == 0: os.read(r, 1); os._exit(0)\n\
                os.open(f'/proc/{child}/net/dev', 0)\n\
                os.write(w, b'.'); os.waitpid(child, 0); os.close(r); os.close(w)\n\
                event = ctypes.create_string_buffer(128); event[0:8] = b'\\1\\0\\0\\0\\x70\\0\\0\\0'\n\
                libc.syscall(298, event, 0, -1, -1, 0)";
    let source = Contained::python(code, directory.path());
    let found = files::blockers(&[source.root], Connections::None).unwrap();
    let said: Vec<String> = found.iter().map(|b| b.to_string()).collect();
    for word in [
        "/dev/kmsg",
        "io_uring",
        "userfaultfd",
        "a namespace that no task of the container is in",
        "decides what others may open",
        "secret memory (memfd_secret)",
        "a performance counter",
        "/net/dev, which is gone",
    ] {
        assert!(said.iter().any(|s| s.contains(word)), "{word}: {said:#?}");
    }
    assert!(matches!(take(&source), Err(resources::Error::Blocked(_))));
}

#[test]
fn a_pipe_that_leads_outside_is_one_of_the_standard_streams_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let source = Contained::python("os.dup2(1, 9)", directory.path());
    assert_eq!(
        files::blockers(&[source.root], Connections::None).unwrap(),
        []
    );
    let code = "r, w = os.pipe()\nif os.fork() == 0: os.close(w); rest()\nos.close(r)";
    let source = Contained::python(code, directory.path());
    let found = files::blockers(&[source.root], Connections::None).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].what.contains("(python3)"), "{found:?}");
    let both: Vec<i32> = source.pids().into_values().collect();
    assert_eq!(files::blockers(&both, Connections::None).unwrap(), []);
}

#[test]
fn a_file_that_is_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let source = Contained::python("a = open('a', 'w+')", directory.path());
    let image = take(&source).unwrap();
    std::fs::remove_file(directory.path().join("a")).unwrap();
    let refused = give(&image, directory.path()).err().unwrap().to_string();
    assert!(refused.contains("/a: is missing here"), "{refused}");
}

#[test]
fn what_led_outside_leads_to_where_the_vessels_own_streams_do() {
    let directory = tempfile::tempdir().unwrap();
    let code = "os.dup2(1, 30); w = os.open('/proc/self/fd/1', os.O_WRONLY | os.O_NONBLOCK); os.dup2(w, 31)\n\
                if os.fork() == 0: rest()";
    let source = Contained::python(code, directory.path());
    let image = take(&source).unwrap();
    drop(source);
    let mut restored = give_with(&image, directory.path(), files::external::of).unwrap();
    let child = restored.target.processes.keys().copied().max().unwrap();
    let mut out = restored.container.unshare.stdout.take().unwrap();
    for (process, number) in [(1, 1), (1, 30), (1, 31), (child, 1), (child, 31)] {
        let mut stream = restored.borrow(process, number);
        std::io::Write::write_all(&mut stream, &[number as u8]).unwrap();
        let mut byte = [0];
        out.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [number as u8]);
        // One of the two descriptions does not block; the vessel's own, which the engine may have too, is as it was.
        let flags = kernel::descriptor::flags(stream.as_fd()).unwrap();
        assert_eq!(flags & 0o4000 != 0, number == 31);
    }
}

#[test]
fn a_process_that_came_in_from_outside_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let source = Contained::python("", directory.path());
    let mut visitor = Command::new("nsenter")
        .args([
            "--pid",
            "--target",
            &source.root.to_string(),
            "sleep",
            "100",
        ])
        .spawn()
        .unwrap();
    let namespace = family::pid_namespace(source.root);
    let found = (0..500).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let family = family::family(source.root, namespace.as_deref()).unwrap();
        let found = tree::blockers(&family, 2).unwrap();
        (!found.is_empty()).then_some(found)
    });
    visitor.kill().unwrap();
    visitor.wait().unwrap();
    let found = found.expect("the visitor is seen");
    assert!(
        found.len() == 1 && found[0].what.contains("exec"),
        "{found:?}"
    );
}

/// The controlling terminal and its foreground group, as the kernel shows them; the group by its pid inside.
fn control(pid: i32) -> (Option<(u32, u32)>, Pid) {
    let stat = kernel::proc::stat::read(pid).unwrap();
    let inside = kernel::proc::status::read(stat.foreground())
        .and_then(|status| status.numbers("NSpid"))
        .map_or(0, |pids| *pids.last().unwrap() as Pid);
    (stat.terminal(), inside)
}

#[test]
fn terminals_keep_number_settings_and_what_was_typed_and_written() {
    let (_dir, source, restored) = cross(
        "import pty, termios, tty\n\
         spare = os.openpty(); m, s = os.openpty(); [os.close(fd) for fd in spare]\n\
         a = termios.tcgetattr(s); a[6][termios.VINTR] = b'\\x07'; termios.tcsetattr(s, 0, a)\n\
         fcntl.ioctl(m, termios.TIOCSWINSZ, struct.pack('HHHH', 50, 132, 0, 0))\n\
         os.write(m, b'one\\ntwo\\x04\\x04half'); os.write(s, b'written'); os.dup2(m, 20); os.dup2(s, 21)\n\
         os.open(os.ttyname(s), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)\n\
         M, S = os.openpty(); tty.setraw(S); fcntl.ioctl(M, termios.TIOCPKT, struct.pack('i', 1))\n\
         os.write(M, b'\\x03raw'); os.write(S, b'x' * 3000); fcntl.ioctl(S, termios.TIOCEXCL); os.dup2(M, 30); os.dup2(S, 31)\n\
         h, H = os.openpty(); os.write(H, b'last words'); os.close(H); os.dup2(h, 40)\n\
         d, D = os.openpty(); os.close(d); os.dup2(D, 41)\n\
         n = os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY); os.dup2(n, 42)\n\
         z, Z = os.openpty(); tty.setraw(Z); a = termios.tcgetattr(Z); a[0] |= termios.IXON; termios.tcsetattr(Z, 0, a)\n\
         os.write(Z, b'before'); os.write(z, b'\\x13'); select.select([Z], [], [], 0.1); os.dup2(z, 50); os.dup2(Z, 51)",
    );
    use kernel::tty;
    let root = source.pids()[&1];
    let of_source = |number| PidFd::open(root).unwrap().borrow(number).unwrap();
    let of_restored = |number| std::os::fd::OwnedFd::from(restored.borrow(1, number));
    // The source goes on with all it had, and what was restored has the same.
    for borrow in [
        &of_source as &dyn Fn(i32) -> std::os::fd::OwnedFd,
        &of_restored,
    ] {
        let take = |number| tty::take(borrow(number).as_fd()).unwrap();
        assert_eq!(take(21).unwrap(), b"one\n");
        assert_eq!(take(21).unwrap(), b"two");
        assert_eq!(take(21).unwrap(), b"");
        assert_eq!(take(21), None);
        tty::put(borrow(20).as_fd(), b"way\n").unwrap();
        assert_eq!(take(21).unwrap(), b"halfway\n");
        let seen = String::from_utf8(take(20).unwrap()).unwrap();
        assert!(
            seen.contains("one\r\ntwo") && seen.contains("written"),
            "{seen:?}"
        );
        let master = borrow(20);
        assert_eq!(tty::window(master.as_fd()).unwrap().columns, 132);
        let termios = tty::termios(master.as_fd()).unwrap();
        assert_eq!(termios.characters[0], 7);
        assert!(termios.is_canonical());

        assert_eq!(take(31).unwrap(), b"\x03raw");
        let packet = take(30).unwrap();
        assert_eq!((packet[0], packet.len()), (0, 3001));
        assert!(tty::is_exclusive(borrow(31).as_fd()).unwrap());

        assert!(tty::ready(borrow(40).as_fd()).unwrap().hung_up);
        assert_eq!(take(40).unwrap(), b"last words");
        assert_eq!(take(40), None);
        assert!(tty::ready(borrow(41).as_fd()).unwrap().dead);
        let fresh = borrow(42);
        assert!(tty::is_locked(fresh.as_fd()).unwrap());
        assert!(!tty::ready(fresh.as_fd()).unwrap().hung_up);

        assert_eq!(take(50).unwrap(), b"before");
        assert!(!tty::ready(borrow(51).as_fd()).unwrap().writable);
        tty::put(borrow(50).as_fd(), b"\x11").unwrap();
        for _ in 0..100 {
            if tty::ready(borrow(51).as_fd()).unwrap().writable {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        tty::put(borrow(51).as_fd(), b"after").unwrap();
        assert_eq!(take(50).unwrap(), b"after");
    }
}

#[test]
fn terminals_control_the_sessions_they_controlled() {
    let (_dir, source, restored) = cross(
        "import termios, signal\n\
         m, s = os.openpty(); os.set_inheritable(s, True); r, w = os.pipe()\n\
         if os.fork() == 0:\n\
         \x20 os.close(m); os.setsid(); fcntl.ioctl(s, termios.TIOCSCTTY, 0); signal.signal(signal.SIGTTOU, signal.SIG_IGN)\n\
         \x20 job = os.fork()\n\
         \x20 if job == 0: os.setpgid(0, 0); os.close(s); t = os.open('/dev/tty', os.O_RDWR); os.dup2(t, 60); os.close(t); os.write(w, b'j'); rest()\n\
         \x20 os.read(r, 1); os.tcsetpgrp(s, job); os.write(w, b'l'); os.close(s)\n\
         \x20 rest()\n\
         os.close(s); time.sleep(0.3); os.dup2(m, 20); os.read(r, 1)",
    );
    let (before, after): (Vec<_>, Vec<_>) = source
        .pids()
        .iter()
        .map(|(inside, pid)| {
            (
                control(*pid),
                control(restored.target.processes[inside].pid),
            )
        })
        .unzip();
    assert_eq!(before, after);
    assert_eq!(
        before
            .iter()
            .filter(|(terminal, _)| terminal.is_some())
            .count(),
        2
    );
    // What the job opened as /dev/tty is that terminal.
    let job = *source.pids().keys().max().unwrap();
    let mut terminal = restored.borrow(job, 60);
    std::io::Write::write_all(&mut terminal, b"hello").unwrap();
    let mut seen = [0; 5];
    restored.borrow(1, 20).read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello");
}

#[test]
fn a_terminal_from_outside_that_is_nobodys_standard_stream_is_refused() {
    let (master, slave) = {
        let pair = nix::pty::openpty(None, None).unwrap();
        (pair.master, pair.slave)
    };
    let directory = tempfile::tempdir().unwrap();
    let path = kernel::proc::name_of(slave.as_fd()).unwrap();
    let code = format!("os.open('{}', os.O_RDWR | os.O_NOCTTY)", path.display());
    let source = Contained::python(&code, directory.path());
    let found = files::blockers(&[source.root], Connections::None).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].what.contains("outside"), "{found:?}");
    drop(master);
}
