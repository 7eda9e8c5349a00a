//! Signals of a process: actions, and the queues. Masks belong to the registers, which come last.

use crate::namespaces::pid;
use crate::{Error, Result, SourceProcess, TargetProcess, threads};
use image::signals::{Action, Pending, Signals};
use image::threads::Thread;
use kernel::proc::status;
use kernel::remote::{Call, Caller, Stub, call};

/// Signals are numbered from 1 to 64.
const LAST: i32 = 64;
/// The kernel's `struct sigaction`: handler, flags, restorer, mask.
const ACTION: usize = 32;
/// `siginfo_t`.
const SIGINFO: usize = 128;
/// Where `si_code` lies, and, of a POSIX timer's signal, `si_sys_private`, which is the kernel's own
/// (include/uapi/asm-generic/siginfo.h).
const CODE: usize = 8;
const PRIVATE: std::ops::Range<usize> = 32..36;
const SI_TIMER: i32 = -2;

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

fn bit(signal: i32) -> u64 {
    1u64.rotate_left(signal as u32 - 1)
}

/// Takes actions and the queue of the process.
pub fn dump(process: &mut SourceProcess) -> Result<Signals> {
    let pid = process.pid;
    let status = status::read(pid)?;
    let (caught, ignored) = (status.mask("SigCgt")?, status.mask("SigIgn")?);
    let leader = process.leader()?;
    // The others have the default action, of which there is no more to know; but SIGCHLD's flags count always.
    let asked: Vec<i32> = (1..=LAST)
        .filter(|signal| (caught | ignored) & bit(*signal) != 0 || *signal == libc::SIGCHLD)
        .collect();
    let (address, _) = leader.guest.scratch()?;
    let calls: Vec<Call> = asked
        .iter()
        .enumerate()
        .map(|(i, signal)| {
            let into = address + (i * ACTION) as u64;
            Call::new(libc::SYS_rt_sigaction, &[*signal as u64, 0, into, 8])
        })
        .collect();
    leader.guest.must_all(&calls, &|_| "rt_sigaction".into())?;
    let mut bytes = vec![0; asked.len() * ACTION];
    leader.guest.read(address, &mut bytes)?;
    let actions: Vec<Action> = asked
        .iter()
        .zip(bytes.chunks_exact(ACTION))
        .map(|(signal, bytes)| Action {
            signal: *signal,
            handler: word(bytes, 0),
            flags: word(bytes, 8),
            restorer: word(bytes, 16),
            mask: word(bytes, 24),
        })
        .filter(|action| action.handler != 0 || action.flags != 0)
        .collect();
    Ok(Signals {
        actions,
        pending: threads::pending(pid, pid, leader.guest.task()?, true)?,
    })
}

/// The calls that set all actions, and the bytes they need at `address`.
fn set_actions(record: &Signals, address: u64) -> Result<(Vec<Call>, Vec<u8>)> {
    let mut bytes = vec![0; LAST as usize * ACTION];
    for action in &record.actions {
        if !(1..=LAST).contains(&action.signal) {
            return Err(Error::Refused(format!(
                "the image has an action for signal {}, which there is not",
                action.signal
            )));
        }
        let words = [action.handler, action.flags, action.restorer, action.mask];
        let words: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
        let at = (action.signal as usize - 1) * ACTION;
        bytes[at..at + ACTION].copy_from_slice(&words);
    }
    // Those of `restore` itself were inherited, so that the default has to be set as well.
    let calls = (1..=LAST)
        .filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal))
        .map(|signal| call::sigaction(signal, address + (signal as u64 - 1) * ACTION as u64))
        .collect();
    Ok((calls, bytes))
}

/// Sets the actions.
pub fn restore(process: &mut TargetProcess, record: &Signals) -> Result<()> {
    let leader = &mut process.leader;
    let (address, _) = leader.scratch()?;
    let (calls, bytes) = set_actions(record, address)?;
    leader.put(&bytes)?;
    leader.must_all(&calls, &|i| match calls.get(i) {
        Some(call) => format!("rt_sigaction of signal {}", call.args[0]),
        None => "rt_sigaction".into(),
    })?;
    Ok(())
}

/// Queues the pending signals anew, after everything else: every thread of the process has all signals blocked from
/// here on, until its registers are set.
pub fn resume(process: &mut TargetProcess, record: &Signals, threads: &[Thread]) -> Result<()> {
    let inside = process.inside;
    process.leader.task()?.set_signal_mask(u64::MAX)?;
    for thread in process.threads.values_mut() {
        thread.task()?.set_signal_mask(u64::MAX)?;
    }
    // As it calls itself, in the innermost of its pid namespaces.
    let own = pid::inside(process.pid)?;
    queue(&mut process.leader, &record.pending, &|signal, info| {
        let arguments = [own as u64, signal, info];
        Call::new(libc::SYS_rt_sigqueueinfo, &arguments)
    })?;
    for thread in threads {
        let stub = match thread.tid {
            tid if tid == inside => &mut process.leader,
            tid => process.threads.get_mut(&tid).ok_or_else(|| {
                Error::Refused(format!("the image has no thread {tid} of process {inside}"))
            })?,
        };
        // From the thread itself, which may tell itself anything (kernel/signal.c, `do_rt_tgsigqueueinfo`).
        if thread.pending.is_empty() {
            continue;
        }
        let tid = pid::inside(stub.tid())?;
        queue(stub, &thread.pending, &|signal, info| {
            let arguments = [own as u64, tid as u64, signal, info];
            Call::new(libc::SYS_rt_tgsigqueueinfo, &arguments)
        })?;
    }
    Ok(())
}

fn queue(stub: &mut Stub, pending: &[Pending], send: &dyn Fn(u64, u64) -> Call) -> Result<()> {
    for signals in pending.chunks(256) {
        let (address, _) = stub.scratch()?;
        let mut bytes = Vec::with_capacity(signals.len() * SIGINFO);
        let mut calls = Vec::with_capacity(signals.len());
        for signal in signals {
            let info = checked(signal)?;
            let number = u64::from(info[0]);
            calls.push(send(number, address + bytes.len() as u64));
            bytes.extend(info);
        }
        stub.put(&bytes)?;
        stub.must_all(&calls, &|_| "queue a pending signal".into())?;
    }
    Ok(())
}

fn checked(pending: &Pending) -> Result<Vec<u8>> {
    let mut info = pending.siginfo.0.clone();
    let signal = info.first().copied().unwrap_or(0);
    let stops = i32::from(signal) == libc::SIGKILL || i32::from(signal) == libc::SIGSTOP;
    if info.len() != SIGINFO || !(1..=LAST).contains(&i32::from(signal)) || stops {
        return Err(Error::Refused(format!(
            "the image has a pending signal {signal} of {} bytes, which cannot be queued",
            info.len()
        )));
    }
    let mut code = [0; 4];
    code.copy_from_slice(&info[CODE..CODE + 4]);
    if i32::from_ne_bytes(code) == SI_TIMER {
        info[PRIVATE].fill(0);
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(signal: i32) -> Signals {
        Signals {
            actions: vec![Action {
                signal,
                handler: 0x1111,
                flags: 2,
                restorer: 3,
                mask: 4,
            }],
            pending: Vec::new(),
        }
    }

    #[test]
    fn every_action_is_set_the_default_too() {
        let (calls, bytes) = set_actions(&action(libc::SIGUSR1), 0x1000).unwrap();
        assert_eq!(calls.len(), 62);
        assert_eq!(word(&bytes, 9 * ACTION), 0x1111);
        assert_eq!(word(&bytes, 10 * ACTION), 0);
        assert_eq!(calls[8].args[..2], [10, 0x1000 + 9 * 32]);
    }

    #[test]
    fn signals_that_are_none_are_refused() {
        for signal in [0, 65, -1] {
            assert!(set_actions(&action(signal), 0).is_err(), "{signal}");
        }
        for (signal, len) in [(0, 128), (65, 128), (9, 128), (19, 128), (10, 127), (0, 0)] {
            let mut siginfo = vec![0; len];
            siginfo.iter_mut().take(1).for_each(|byte| *byte = signal);
            let pending = Pending {
                siginfo: siginfo.into(),
            };
            assert!(checked(&pending).is_err(), "{signal} {len}");
        }
    }

    #[test]
    fn what_a_timers_signal_holds_for_the_kernel_alone_is_not_given_back() {
        let mut siginfo = vec![7; 128];
        siginfo[CODE..CODE + 4].copy_from_slice(&SI_TIMER.to_ne_bytes());
        let checked = checked(&Pending {
            siginfo: siginfo.into(),
        });
        assert_eq!(checked.unwrap()[PRIVATE], [0; 4]);
    }
}
