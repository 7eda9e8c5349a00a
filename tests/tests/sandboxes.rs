//! Sandboxes as other programs make them.
#![forbid(unsafe_code)]

use ferry_tests::{Host, Program, Way};

#[test]
fn a_sandbox_of_bubblewraps_survives_three_generations() {
    let host = Host::new("birch");
    let go = host.path("go").display().to_string();
    let look = "import os, socket, time\n\
                def look():\n\
                \x20   flags = os.statvfs('/').f_flag & os.ST_RDONLY\n\
                \x20   return (flags, os.getpid(), sorted(os.listdir('/tmp')), sorted(set(os.listdir('/dev')) - {'shm'}),\n\
                \x20       [n for n in os.listdir('/proc') if n.isdigit()], os.path.exists('/dev/null'))\n\
                s = socket.socket(socket.AF_UNIX)\n\
                s.bind('/tmp/socket')\n\
                s.listen()\n\
                before = look()\n\
                print('ready', flush=True)\n\
                while not os.path.exists(GO): time.sleep(0.05)\n\
                c = socket.socket(socket.AF_UNIX)\n\
                c.connect('/tmp/socket')\n\
                after = look()\n\
                print('done', after == before, before, after, flush=True)\n\
                time.sleep(1000)\n";
    let script = host.path("look.py");
    std::fs::write(&script, look.replace("GO", &format!("{go:?}"))).expect("write the program");
    // `/dev/shm` is an empty directory there: it is lost, for the container's own has a mount at that place.
    // Where the program and its sign are: below /tmp, perhaps, which is another in there.
    let place = host.path("").display().to_string();
    let line = format!(
        "bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp --ro-bind {place} {place} \
         /usr/bin/python3 {}",
        script.display()
    );
    let mut program = Program::alone(&host, "sandbox", &line);
    program.says("ready");
    for way in [Way::File, Way::File, Way::File] {
        program = Way::carry(way, &program, &host, "").0;
    }
    std::fs::write(&go, b"").expect("tell the program");
    let said = program.says("done");
    assert!(said.contains("done True (1,"), "{said}");
}
