//! Namespaces inside a container: what stands in their way is named while all of it runs.

use image::sockets::tcp::Connections;
use resources::namespaces::nested;
use std::io::Read;
use std::process::{Command, Stdio};

/// Has a child of ours, begun by `command`, run a script of Python's, and looks at both of us once it has said a byte.
fn looked_at(
    command: &[&str],
    script: &str,
    look: impl Fn(kernel::Pid, &[kernel::Pid]) -> resources::Result<Vec<resources::Blocker>>,
) -> (kernel::Pid, Vec<resources::Blocker>) {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .args(["/usr/bin/python3", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let us = std::process::id() as kernel::Pid;
    let pid = child.id() as kernel::Pid;
    let found = look(us, &[us, pid]);
    child.kill().unwrap();
    child.wait().unwrap();
    (pid, found.unwrap())
}

#[test]
fn a_thread_that_may_not_go_back_to_its_namespace_is_named() {
    // The process has made itself a uts namespace in its user namespace, and its thread has stayed outside.
    let script = "import ctypes, threading, time\n\
                  threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n\
                  assert ctypes.CDLL(None).unshare(0x04000000) == 0\n\
                  print(flush=True)\n\
                  time.sleep(60)\n";
    let (pid, found) = looked_at(&["unshare", "-U", "-r"], script, nested::blockers);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].pid, pid);
    assert!(found[0].place.starts_with("thread "), "{found:?}");
    let what = "it is not in the uts namespace of its process";
    assert!(found[0].what.starts_with(what), "{found:?}");
}

#[test]
fn a_time_namespace_of_a_process_with_threads_is_named() {
    let script = "import ctypes, threading, time\n\
                  threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n\
                  assert ctypes.CDLL(None).unshare(0x80) == 0\n\
                  print(flush=True)\n\
                  time.sleep(60)\n";
    let (pid, found) = looked_at(&["env"], script, nested::blockers);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].pid, pid);
    let what = "a time namespace for its children, of a process with threads";
    assert!(found[0].what.starts_with(what), "{found:?}");
}

/// What the look before the freeze says of a child in a network of its own, whose script has said that it is ready.
fn refused_in_a_network(script: &str) -> Vec<resources::Blocker> {
    let look = |_, all: &[kernel::Pid]| resources::files::blockers(all, Connections::Established);
    let (pid, found) = looked_at(&["unshare", "-n"], script, look);
    // The files of this process are whatever has called the tests: those of the child are its own.
    found.into_iter().filter(|b| b.pid == pid).collect()
}

#[test]
fn a_connection_with_others_in_a_network_inside_the_container_is_named() {
    // The other end's process is none of those that are taken.
    let script = "import os, socket, subprocess, time\n\
                  os.closerange(3, 1024)\n\
                  subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)\n\
                  l = socket.create_server(('127.0.0.1', 777))\n\
                  c = socket.create_connection(('127.0.0.1', 777))\n\
                  s, _ = l.accept()\n\
                  parent = os.getpid()\n\
                  if os.fork() == 0:\n\
                  \x20   while os.getppid() == parent: time.sleep(0.1)\n\
                  \x20   os._exit(0)\n\
                  s.close()\n\
                  print(flush=True)\n\
                  time.sleep(60)\n";
    let found = refused_in_a_network(script);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        found[0].what,
        "an established TCP connection with 127.0.0.1:777"
    );
    assert!(
        found[0].remedy.contains("inside the container"),
        "{found:?}"
    );
}

#[test]
fn sockets_of_a_network_inside_the_container_are_no_obstacle() {
    let script = "import os, socket, time\n\
                  os.closerange(3, 1024)\n\
                  a = socket.socket()\n\
                  b, c = socket.socketpair()\n\
                  d = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\n\
                  print(flush=True)\n\
                  time.sleep(60)\n";
    let found = refused_in_a_network(script);
    assert!(found.is_empty(), "{found:?}");
}
