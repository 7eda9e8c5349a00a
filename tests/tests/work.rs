//! Programs in the middle of work on files: what they make is what it would have been without the moves.
#![forbid(unsafe_code)]

use ferry_tests::{Host, LONG, Program, Way, programs, until};
use std::path::Path;

/// Three generations on two hosts, each once `ready` says so.
fn three_generations<'h>(
    mut program: Program<'h>,
    hosts: [&'h Host; 3],
    mut ready: impl FnMut(&Program<'h>),
) -> Program<'h> {
    for host in hosts {
        ready(&program);
        program = Way::File.carry(&program, host, "").0;
    }
    program
}

fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file)
        .unwrap_or_default()
        .lines()
        .count()
}

#[test]
fn a_database_of_sqlite_in_wal_mode_is_written_and_read_on() {
    let (alder, birch) = Host::pair();
    let file = alder.path("bank.db").display().to_string();
    let enough = alder.path("enough");
    let line = format!(
        "/usr/bin/python3 {} {file} {}",
        programs().join("sqlite.py").display(),
        enough.display()
    );
    let program = Program::alone(&alder, "bank", &line);
    let writes_on = |program: &Program<'_>| {
        let before = lines(&program.output);
        until("more transactions", LONG, || {
            (lines(&program.output) > before + 50).then_some(())
        });
        // Another process of the host's is let in as well: its locks and the shared index are the same.
        let count = program
            .host
            .sh(&format!(
                "sqlite3 -cmd '.timeout 60000' {file} 'SELECT count(*) FROM log'"
            ))
            .ok();
        let said = std::fs::read_to_string(&program.output).unwrap_or_default();
        assert!(!said.contains("wrong"), "{said}");
        assert!(count.parse::<usize>().expect("a number") >= before);
    };
    let program = three_generations(program, [&birch, &alder, &birch], writes_on);
    writes_on(&program);
    std::fs::write(enough, b"").expect("tell it");
    let said = program.says("reader ended with 0");
    program.ends();
    let written = said.lines().count() - 1;
    assert!(said.contains(&format!("wrote {written},")), "{said}");
    let check = "PRAGMA integrity_check; SELECT count(*), max(number) FROM log; SELECT sum(amount) FROM account";
    let state = birch
        .sh(&format!("sqlite3 -cmd '.timeout 60000' {file} '{check}'"))
        .ok();
    assert_eq!(state, format!("ok\n{written}|{written}\n100000"));
}

#[test]
fn workers_that_share_semaphores_by_name_work_on() {
    let host = Host::new("alder");
    let line = format!(
        "/usr/bin/python3 {}",
        programs().join("spawned.py").display()
    );
    let program = Program::alone(&host, "workers", &line);
    let works_on = |program: &Program<'_>| {
        let before = lines(&program.output);
        until("more answers", LONG, || {
            (lines(&program.output) > before + 5).then_some(())
        });
        let said = std::fs::read_to_string(&program.output).unwrap_or_default();
        assert!(said.lines().all(|line| line == "right"), "{said}");
    };
    let program = three_generations(program, [&host, &host, &host], works_on);
    works_on(&program);
}

/// A project of many small C files with one program, and a make file that knows how.
fn project(directory: &Path) {
    std::fs::create_dir(directory).expect("make a directory");
    let write = |name: &str, text: String| {
        std::fs::write(directory.join(name), text).expect("write a source");
    };
    let count = 30;
    for file in 0..count {
        let functions: String = (0..40)
            .map(|n| {
                format!(
                    "long f{file}_{n}(long a, long b) {{ for (long i = 0; i < b; i++) a = a * {} + (b ^ i) % {}; return a; }}\n",
                    file + n + 3,
                    n + 2
                )
            })
            .collect();
        write(&format!("part{file}.c"), functions);
    }
    let calls: String = (0..count)
        .map(|file| format!("extern long f{file}_7(long, long); a = f{file}_7(a, 1000);\n"))
        .collect();
    write(
        "main.c",
        format!(
            "#include <stdio.h>\nint main(void) {{ long a = 1;\n{calls}printf(\"%ld\\n\", a); }}\n"
        ),
    );
    let objects: String = (0..count).map(|file| format!(" part{file}.o")).collect();
    write(
        "Makefile",
        format!(
            "program: main.o{objects}\n\tgcc -o $@ $^\n\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n\techo $@ >> done\n"
        ),
    );
}

#[test]
fn a_build_half_way_comes_to_the_same_result() {
    let (alder, birch) = Host::pair();

    let [moved, quiet] = ["moved", "quiet"].map(|name| {
        let directory = alder.path(name);
        project(&directory);
        directory
    });
    alder
        .sh(&format!("make -s -j2 -C {}", quiet.display()))
        .ok();
    let line = format!("make -s -j2 -C {}", moved.display());
    let program = Program::alone(&alder, "make", &line);
    let done = moved.join("done");
    let program = three_generations(program, [&birch, &alder, &birch], |_| {
        let before = lines(&done);
        until("more objects", LONG, || {
            (lines(&done) > before + 3).then_some(())
        });
    });
    assert!(lines(&done) < 31, "it was taken in the middle");
    program.ends();
    let digests = |directory: &Path| {
        birch
            .sh(&format!(
                "cd {} && sha256sum *.o program && ./program",
                directory.display()
            ))
            .ok()
    };
    assert_eq!(digests(&moved), digests(&quiet));
    assert_eq!(lines(&done), 31, "each object was made once");
}
