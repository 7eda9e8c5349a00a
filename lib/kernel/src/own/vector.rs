//! Vector registers of our own, held while something else happens: what a checkpoint must not lose is in no memory.

use std::arch::asm;
use std::sync::atomic::AtomicU8;

/// Fills every vector register there is with a pattern, spins until the flag is not 0, and gives the registers
/// as they are then: 32 bytes of each of 16 (AVX), or 16 (SSE).
pub fn hold(pattern: u64, until: &AtomicU8) -> Vec<u8> {
    let seeds: Vec<u64> = (0..64).map(|i| pattern.wrapping_mul(2 * i + 1)).collect();
    let mut found = vec![0u8; 16 * 32];
    if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: AVX is there; the loads and stores stay within 512 bytes, the length of both buffers; the flag
        // outlives the loop, and every register touched is declared.
        unsafe { hold_avx(seeds.as_ptr(), until.as_ptr(), found.as_mut_ptr()) };
    } else {
        found.truncate(16 * 16);
        // SAFETY: SSE2 is part of x86-64; the rest as above, with 256 bytes.
        unsafe { hold_sse(seeds.as_ptr(), until.as_ptr(), found.as_mut_ptr()) };
    }
    found
}

/// What [`hold`] gives where nothing is lost.
pub fn held(pattern: u64) -> Vec<u8> {
    let len = if std::arch::is_x86_feature_detected!("avx") {
        16 * 32
    } else {
        16 * 16
    };
    let seeds = (0..64u64).map(|i| pattern.wrapping_mul(2 * i + 1));
    let bytes: Vec<u8> = seeds.flat_map(u64::to_ne_bytes).collect();
    bytes[..len].to_vec()
}

macro_rules! holder {
    ($name:ident, $move:literal, $register:literal, $size:literal) => {
        unsafe fn $name(from: *const u64, until: *const u8, to: *mut u8) {
            // SAFETY: the caller gives 16 registers' room in `from` and `to` and a flag that lives.
            unsafe {
                asm!(
                    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    concat!($move, " ", $register, "\\n, [{from} + \\n * ", $size, "]"),
                    ".endr",
                    "2: pause",
                    "cmp byte ptr [{until}], 0",
                    "je 2b",
                    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    concat!($move, " [{to} + \\n * ", $size, "], ", $register, "\\n"),
                    ".endr",
                    from = in(reg) from,
                    until = in(reg) until,
                    to = in(reg) to,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
        }
    };
}

holder!(hold_avx, "vmovdqu", "ymm", "32");
holder!(hold_sse, "movdqu", "xmm", "16");

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn registers_are_held_while_others_work() {
        let until = AtomicU8::new(0);
        let found = std::thread::scope(|scope| {
            let holder = scope.spawn(|| hold(0x0123_4567_89ab_cdef, &until));
            std::thread::sleep(std::time::Duration::from_millis(20));
            until.store(1, Ordering::SeqCst);
            holder.join().unwrap()
        });
        assert_eq!(found, held(0x0123_4567_89ab_cdef));
    }
}
