//! The XSAVE image (Intel SDM volume 1, chapter 13), as ptrace gives it in the standard format: taken apart into its
//! components, and put together for a processor that may lay them out elsewhere.

use super::NT_XSTATE;
use crate::ptrace::Stopped;
use crate::{Error, Result};
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// `NT_PRFPREG`: the FXSAVE image, where the kernel has no XSAVE.
const NT_FPREGS: u32 = 2;
/// The legacy region without the bytes left to software (the last 48 of 512).
pub const LEGACY: usize = 464;
const FXSAVE: usize = 512;
/// The header behind the legacy region: `XSTATE_BV` is its first word.
const HEADER: usize = 64;
/// Where ptrace reports the enabled components (arch/x86/kernel/fpu/xstate.c, `xstate_fx_sw_bytes`).
const ENABLED: usize = LEGACY;
/// x87 and SSE, which every processor has.
const BASE: u64 = 3;

/// An XSAVE image by component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedState {
    /// x87 and SSE: [`LEGACY`] bytes.
    pub legacy: Vec<u8>,
    /// Components that are not in their initial state.
    pub in_use: u64,
    /// Components the kernel has enabled.
    pub enabled: u64,
    /// Number and bytes of each component in use, from 2 on.
    pub components: Vec<(u32, Vec<u8>)>,
}

/// Where components lie in the standard format: number, offset, size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout(Vec<(u32, usize, usize)>);

impl Layout {
    /// Of the processor we run on (CPUID leaf 0xD). Asked once: in a virtual machine each CPUID is an exit to its host, and
    /// there are 61 of them.
    pub fn here() -> &'static Self {
        static HERE: OnceLock<Layout> = OnceLock::new();
        HERE.get_or_init(Layout::ask)
    }

    fn ask() -> Self {
        // Leaf 0xD is there whenever XSAVE is; without it no image of a component ever comes here.
        let places = (2..63).filter_map(|number| {
            let found = __cpuid_count(0xd, number);
            let supervisor = found.ecx & 1 != 0;
            (found.eax != 0 && !supervisor).then_some((
                number,
                found.ebx as usize,
                found.eax as usize,
            ))
        });
        Layout(places.collect())
    }

    fn place(&self, number: u32) -> Option<std::ops::Range<usize>> {
        let (_, offset, size) = self.0.iter().find(|(n, ..)| *n == number)?;
        Some(*offset..offset + size)
    }
}

/// What users call a component (arch/x86/kernel/fpu/xstate.c, `xfeature_names`).
pub fn name(component: u32) -> String {
    match component {
        0 => "x87".into(),
        1 => "SSE".into(),
        2 => "AVX".into(),
        3 | 4 => "MPX".into(),
        5..=7 => "AVX-512".into(),
        9 => "protection keys".into(),
        11 | 12 => "shadow stacks".into(),
        17 | 18 => "AMX".into(),
        19 => "APX".into(),
        other => format!("processor state component {other}"),
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(found) = bytes.get(at..at + 8) {
        word.copy_from_slice(found);
    }
    u64::from_ne_bytes(word)
}

/// Takes an image apart. A component that is all zeros is in its initial state for what any program can see, and is
/// left out, so that a processor without it will do.
pub fn take_apart(image: &[u8], layout: &Layout) -> Result<ExtendedState> {
    let bad = |what: String| Error::unreadable("XSAVE image", what);
    if image.len() < FXSAVE {
        return Err(bad(format!("only {} bytes", image.len())));
    }
    let legacy = image[..LEGACY].to_vec();
    if image.len() < FXSAVE + HEADER {
        return Ok(ExtendedState {
            legacy,
            in_use: BASE,
            enabled: BASE,
            components: Vec::new(),
        });
    }
    let found = word(image, FXSAVE);
    let mut components = Vec::new();
    let mut in_use = found & BASE;
    for number in (2..63).filter(|n| found & 1 << n != 0) {
        let bytes = layout
            .place(number)
            .and_then(|place| image.get(place))
            .ok_or_else(|| bad(format!("no place for component {number}")))?;
        if bytes.iter().any(|byte| *byte != 0) {
            in_use |= 1 << number;
            components.push((number, bytes.to_vec()));
        }
    }
    Ok(ExtendedState {
        legacy,
        in_use,
        enabled: word(image, ENABLED),
        components,
    })
}

/// Puts an image of exactly `len` bytes together. The components must all be enabled here: see [`missing`].
pub fn put_together(state: &ExtendedState, layout: &Layout, len: usize) -> Result<Vec<u8>> {
    let bad = |what: String| Error::unreadable("extended state", what);
    if state.legacy.len() != LEGACY || len < FXSAVE {
        return Err(bad(format!("{} legacy bytes", state.legacy.len())));
    }
    let mut image = vec![0; len];
    image[..LEGACY].copy_from_slice(&state.legacy);
    if len < FXSAVE + HEADER {
        return Ok(image);
    }
    let mut in_use = state.in_use & BASE;
    for (number, bytes) in &state.components {
        let place = layout.place(*number);
        match place.and_then(|place| image.get_mut(place)) {
            Some(room) if room.len() == bytes.len() => room.copy_from_slice(bytes),
            Some(room) => {
                return Err(bad(format!(
                    "{} has {} bytes there and {} here",
                    name(*number),
                    bytes.len(),
                    room.len()
                )));
            }
            None => return Err(bad(format!("no place for {}", name(*number)))),
        }
        in_use |= 1 << number;
    }
    image[FXSAVE..FXSAVE + 8].copy_from_slice(&in_use.to_ne_bytes());
    Ok(image)
}

/// Reads a stopped task's extended state.
pub fn read(task: &Stopped) -> Result<ExtendedState> {
    take_apart(&image(task)?.1, Layout::here())
}

/// Components that the kernel gives memory for only when a task first uses them, which ptrace cannot make happen
/// (Documentation/arch/x86/xstate.rst).
const DYNAMIC: u64 = 1 << 18;

/// The names of what `components` (a set of bits) needs and this host's kernel and processor do not have.
pub fn missing(components: u64) -> Vec<String> {
    let lost = components & (!enabled() | DYNAMIC) & !BASE;
    let mut names: Vec<String> = (0..64).filter(|n| lost & 1 << n != 0).map(name).collect();
    names.dedup();
    names
}

/// XCR0: the components the kernel has enabled.
fn enabled() -> u64 {
    #[target_feature(enable = "xsave")]
    fn xcr0() -> u64 {
        // SAFETY: the caller has seen that the processor has XSAVE and that the kernel has enabled it.
        unsafe { std::arch::x86_64::_xgetbv(0) }
    }
    if std::arch::is_x86_feature_detected!("xsave") {
        // SAFETY: XSAVE is there, as the line above found.
        unsafe { xcr0() }
    } else {
        BASE
    }
}

/// Gives a stopped task its extended state.
pub fn write(task: &mut Stopped, state: &ExtendedState) -> Result<()> {
    let (set, image) = image(task)?;
    let image = put_together(state, Layout::here(), image.len())?;
    task.set_register_set(set, &image)
}

/// The register set there is, and what it holds: its length is the one the kernel insists on.
fn image(task: &Stopped) -> Result<(u32, Vec<u8>)> {
    match task.register_set(NT_XSTATE) {
        Ok(image) => Ok((NT_XSTATE, image)),
        Err(e) if [Some(libc::ENODEV), Some(libc::EINVAL)].contains(&e.raw()) => {
            Ok((NT_FPREGS, task.register_set(NT_FPREGS)?))
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(in_use: u64) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[..LEGACY].fill(7);
        image[ENABLED..ENABLED + 8].copy_from_slice(&0xe7u64.to_ne_bytes());
        image[FXSAVE..FXSAVE + 8].copy_from_slice(&in_use.to_ne_bytes());
        image[600] = 9;
        image
    }

    #[test]
    fn components_move_to_where_another_processor_has_them() {
        let there = Layout(vec![(2, 576, 100), (5, 700, 8)]);
        let here = Layout(vec![(2, 640, 100), (5, 576, 8)]);
        let state = take_apart(&image(0b100111), &there).unwrap();
        assert_eq!((state.enabled, state.in_use), (0xe7, 0b111), "5 is zero");
        let moved = put_together(&state, &here, 2048).unwrap();
        assert_eq!((moved.len(), moved[664], moved[600]), (2048, 9, 0));
        assert_eq!(
            take_apart(&moved, &here).unwrap().components,
            state.components
        );
    }

    #[test]
    fn a_component_of_another_size_or_without_a_place_is_refused() {
        let there = Layout(vec![(2, 576, 100)]);
        let state = take_apart(&image(7), &there).unwrap();
        for here in [Layout(vec![(2, 576, 99)]), Layout(vec![])] {
            assert!(put_together(&state, &here, 2048).is_err());
        }
        assert!(put_together(&state, &there, 600).is_err());
        assert!(take_apart(&[0; 100], &there).is_err());
    }

    #[test]
    fn without_xsave_the_legacy_part_is_all() {
        let state = take_apart(&[3; 512], &Layout(vec![])).unwrap();
        assert_eq!((state.in_use, state.components.len()), (3, 0));
        assert_eq!(
            put_together(&state, &Layout(vec![]), 512).unwrap()[..LEGACY],
            [3; LEGACY]
        );
    }
}
