//! The command line: what every tool accepts, and the way from `main` to the exit code.

use crate::exit::Exit;
use clap::{CommandFactory, Parser};
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options that every tool has.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Common {
    /// Say more on standard error; twice, say most
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say nothing on standard error but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Write timings (microseconds) and counts as JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
}

impl Common {
    /// Says something on standard error with `-v`.
    pub fn say(&self, words: impl Display) {
        if self.verbose > 0 {
            let _ = writeln!(std::io::stderr(), "{words}");
        }
    }

    /// Says something on standard error with `-vv`.
    pub fn say_more(&self, words: impl Display) {
        if self.verbose > 1 {
            let _ = writeln!(std::io::stderr(), "{words}");
        }
    }
}

/// Parses the command line, runs the tool, and says what went wrong.
///
/// `--man` and `--completions SHELL`, as the only arguments, print what `make install` installs.
pub fn main<A: Parser>(run: impl FnOnce(A) -> anyhow::Result<Exit>) -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let words: Vec<_> = arguments.iter().skip(1).map(|word| word.to_str()).collect();
    let printed = match words.as_slice() {
        [Some("--man")] => Some(man::<A>()),
        [Some("--completions"), Some(shell)] => completions::<A>(shell),
        _ => None,
    };
    if let Some(text) = printed {
        let written = std::io::stdout().write_all(&text);
        return end::<A>(written.map(|()| Exit::Done).map_err(Into::into));
    }
    match A::try_parse_from(arguments) {
        Ok(arguments) => end::<A>(run(arguments)),
        Err(error) => {
            let printed = error.print();
            if error.use_stderr() {
                Exit::Usage.into()
            } else {
                end::<A>(printed.map(|()| Exit::Done).map_err(Into::into))
            }
        }
    }
}

/// An error and its causes in a line: each said once, in lower case, without the number of an error that has a name.
fn words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(|cause| plain(&cause.to_string())) {
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text
}

/// The standard library's `: No space left on device (os error 28)` in the words of this house.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for part in text.split_inclusive(": ") {
        let mut rest = part.chars();
        match (rest.next(), rest.as_str().chars().next()) {
            (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
                plain.extend(first.to_lowercase());
                plain.push_str(rest.as_str());
            }
            _ => plain.push_str(part),
        }
    }
    while let Some(at) = plain.find(" (os error ") {
        let end = plain[at..]
            .find(')')
            .map_or(plain.len(), |len| at + len + 1);
        plain.replace_range(at..end, "");
    }
    plain
}

fn end<A: Parser>(result: anyhow::Result<Exit>) -> ExitCode {
    ExitCode::from(ended::<A>(result))
}

/// Says what went wrong, and gives the exit code: for what a child of a tool does.
pub fn ended<A: Parser>(result: anyhow::Result<Exit>) -> u8 {
    let exit = result.unwrap_or_else(|error| {
        let name = A::command().get_name().to_owned();
        // Standard error may be gone; the exit code is not.
        let _ = writeln!(std::io::stderr(), "{name}: {}", words(&error));
        Exit::of(&error)
    });
    exit.code()
}

fn man<A: CommandFactory>() -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = clap_mangen::Man::new(A::command()).render(&mut text);
    text
}

fn completions<A: CommandFactory>(shell: &str) -> Option<Vec<u8>> {
    let shell: clap_complete::Shell = shell.parse().ok()?;
    let mut command = A::command();
    let (name, mut text) = (command.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, &mut command, name, &mut text);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_and_in_lower_case() {
        let full = std::io::Error::from_raw_os_error(28);
        let error = anyhow::Error::new(image::Error::Write(full)).context("pack web");
        assert_eq!(
            words(&error),
            "pack web: cannot write: no space left on device"
        );
        assert_eq!(
            plain("process 7: EINVAL from Mmap"),
            "process 7: EINVAL from Mmap"
        );
    }
}
