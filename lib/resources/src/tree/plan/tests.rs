use super::*;
use image::ids::{ActionsId, FsId, SpaceId, TableId};

fn process(pid: Pid, ppid: Pid, pgid: Pid, sid: Pid) -> Process {
    Process {
        pid,
        ppid,
        pgid,
        sid,
        exit_signal: 17,
        terminal: false,
        state: State::Alive {
            threads: vec![pid],
            space: SpaceId(pid as u32),
            table: TableId(pid as u32),
            fs: FsId(pid as u32),
            actions: ActionsId(pid as u32),
            ended: None,
            stopped: false,
            subreaper: false,
        },
    }
}

fn tree(root: Pid, processes: Vec<Process>) -> Tree {
    Tree {
        root,
        processes,
        last_pid: None,
        stub: 0x10000,
        terminals: vec![],
        nested: Default::default(),
    }
}

fn fork(creator: Pid, child: Pid) -> Step {
    Step::Fork {
        creator,
        child,
        sibling: false,
        exit_signal: 17,
        shares: Shares::default(),
    }
}

#[test]
fn a_shell_pipeline_gets_its_group() {
    let shell = tree(
        1,
        vec![
            process(1, 0, 1, 1),
            process(5, 1, 5, 1),
            process(6, 1, 5, 1),
        ],
    );
    assert_eq!(
        plan(&shell, 1, &|_| false).unwrap(),
        [
            Step::Setsid { pid: 1 },
            fork(1, 5),
            fork(1, 6),
            Step::Setpgid { pid: 5, pgid: 5 },
            Step::Setpgid { pid: 6, pgid: 5 },
        ]
    );
}

#[test]
fn a_daemon_whose_session_leader_is_gone_gets_a_stand_in() {
    let daemon = tree(1, vec![process(1, 0, 1, 1), process(9, 1, 8, 8)]);
    assert_eq!(
        plan(&daemon, 1, &|_| false).unwrap(),
        [
            Step::Setsid { pid: 1 },
            fork(1, 8),
            Step::Setsid { pid: 8 },
            Step::Fork {
                creator: 8,
                child: 9,
                sibling: true,
                exit_signal: 17,
                shares: Shares::default(),
            },
            Step::End { pid: 8, parent: 1 },
        ]
    );
}

#[test]
fn a_child_older_than_its_parents_session_is_forked_before_setsid() {
    let tree = tree(3, vec![process(3, 0, 3, 3), process(4, 3, 0, 0)]);
    assert_eq!(
        plan(&tree, 3, &|_| false).unwrap(),
        [fork(3, 4), Step::Setsid { pid: 3 }]
    );
}

#[test]
fn an_orphan_of_a_living_leader_falls_to_init() {
    let tree = tree(
        1,
        vec![
            process(1, 0, 1, 1),
            process(5, 1, 5, 5),
            process(7, 1, 5, 5),
        ],
    );
    let steps = plan(&tree, 1, &|_| false).unwrap();
    assert!(steps.windows(3).any(|w| w
        == [
            fork(5, 31_000),
            fork(31_000, 7),
            Step::End {
                pid: 31_000,
                parent: 5
            }
        ]));
}

#[test]
fn zombies_die_last_and_a_group_without_leader_gets_a_stand_in() {
    let mut dead = process(6, 1, 1, 1);
    dead.state = State::Dead {
        status: 256,
        name: "x".into(),
    };
    let tree = tree(1, vec![process(1, 0, 1, 1), dead, process(5, 1, 4, 1)]);
    assert_eq!(
        plan(&tree, 1, &|_| false).unwrap()[3..],
        [
            fork(5, 4),
            Step::Setpgid { pid: 4, pgid: 4 },
            Step::Setpgid { pid: 5, pgid: 4 },
            Step::End { pid: 4, parent: 5 },
            Step::Die { pid: 6 },
        ]
    );
}

#[test]
fn trees_that_cannot_be_are_refused() {
    let missing = tree(1, vec![process(1, 0, 1, 1), process(5, 4, 1, 1)]);
    assert!(plan(&missing, 1, &|_| false).is_err());
    let twice = tree(1, vec![process(1, 0, 1, 1), process(1, 0, 1, 1)]);
    assert!(plan(&twice, 1, &|_| false).is_err());
    let cycle = tree(
        1,
        vec![
            process(1, 0, 1, 1),
            process(5, 6, 1, 1),
            process(6, 5, 1, 1),
        ],
    );
    assert!(plan(&cycle, 1, &|_| false).is_err());
}

fn subreaper(mut process: Process) -> Process {
    if let State::Alive { subreaper, .. } = &mut process.state {
        *subreaper = true;
    }
    process
}

#[test]
fn members_of_a_dead_leaders_session_under_different_parents_come_from_one_stand_in() {
    // Subreaper 5 has taken one, process 1 another.
    let tree = tree(
        1,
        vec![
            process(1, 0, 1, 1),
            subreaper(process(5, 1, 1, 1)),
            process(6, 5, 4, 4),
            process(7, 1, 4, 4),
        ],
    );
    let steps = plan(&tree, 1, &|_| false).unwrap();
    let turn = |on| Step::Subreaper { pid: 5, on };
    let end = Step::End {
        pid: 31_000,
        parent: 4,
    };
    let orphan = [
        fork(4, 31_000),
        fork(31_000, 7),
        turn(false),
        end,
        turn(true),
    ];
    assert!(steps.windows(5).any(|w| w == orphan), "{steps:?}");
    assert!(steps.contains(&fork(5, 4)));
}

#[test]
fn a_leader_whose_child_is_of_the_session_it_left_is_born_in_that() {
    // The leader of 4 is gone; its child 5 made 6, and then a session of its own.
    let tree = tree(
        1,
        vec![
            process(1, 0, 1, 1),
            process(5, 1, 5, 5),
            process(6, 5, 4, 4),
        ],
    );
    let steps = plan(&tree, 1, &|_| false).unwrap();
    let sibling = Step::Fork {
        creator: 4,
        child: 5,
        sibling: true,
        exit_signal: 17,
        shares: Shares::default(),
    };
    let expected = [sibling, fork(5, 6), Step::Setsid { pid: 5 }];
    assert!(steps.windows(3).any(|w| w == expected), "{steps:?}");
}

#[test]
fn a_group_whose_founder_left_it_for_another_is_founded_again() {
    let tree = tree(
        1,
        vec![
            process(1, 0, 1, 1),
            process(5, 1, 6, 1),
            process(6, 1, 6, 1),
            process(7, 1, 5, 1),
        ],
    );
    let steps = plan(&tree, 1, &|_| false).unwrap();
    let set = |pid, pgid| Step::Setpgid { pid, pgid };
    assert_eq!(steps[4..], [set(6, 6), set(5, 5), set(7, 5), set(5, 6)]);
}

#[test]
fn what_is_shared_comes_from_the_parent_or_else_a_sibling() {
    let with = |mut process: Process, memory: u32, descriptors: u32| {
        if let State::Alive { space, table, .. } = &mut process.state {
            (*space, *table) = (SpaceId(memory), TableId(descriptors));
        }
        process
    };
    let shared = tree(
        1,
        vec![
            process(1, 0, 1, 1),
            with(process(5, 1, 1, 1), 1, 5),
            with(process(6, 1, 1, 1), 6, 6),
            with(process(7, 1, 1, 1), 6, 6),
        ],
    );
    let steps = plan(&shared, 1, &|_| false).unwrap();
    let made = |child| {
        let made = steps.iter().find_map(|step| match step {
            Step::Fork {
                creator,
                child: it,
                sibling,
                shares,
                ..
            } if *it == child => Some((*creator, *sibling, shares.flags())),
            _ => None,
        });
        made.unwrap()
    };
    assert_eq!(made(5), (1, false, libc::CLONE_VM as u64));
    let both = libc::CLONE_VM | libc::CLONE_FILES;
    assert_eq!(made(6), (1, false, 0));
    assert_eq!(made(7), (6, true, both as u64));
    let apart = tree(
        1,
        vec![
            process(1, 0, 1, 1),
            with(process(5, 1, 1, 1), 9, 5),
            process(6, 1, 1, 1),
            with(process(7, 6, 1, 1), 9, 7),
        ],
    );
    let said = plan(&apart, 1, &|_| false).unwrap_err();
    assert!(
        said.contains("process 7 shares its memory with process 5"),
        "{said}"
    );
}

#[test]
fn generations_are_counted_before_the_stack_ends() {
    let chain = |count: Pid| {
        let below = (2..=count).map(|pid| process(pid, pid - 1, 1, 1));
        tree(
            1,
            std::iter::once(process(1, 0, 1, 1)).chain(below).collect(),
        )
    };
    // With as large a stack as the only thread of a tool has by default.
    let planned = |count: Pid| {
        let tree = chain(count);
        let thread = std::thread::Builder::new().stack_size(8 << 20);
        let work = move || plan(&tree, 1, &|_| false);
        thread.spawn(work).unwrap().join().unwrap()
    };
    let most = DEEPEST as Pid;
    assert!(planned(most).is_ok());
    let words = format!(
        "process {} has more than {DEEPEST} generations above it",
        most + 1
    );
    assert_eq!(planned(30_000).unwrap_err(), words);
}
