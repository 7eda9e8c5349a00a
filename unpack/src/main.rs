//! `unpack`: an archive becomes an image again, on standard output or as a directory.
//!
//! Every digest is checked on the way, and the end of the image is held back until the seal was found
//! right: a bad archive never yields a whole image.
#![forbid(unsafe_code)]

mod run;

fn main() -> std::process::ExitCode {
    tool::main(run::run)
}
