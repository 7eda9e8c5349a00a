//! Resource limits and the settings of a process as a whole.
#![forbid(unsafe_code)]

use nix::sys::personality::{self, Persona};
use nix::sys::resource::{Resource, setrlimit};
use std::process::ExitCode;
use subject::Stage;

fn state() -> Vec<String> {
    let text = |name: &str| {
        let path = format!("/proc/self/{name}");
        let text = std::fs::read_to_string(&path).expect("read /proc/self");
        format!("{name}: {}", text.trim())
    };
    let mut state: Vec<String> = [
        "oom_score_adj",
        "coredump_filter",
        "personality",
        "timerslack_ns",
    ]
    .map(text)
    .to_vec();
    state.extend(text("limits").lines().map(str::to_owned));
    state.push(format!(
        "child subreaper {:?}",
        nix::sys::prctl::get_child_subreaper()
    ));
    state.push(format!(
        "huge pages disabled {:?}",
        nix::sys::prctl::get_thp_disable()
    ));
    state
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    setrlimit(Resource::RLIMIT_NOFILE, 333, 3333).expect("setrlimit");
    setrlimit(Resource::RLIMIT_CORE, 0, 1 << 20).expect("setrlimit");
    setrlimit(Resource::RLIMIT_STACK, 4 << 20, 16 << 20).expect("setrlimit");
    setrlimit(Resource::RLIMIT_CPU, 4000, 5000).expect("setrlimit");
    std::fs::write("/proc/self/oom_score_adj", "321").expect("oom_score_adj");
    std::fs::write("/proc/self/coredump_filter", "0x21").expect("coredump_filter");
    personality::set(Persona::ADDR_NO_RANDOMIZE).expect("personality");
    nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
    nix::sys::prctl::set_thp_disable(true).expect("huge pages");
    nix::sys::prctl::set_timerslack(123_456).expect("timer slack");
    let before = state();
    stage.wait();
    for (before, after) in before.into_iter().zip(state()) {
        stage.same("a setting", before, after);
    }
    stage.leave()
}
