//! Sandboxes as other programs make them.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Way, until};

#[test]
fn a_sandbox_of_bubblewraps_survives_three_generations() {
    let host = Host::new("birch");
    let go = host.path("go").display().to_string();
    let look = "import os, socket, time\n\
                def look():\n\
                \x20   flags = os.statvfs('/').f_flag & os.ST_RDONLY\n\
                \x20   return (flags, os.getpid(), sorted(os.listdir('/tmp')), sorted(os.listdir('/dev')), os.listdir('/dev/shm'),\n\
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

#[test]
fn node_in_a_sandbox_of_bubblewraps_goes_on_counting() {
    let host = Host::new("birch");
    let count = "const { Worker } = require('worker_threads');\n\
                 const http = require('http');\n\
                 const counter = new Int32Array(new SharedArrayBuffer(4));\n\
                 new Worker(`const { workerData } = require('worker_threads');\n\
                 \x20   setInterval(() => { Atomics.add(workerData, 0, 1); }, 5);`,\n\
                 \x20   { eval: true, workerData: counter });\n\
                 const pid = process.pid;\n\
                 http.createServer((request, answer) => {\n\
                 \x20   answer.end(`${process.pid === pid} ${process.getuid()} ${Atomics.load(counter, 0)}`);\n\
                 }).listen(7070, () => console.log('ready'));\n";
    let script = host.path("count.js");
    std::fs::write(&script, count).expect("write the program");
    let place = host.path("").display().to_string();
    // A network of the sandbox's own could not be asked from outside.
    let line = format!(
        "bwrap --unshare-all --share-net --uid 1000 --gid 1000 --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp \
         --ro-bind {place} {place} node {}",
        script.display()
    );
    let mut program = Program::alone(&host, "sandbox", &line);
    program.says("ready");
    let counted = |program: &Program| -> u64 {
        let answer = program.answer(7070, "/");
        let count = answer
            .strip_prefix("true 1000 ")
            .and_then(|n| n.parse().ok());
        count.unwrap_or_else(|| panic!("it answers {answer}"))
    };
    for way in [Way::File, Way::Pipe, Way::File] {
        let before = counted(&program);
        program = Way::carry(way, &program, &host, "").0;
        until("its other thread to count on", LONG, || {
            (counted(&program) > before + 3).then_some(())
        });
    }
}
