//! Every flag of every tool is in its help, its man page, its completions, and in some test.
#![forbid(unsafe_code)]

use ferry_tests::built;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const TOOLS: [&str; 5] = ["checkpoint", "pack", "unpack", "restore", "verify"];

fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(built().join(tool))
        .args(arguments)
        .output()
        .expect("run the tool");
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// The words of a text that look like long flags.
fn flags(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("--") && word.len() > 3)
        .map(|word| word.trim_end_matches('-').to_owned())
        .collect()
}

/// The flags that a tool's help gives an entry of their own.
fn options(tool: &str) -> BTreeSet<String> {
    run(tool, &["--help"])
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        // What the line says of a flag may name others: only what comes before the words counts.
        .filter_map(|line| line.trim_start().split("  ").next())
        .flat_map(flags)
        .collect()
}

fn sources(at: &Path, text: &mut String) {
    for entry in std::fs::read_dir(at).expect("list a folder").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, text);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "sh")
            || at.ends_with("scripts")
        {
            text.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

#[test]
fn every_flag_is_in_the_man_page_and_the_completions() {
    for tool in TOOLS {
        let options = options(tool);
        assert!(
            options.len() >= 2,
            "{tool} --help lists its flags: {options:?}"
        );
        let man = run(tool, &["--man"]).replace("\\-", "-");
        let man = flags(
            &man.replace("\\fB", " ")
                .replace("\\fI", " ")
                .replace("\\fR", " "),
        );
        for shell in ["bash", "zsh", "fish"] {
            assert!(!run(tool, &["--completions", shell]).is_empty());
        }
        let completions = flags(&run(tool, &["--completions", "bash"]));
        for flag in &options {
            assert!(
                man.contains(flag),
                "{flag} is not in the man page of {tool}"
            );
            assert!(
                completions.contains(flag),
                "{flag} is not in the completions of {tool}"
            );
        }
    }
}

#[test]
fn every_flag_is_in_some_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project");
    let mut text = String::new();
    sources(&root.join("tests"), &mut text);
    let tested = flags(&text);
    for tool in TOOLS {
        for flag in options(tool) {
            assert!(tested.contains(&flag), "{flag} of {tool} is in no test");
        }
    }
}

#[test]
fn every_flag_of_the_readme_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let mut known: BTreeSet<String> = TOOLS.iter().flat_map(|tool| options(tool)).collect();
    // Hidden flags, from which `make install` makes the pages.
    known.extend(["--man".to_owned(), "--completions".to_owned()]);
    for line in readme
        .lines()
        .filter(|line| line.contains("| same |") || TOOLS.iter().any(|tool| line.contains(tool)))
    {
        // A row of the tables of podman's options begins with one of podman's; where that is the same here, we have it too.
        let row = line.starts_with("| `--") && !line.contains("| same |");
        let ours = match line.split_once(" | ") {
            Some((_, rest)) if row => rest,
            _ => line,
        };
        for flag in flags(ours) {
            assert!(
                known.contains(&flag),
                "README names {flag}, which no tool knows: {line}"
            );
        }
    }
}
