//! Writes an image of so many MiB of pages to standard output: to measure with.
//!
//! `cargo run --release -p image --example generate -- 2048 | verify`

use image::{Header, Pages, Range, Space, Writer, ids::SpaceId};
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mib: u64 = std::env::args().nth(1).unwrap_or_default().parse()?;
    let out =
        std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned()?);
    let mut writer = Writer::new(out, &Header::new("generate", "generated", "0"))?;
    // Half noise, half words, as a heap has it: about what zstd makes of real ones.
    let mut state = 1u64;
    let bytes: Vec<u8> = (0..4 << 20)
        .map(|at| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if at % 64 < 24 {
                (state >> 56) as u8
            } else {
                b"object: "[at % 8]
            }
        })
        .collect();
    let mut left = mib;
    while left > 0 {
        let now = left.min(256);
        let ranges = vec![Range {
            start: 0,
            len: now << 20,
        }];
        let mut entry = writer.pages(&Pages {
            space: Space::Mm(SpaceId(1)),
            ranges,
        })?;
        for at in 0..now {
            let start = (at % 4) << 20;
            let piece = bytes
                .get(start as usize..(start + (1 << 20)) as usize)
                .unwrap_or_default();
            entry.write_all(piece)?;
        }
        left -= now;
    }
    writer.finish()?;
    Ok(())
}
