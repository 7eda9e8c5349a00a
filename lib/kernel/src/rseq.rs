//! Restartable sequences (rseq(2), include/uapi/linux/rseq.h).

use crate::arch::Registers;
use crate::ptrace::Stopped;
use crate::{Result, vm};

/// Offset of `rseq_cs` in `struct rseq`.
const CRITICAL_SECTION: u64 = 8;

/// Does for a stopped task what the kernel does when it runs again: a critical section that was interrupted begins at
/// its abort handler (kernel/rseq.c, `rseq_ip_fixup`). Done by us, because calls made in the task in between let the
/// kernel forget where it stood.
pub fn abort(task: &Stopped, registers: &mut Registers) -> Result<()> {
    // Without the request (Linux before 5.13) nothing is known, and calls are as dangerous as they are.
    let Ok(rseq) = task.rseq() else {
        return Ok(());
    };
    if rseq.address == 0 {
        return Ok(());
    }
    let section = vm::read_u64(task.tid(), rseq.address + CRITICAL_SECTION)?;
    // struct rseq_cs: version and flags, start, length, abort handler. Where the program points at nothing, it is for
    // the kernel to say so.
    if section != 0
        && let Ok(words) = vm::read_array(task.tid(), section)
        && let Some(handler) = handler(&words, registers.rip)
    {
        registers.rip = handler;
    }
    Ok(())
}

/// The abort handler, where `at` lies in the section.
fn handler(section: &[u8; 32], at: u64) -> Option<u64> {
    let word = |i: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&section[i * 8..i * 8 + 8]);
        u64::from_ne_bytes(word)
    };
    (at.wrapping_sub(word(1)) < word(2)).then(|| word(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inside_the_section_is_it_aborted() {
        let mut section = [0; 32];
        for (i, value) in [0u64, 0x1000, 0x20, 0x9000].into_iter().enumerate() {
            section[i * 8..i * 8 + 8].copy_from_slice(&value.to_ne_bytes());
        }
        let found = [0xfff, 0x1000, 0x101f, 0x1020].map(|at| handler(&section, at));
        assert_eq!(found, [None, Some(0x9000), Some(0x9000), None]);
    }
}
