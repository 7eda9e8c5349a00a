//! A caller that only writes down what it was asked, so that tests compare tables instead of watching a task.

use super::{Call, Caller};
use crate::{Pid, Result};
use std::collections::VecDeque;

/// Records calls and writes; answers with what it was told to, or 0.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The calls, in order.
    pub calls: Vec<Call>,
    /// The memory writes, in order.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// Answers to the next calls.
    pub answers: VecDeque<i64>,
    /// What the next reads find; missing bytes read 0.
    pub memory: VecDeque<Vec<u8>>,
}

impl Caller for Recorder {
    fn tid(&self) -> Pid {
        1
    }

    fn call(&mut self, call: Call) -> Result<i64> {
        self.calls.push(call);
        Ok(self.answers.pop_front().unwrap_or(0))
    }

    fn scratch(&mut self) -> Result<(u64, usize)> {
        Ok((0x10000, 0x10000))
    }

    fn read(&mut self, _address: u64, into: &mut [u8]) -> Result<()> {
        let found = self.memory.pop_front().unwrap_or_default();
        for (i, byte) in into.iter_mut().enumerate() {
            *byte = found.get(i).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.writes.push((address, bytes.to_vec()));
        Ok(())
    }
}
