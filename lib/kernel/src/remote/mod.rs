//! Remote calls: system calls that a stopped task makes for us. No parasite: a [`Call`] is plain data, and a
//! [`Caller`] is whoever can have it made — a task being rebuilt ([`Stub`]), a task of a running
//! container that must survive us ([`Guest`]), or a [`Recorder`], for tests.

use crate::{Error, Pid, Result};

pub mod call;
mod guest;
mod plant;
mod recorder;
mod stub;

pub use guest::{Gates, Guest};
pub use plant::{Plant, plant};
pub use recorder::Recorder;
pub use stub::{STUB_LEN, Stub};

/// One system call: its number and arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// `SYS_*`.
    pub nr: i64,
    /// Six arguments, the unused ones 0.
    pub args: [u64; 6],
}

impl Call {
    /// A call; arguments not given are 0.
    pub fn new(nr: i64, args: &[u64]) -> Self {
        let mut six = [0; 6];
        for (to, from) in six.iter_mut().zip(args) {
            *to = *from;
        }
        Call { nr, args: six }
    }
}

/// Whoever makes calls in a task.
pub trait Caller {
    /// The task, in our pid namespace.
    fn tid(&self) -> Pid;

    /// Makes the call: its value, or minus an error number. `Err` only where the task itself could not be driven.
    fn call(&mut self, call: Call) -> Result<i64>;

    /// Makes many calls, in order, none skipped for an earlier failure.
    fn batch(&mut self, calls: &[Call]) -> Result<Vec<i64>> {
        calls.iter().map(|call| self.call(*call)).collect()
    }

    /// Memory in the task that is ours to use between two calls: address and length (at least 1 KiB).
    fn scratch(&mut self) -> Result<(u64, usize)>;

    /// Reads the task's memory.
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<()>;

    /// Writes the task's memory.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()>;

    /// Makes the call and gives a failure its name.
    fn must(&mut self, what: &str, call: Call) -> Result<u64> {
        let result = self.call(call)?;
        named(self.tid(), what, result)
    }

    /// Makes the calls and gives the first failure the name that `what` has for it.
    fn must_all(&mut self, calls: &[Call], what: &dyn Fn(usize) -> String) -> Result<Vec<u64>> {
        let results = self.batch(calls)?;
        results
            .into_iter()
            .enumerate()
            .map(|(i, result)| {
                if (-4095..0).contains(&result) {
                    named(self.tid(), &what(i), result)
                } else {
                    Ok(result as u64)
                }
            })
            .collect()
    }

    /// Puts bytes into the scratch memory; gives their address.
    fn put(&mut self, bytes: &[u8]) -> Result<u64> {
        let (address, len) = self.scratch()?;
        if bytes.len() > len {
            return Err(Error::Unsupported {
                what: format!(
                    "{} bytes do not fit the scratch memory of task {}",
                    bytes.len(),
                    self.tid()
                ),
            });
        }
        self.write(address, bytes)?;
        Ok(address)
    }
}

/// A result that is an error number becomes an error.
pub fn named(tid: Pid, what: &str, result: i64) -> Result<u64> {
    if (-4095..0).contains(&result) {
        Err(Error::errno(
            format!("{what} in task {tid}"),
            -result as i32,
        ))
    } else {
        Ok(result as u64)
    }
}
