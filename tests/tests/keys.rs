//! Keyrings (keyctl(2)): who restores a container does not hand it their own keys.
#![forbid(unsafe_code)]

use ferry_tests::Host;
use ferry_tests::asked::Asked;

/// Runs `line` with a key in its session keyring (`KEYCTL_JOIN_SESSION_KEYRING`, add_key(2)), and says whether there are any here.
const WITH_A_KEY: &str = "import ctypes, os, sys\n\
     libc = ctypes.CDLL(None)\n\
     libc.syscall(250, 1, None)\n\
     key = libc.syscall(248, b'user', b'of the caller', b'secret', 6, ctypes.c_long(-3))\n\
     print('has a key' if key > 0 else 'keys are not here', file=sys.stderr, flush=True)\n\
     os.execvp('bash', ['bash', '-c', sys.argv[1]])\n";

#[test]
fn the_keys_of_who_restores_are_not_the_containers() {
    let host = Host::new("alder");
    let (asked, program) = Asked::alone(&host, "keys", "");
    let file = host.path("archive").display().to_string();
    host.sh(&format!("checkpoint pid:{} > {file}", program.pid))
        .ok();
    let script = host.path("with_a_key.py");
    std::fs::write(&script, WITH_A_KEY).expect("write the script");
    let line = format!("restore --network none -n again < {file}");
    let restored = host.sh(&format!("/usr/bin/python3 {} '{line}'", script.display()));
    println!("{}", restored.stderr);
    restored.ok();
    asked.is_whole();
}
