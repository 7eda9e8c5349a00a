//! Namespaces inside a container: what stands in their way is named while all of it runs.

use resources::namespaces::nested;
use std::io::Read;
use std::process::{Command, Stdio};

#[test]
fn threads_in_a_user_namespace_are_named() {
    let script = "import threading, time, sys\n\
                  threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n\
                  print(flush=True)\n\
                  time.sleep(60)\n";
    let mut child = Command::new("unshare")
        .args(["-U", "-r", "/usr/bin/python3", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let us = std::process::id() as kernel::Pid;
    let pid = child.id() as kernel::Pid;
    let found = nested::blockers(us, &[us, pid]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].pid, pid);
    assert_eq!(
        found[0].what,
        "it has threads, in a user namespace inside the container"
    );
}
