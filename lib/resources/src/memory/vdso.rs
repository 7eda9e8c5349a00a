//! The kernel's own pages in a process, and the clearing of the memory it has from before. A host whose vDSO has the same
//! bytes gets it moved to the recorded address; on another, the recorded one stays as ordinary memory, each of its
//! functions a jump into the host's own, so that return addresses and cached function pointers remain true.

use super::{family, free};
use crate::{Error, Result, Target, TargetProcess, threads};
use image::ids::Pid;
use image::memory::{Backing, Space};
use kernel::proc::maps;
use kernel::remote::{Call, Caller, STUB_LEN, Stub};
use kernel::{arch, elf, vm};
use std::ops::Range;

/// More than any vDSO has.
const MAX_LEN: u64 = 1 << 20;

/// The bytes of a process's vDSO; empty where it has none.
pub(super) fn dump(pid: kernel::Pid, shown: &[maps::Area]) -> Result<Vec<u8>> {
    let Some(area) = shown.iter().find(|area| area.name == b"[vdso]") else {
        return Ok(Vec::new());
    };
    let mut bytes = vec![0; (area.end - area.start).min(MAX_LEN) as usize];
    vm::read(pid, area.start, &mut bytes)?;
    Ok(bytes)
}

/// Makes the process what it is to be ([`super::executable`]), takes away all memory it has from before but the stub and
/// what it inherits ([`super::family`]), and puts the kernel's pages to their places.
pub fn clear(target: &mut Target, inside: Pid, space: &Space) -> Result<()> {
    space.check().map_err(|what| {
        Error::Refused(format!(
            "the memory of process {inside} is not right: {what}"
        ))
    })?;
    super::executable::execute(target, inside, space)?;
    let process = target.process(inside)?;
    let own = empty_but(&mut process.leader, space)?;
    let stub = process.leader.base()..process.leader.base() + STUB_LEN;
    place(process, &own.iter().collect::<Vec<_>>(), stub, space)
}

/// Takes away all memory of a task but its stub and the kernel's own areas, which are returned. Done before it forks, its
/// descendants have nothing that the kernel would have to keep account of through all generations.
pub(crate) fn empty(leader: &mut Stub) -> Result<()> {
    without(leader, |_| Ok(Vec::new())).map(drop)
}

/// The same, but for what the process inherits.
fn empty_but(leader: &mut Stub, space: &Space) -> Result<Vec<maps::Area>> {
    without(leader, |shown| family::kept(space, shown))
}

fn without(
    leader: &mut Stub,
    kept: impl FnOnce(&[maps::Area]) -> Result<Vec<Range<u64>>>,
) -> Result<Vec<maps::Area>> {
    threads::unregister_rseq(leader)?;
    let shown = maps::read(leader.tid())?;
    let (own, rest): (Vec<_>, Vec<_>) = shown.into_iter().partition(of_kernel);
    let stub = leader.base();
    let kept = kept(&rest)?;
    let others = rest.iter().filter(|area| area.start != stub);
    let others: Vec<Range<u64>> = others.map(|area| area.start..area.end).collect();
    let unmap = family::unmapped(&others, &kept);
    leader.must_all(&unmap, &|_| "unmap memory".into())?;
    Ok(own)
}

fn of_kernel(area: &maps::Area) -> bool {
    area.name == b"[vdso]" || area.name.starts_with(b"[vvar")
}

fn is_kernel_backing(backing: &Backing) -> bool {
    matches!(backing, Backing::Vdso {} | Backing::Vvar {})
}

fn place(
    process: &mut TargetProcess,
    own: &[&maps::Area],
    stub: Range<u64>,
    space: &Space,
) -> Result<()> {
    let recorded: Vec<_> = space
        .areas
        .iter()
        .filter(|a| is_kernel_backing(&a.backing))
        .collect();
    if recorded.is_empty() {
        let unmap: Vec<Call> = own
            .iter()
            .map(|a| Call::new(libc::SYS_munmap, &[a.start, a.end - a.start]))
            .collect();
        process
            .leader
            .must_all(&unmap, &|_| "unmap the vDSO".into())?;
        return Ok(());
    }
    let vdso = own.iter().find(|area| area.name == b"[vdso]");
    let vdso = vdso.ok_or_else(|| {
        Error::Refused("this kernel gives programs no vDSO, and the image has one (vdso=1)".into())
    })?;
    let mut bytes = vec![0; (vdso.end - vdso.start) as usize];
    vm::read(process.pid, vdso.start, &mut bytes)?;
    let span = |start: u64, end: u64| end - start;
    // Code in the vDSO finds the clock pages by their distance.
    let base = recorded.first().map_or(0, |a| a.start);
    let own_base = own.first().map_or(0, |a| a.start);
    let alike = recorded.len() == own.len()
        && recorded.iter().zip(own).all(|(there, here)| {
            span(there.start, there.end) == span(here.start, here.end)
                && there.start - base == here.start - own_base
                && (there.backing == Backing::Vdso {}) == (here.name == b"[vdso]")
        });
    let mut taken: Vec<Range<u64>> = space.areas.iter().map(|a| a.start..a.end).collect();
    taken.push(stub);
    taken.extend(own.iter().map(|a| a.start..a.end));
    let len = own.last().map_or(0, |a| a.end) - own_base;
    if alike && bytes == space.vdso.0 {
        if base == own_base {
            return Ok(());
        }
        let overlap = base < own_base + len && own_base < base + len;
        if overlap {
            let aside = free(taken, len)?;
            move_all(process, own, own_base, aside)?;
            return move_all(process, own, aside, base).map_err(|e| moved(e, own_base));
        }
        return move_all(process, own, own_base, base);
    }
    let new = free(taken, len)?;
    move_all(process, own, own_base, new)?;
    let at = vdso.start - own_base + new;
    route(process, space, &bytes, at)
}

fn moved(error: Error, from: u64) -> Error {
    match error {
        Error::Kernel(kernel::Error::Call { what, errno }) => {
            kernel::Error::errno(format!("{what}, by way of {from:#x}"), errno).into()
        }
        other => other,
    }
}

/// Moves the kernel's areas, which lie from `from` on, to where they lie from `to` on, each by itself: kernels before
/// 6.17 move no more at once.
fn move_all(process: &mut TargetProcess, own: &[&maps::Area], from: u64, to: u64) -> Result<()> {
    let first = own.first().map_or(0, |area| area.start);
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let calls: Vec<Call> = own
        .iter()
        .map(|area| {
            let (at, len) = (area.start - first, area.end - area.start);
            Call::new(libc::SYS_mremap, &[from + at, len, len, flags, to + at])
        })
        .collect();
    process
        .leader
        .must_all(&calls, &|_| format!("move the vDSO to {to:#x}"))?;
    Ok(())
}

/// Lays the recorded vDSO at its address as ordinary memory and leads its functions to those of the host's, at `new`.
/// Zeros in place of the recorded clock pages make a thread that was inside the old code fall back to the system call.
fn route(process: &mut TargetProcess, space: &Space, host: &[u8], new: u64) -> Result<()> {
    let code = routed(&space.vdso.0, host, new).ok_or_else(|| {
        Error::Refused("the vDSO in the image is no ELF file that can be read".into())
    })?;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    for area in space.areas.iter().filter(|a| is_kernel_backing(&a.backing)) {
        let args = [
            area.start,
            area.len(),
            area.prot.0.into(),
            flags,
            u64::MAX,
            0,
        ];
        let map = Call::new(libc::SYS_mmap, &args);
        process
            .leader
            .must(&format!("map {:#x}", area.start), map)?;
        if area.backing == (Backing::Vdso {}) {
            let len = code.len().min(area.len() as usize);
            vm::force_write(process.pid, area.start, code.get(..len).unwrap_or_default())?;
        }
    }
    Ok(())
}

/// The recorded vDSO with each function that programs call replaced by a jump to the host's of the same name, or by the
/// system call it stands for.
fn routed(recorded: &[u8], host: &[u8], new: u64) -> Option<Vec<u8>> {
    let ours = elf::symbols(host)?;
    let mut code = recorded.to_vec();
    for (name, at) in elf::symbols(recorded)? {
        let target = ours.iter().find(|(n, _)| *n == name);
        let jump = match target {
            Some((_, offset)) => Some(arch::jump(new + offset)),
            None => arch::vdso_fallback(&name),
        };
        let Some(jump) = jump.filter(|_| name.starts_with("__vdso_")) else {
            continue;
        };
        let at = at as usize;
        code.get_mut(at..at + jump.len())?.copy_from_slice(&jump);
    }
    Some(code)
}
