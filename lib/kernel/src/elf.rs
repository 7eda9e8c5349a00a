//! The little of ELF that is needed (elf(5)): the build id of a file, the exported functions of a vDSO. 64-bit, little
//! endian; the bytes are not trusted.

/// A program header's fields that matter here.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    length: u64,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
/// `sizeof(Elf64_Sym)`.
const SYMBOL: u64 = 24;
/// More symbols than any vDSO has.
const MAX_SYMBOLS: u32 = 1024;

fn array<const N: usize>(bytes: &[u8], at: u64) -> Option<[u8; N]> {
    let at = usize::try_from(at).ok()?;
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn half(bytes: &[u8], at: u64) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn word(bytes: &[u8], at: u64) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: u64) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// The program headers; nothing where this is not a 64-bit little endian ELF file.
fn segments(bytes: &[u8]) -> Option<Vec<Segment>> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (long(bytes, 32)?, half(bytes, 54)?, half(bytes, 56)?);
    (0..u64::from(count))
        .map(|i| {
            let at = table.checked_add(i * u64::from(size))?;
            Some(Segment {
                kind: word(bytes, at)?,
                offset: long(bytes, at.checked_add(8)?)?,
                address: long(bytes, at.checked_add(16)?)?,
                length: long(bytes, at.checked_add(32)?)?,
            })
        })
        .collect()
}

/// The build id (`NT_GNU_BUILD_ID`) in the first bytes of a file, where it has one and it lies in them.
pub fn build_id(bytes: &[u8]) -> Option<Vec<u8>> {
    let notes = segments(bytes)?.into_iter().filter(|s| s.kind == PT_NOTE);
    for note in notes {
        let start = usize::try_from(note.offset).ok()?;
        let end = start.checked_add(usize::try_from(note.length).ok()?)?;
        let Some(mut rest) = bytes.get(start..end) else {
            continue;
        };
        // Elf64_Nhdr: lengths of name and content, type; then both, each filled up to four bytes.
        while let (Some(name), Some(content), Some(kind)) =
            (word(rest, 0), word(rest, 4), word(rest, 8))
        {
            let content_at = 12 + (name as usize).checked_next_multiple_of(4)?;
            let end = content_at.checked_add(content as usize)?;
            if kind == NT_GNU_BUILD_ID && rest.get(12..16) == Some(b"GNU\0") {
                return rest.get(content_at..end).map(<[u8]>::to_vec);
            }
            rest = rest
                .get(end.checked_next_multiple_of(4)?..)
                .unwrap_or_default();
        }
    }
    None
}

/// The defined symbols of a vDSO, as it lies in memory: name and offset from its start.
pub fn symbols(bytes: &[u8]) -> Option<Vec<(String, u64)>> {
    let segments = segments(bytes)?;
    // What addresses in it are relative to: 0 in every vDSO since Linux 3.15, another value before.
    let base = segments.iter().find(|s| s.kind == PT_LOAD)?;
    let base = base.address.checked_sub(base.offset)?;
    let dynamic = segments.iter().find(|s| s.kind == PT_DYNAMIC)?;
    let (mut hash, mut strings, mut table) = (None, None, None);
    for i in 0..dynamic.length / 16 {
        let at = dynamic.offset.checked_add(i * 16)?;
        let value = long(bytes, at.checked_add(8)?)?.checked_sub(base);
        match long(bytes, at)? {
            0 => break,
            DT_HASH => hash = value,
            DT_STRTAB => strings = value,
            DT_SYMTAB => table = value,
            _ => (),
        }
    }
    let (hash, strings, table) = (hash, strings?, table?);
    // The chain's length is the number of symbols; newer vDSOs have only the GNU hash, and end before the strings.
    let count = match hash {
        Some(hash) => word(bytes, hash.checked_add(4)?)?,
        None => u32::try_from(strings.checked_sub(table)? / SYMBOL).ok()?,
    };
    let mut found = Vec::new();
    for i in 1..u64::from(count.min(MAX_SYMBOLS)) {
        let at = table.checked_add(i * SYMBOL)?;
        let name_at = usize::try_from(strings.checked_add(word(bytes, at)?.into())?).ok()?;
        let (section, value) = (
            half(bytes, at.checked_add(6)?)?,
            long(bytes, at.checked_add(8)?)?,
        );
        let name = bytes.get(name_at..)?.split(|b| *b == 0).next()?;
        let Some(offset) = value.checked_sub(base) else {
            continue;
        };
        if section != 0 && offset < bytes.len() as u64 {
            found.push((String::from_utf8_lossy(name).into_owned(), offset));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vdso() -> Vec<u8> {
        let pid = std::process::id() as i32;
        let areas = crate::proc::maps::read(pid).unwrap();
        let area = areas.iter().find(|a| a.name == b"[vdso]").unwrap();
        let mut bytes = vec![0; (area.end - area.start) as usize];
        crate::vm::read(pid, area.start, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_functions_of_our_own_vdso_are_found() {
        let symbols = symbols(&vdso()).unwrap();
        let of = |name: &str| symbols.iter().find(|s| s.0 == name).map(|s| s.1);
        assert!(of("__vdso_clock_gettime").is_some_and(|at| at > 0));
        assert_eq!(of("clock_gettime"), of("__vdso_clock_gettime"));
        assert!(of("__vdso_getcpu").is_some());
    }

    #[test]
    fn a_build_id_is_what_readelf_prints() {
        let file = std::fs::read("/bin/sh").unwrap();
        let id = build_id(&file).unwrap();
        let text: String = id.iter().map(|b| format!("{b:02x}")).collect();
        let said = std::process::Command::new("readelf")
            .args(["-n", "/bin/sh"])
            .output()
            .unwrap();
        assert!(
            String::from_utf8_lossy(&said.stdout).contains(&text),
            "{text}"
        );
    }

    #[test]
    fn damaged_files_have_neither_and_do_no_harm() {
        let whole = vdso();
        for len in 0..whole.len().min(1200) {
            let cut = &whole[..len];
            let _ = (build_id(cut), symbols(cut));
            let mut spoilt = whole.clone();
            spoilt[len] ^= 0xff;
            let _ = (build_id(&spoilt), symbols(&spoilt));
        }
        assert_eq!(build_id(b"#!/bin/sh\n"), None);
        assert_eq!(symbols(&[]), None);
    }
}
