//! Keyrings (keyctl(2)): who restores a container does not hand it their own keys.
#![forbid(unsafe_code)]

use ferry_tests::asked::Asked;
use ferry_tests::{Host, programs};

#[test]
fn the_keys_of_who_restores_are_not_the_containers() {
    let host = Host::new("alder");
    let (asked, program) = Asked::alone(&host, "keys", "");
    let file = host.path("archive").display().to_string();
    host.sh(&format!("checkpoint pid:{} > {file}", program.pid))
        .ok();
    let burdened = programs().join("burdened.py").display().to_string();
    let line = format!("restore --network none -n again < {file}");
    let restored = host.sh(&format!("/usr/bin/python3 {burdened} '{line}'"));
    println!("{}", restored.stderr);
    restored.ok();
    asked.is_whole();
}
