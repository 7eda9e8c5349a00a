//! Errors of the image library.
use std::fmt;
/// An error.
#[derive(Debug)]
pub enum Error {}
impl fmt::Display for Error {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
impl std::error::Error for Error {}
