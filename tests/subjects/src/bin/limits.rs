//! Resource limits and the settings of a process as a whole.
#![forbid(unsafe_code)]

use kernel::own::setting::{self, Setting};
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
    for setting in [
        Setting::ThpDisable,
        Setting::Mdwe,
        Setting::MemoryMerge,
        Setting::IoFlusher,
    ] {
        state.push(format!("{setting:?} {:?}", setting.get().ok()));
    }
    // MEMBARRIER_CMD_GET_REGISTRATIONS
    state.push(format!("membarrier {:?}", setting::membarrier(512).ok()));
    if leads_its_session() {
        let group = std::fs::read_to_string("/proc/self/autogroup").unwrap_or_default();
        let nice = group
            .rsplit_once("nice")
            .map(|(_, nice)| nice.trim().to_owned());
        state.push(format!("autogroup {nice:?}"));
    }
    let login = std::fs::read_to_string("/proc/self/loginuid").ok();
    state.push(format!("loginuid {login:?}"));
    state
}

/// Whether the autogroup is its own: that of a session from outside stays behind.
fn leads_its_session() -> bool {
    nix::unistd::getsid(None) == Ok(nix::unistd::getpid())
}

fn main() -> ExitCode {
    let mut stage = Stage::enter();
    // An error: it leads one already.
    let _ = nix::unistd::setsid();
    setrlimit(Resource::RLIMIT_NOFILE, 333, 3333).expect("setrlimit");
    setrlimit(Resource::RLIMIT_CORE, 0, 1 << 20).expect("setrlimit");
    setrlimit(Resource::RLIMIT_STACK, 4 << 20, 16 << 20).expect("setrlimit");
    setrlimit(Resource::RLIMIT_CPU, 4000, 5000).expect("setrlimit");
    std::fs::write("/proc/self/oom_score_adj", "321").expect("oom_score_adj");
    std::fs::write("/proc/self/coredump_filter", "0x21").expect("coredump_filter");
    personality::set(Persona::ADDR_NO_RANDOMIZE).expect("personality");
    nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
    // But for areas that ask for them, where the kernel knows that.
    let thp = Setting::ThpDisable;
    thp.set(1, 2)
        .or_else(|_| thp.set(1, 0))
        .expect("huge pages");
    // What a kernel is too old for, or this host does not allow, is in neither of the states compared.
    for (setting, value) in [
        (Setting::Mdwe, 3),
        (Setting::MemoryMerge, 1),
        (Setting::IoFlusher, 1),
    ] {
        if let Err(e) = setting.set(value, 0) {
            println!("not tried: {e}");
        }
    }
    for command in [1 << 2, 1 << 4] {
        setting::membarrier(command).expect("register with membarrier");
    }
    if leads_its_session() {
        let _ = std::fs::write("/proc/self/autogroup", "7");
    }
    if let Err(e) = std::fs::write("/proc/self/loginuid", "4321") {
        println!("not tried: loginuid: {e}");
    }
    nix::sys::prctl::set_timerslack(123_456).expect("timer slack");
    let before = state();
    stage.wait();
    for (before, after) in before.into_iter().zip(state()) {
        stage.same("a setting", before, after);
    }
    stage.leave()
}
