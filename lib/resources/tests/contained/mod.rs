//! A program in Python as process 1 of a pid namespace, whose files are taken, and given back to a tree grown for them.
#![allow(dead_code, reason = "each test uses its part")]

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
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio as Standard};

pub const STUB: u64 = 0x10_0000;

/// A program as process 1 of a pid namespace of its own.
pub struct Contained {
    pub unshare: Child,
    pub root: i32,
}

impl Contained {
    /// Starts Python code, which runs in an empty directory of its own until it is killed.
    pub fn python(code: &str, directory: &std::path::Path) -> Self {
        let before = "import os; os.closerange(3, 65536)\nimport sys, time, fcntl, socket, select, ctypes, struct\n\
                      libc = ctypes.CDLL(None, use_errno=True)\n\
                      def rest():\n  time.sleep(1000)\n";
        let after = "\nprint('ready', flush=True)\nrest()\n";
        Self::start(
            &["python3", "-c", &format!("{before}{code}{after}")],
            directory,
        )
    }

    pub fn start(command: &[&str], directory: &std::path::Path) -> Self {
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
    pub fn pids(&self) -> BTreeMap<Pid, i32> {
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
pub struct Image {
    pub tree: image::tree::Tree,
    pub files: OpenFiles,
    pub places: BTreeMap<Pid, (Option<Table>, Fs)>,
    pub blobs: HashMap<String, Vec<u8>>,
}

pub fn take(source: &Contained) -> resources::Result<Image> {
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
pub fn streamed(taken: &files::Taken) -> HashMap<String, Vec<u8>> {
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
pub struct Restored {
    pub container: Contained,
    pub target: Target,
}

impl Restored {
    /// The restored process's descriptor, ours.
    pub fn borrow(&self, inside: Pid, number: i32) -> std::fs::File {
        let pid = self.target.processes[&inside].pid;
        PidFd::open(pid).unwrap().borrow(number).unwrap().into()
    }
}

pub fn give(image: &Image, directory: &std::path::Path) -> resources::Result<Restored> {
    give_with(image, directory, |_| Ok(Stdio::Null))
}

/// `stdio` is told the vessel's process 1.
pub fn give_with(
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
pub fn shown(pid: i32) -> Vec<String> {
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
pub fn lasting(line: &str) -> Option<String> {
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
pub fn cross(code: &str) -> (tempfile::TempDir, Contained, Restored) {
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

pub fn rest_of(file: &mut std::fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}
