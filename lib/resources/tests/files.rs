//! Open files of live processes: taken, and given back to a tree grown for them; then both are looked at side by side.

mod contained;

use contained::{Contained, cross, give, give_with, rest_of, shown, take};
use image::sockets::tcp::Connections;
use kernel::proc::family;
use resources::files;
use resources::tree;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::Command;

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
