//! A tar entry's blocks: from a [`Member`] to bytes and back.
//!
//! There is exactly one way to write an entry at a given offset. The reader encodes again what it
//! decoded and compares, so that no two readers can see two things in the same bytes, and a changed
//! bit in a header is found at once.

use crate::format::{BLOCK, MAX_CONTENT, MAX_PATH, MAX_PAX, MAX_SEGMENTS, PAGE, check_path};
use crate::member::{Member, MemberKind, Segment};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Largest number in eleven octal digits: above it `size` and `mtime` go in PAX records.
const OCTAL_11: u64 = 0o77_777_777_777;
/// Largest number in seven octal digits: above it `uid` and `gid` go in PAX records.
const OCTAL_7: u32 = 0o7_777_777;
/// Name of the block that holds the PAX records; no reader of tar shows it.
const PAX_NAME: &[u8] = b"PaxHeaders";
/// Smallest `comment` record: `12 comment=` and a newline.
const SMALLEST_COMMENT: u64 = 12;

/// The blocks before an entry's content, and how long that content is.
pub(crate) struct Blocks {
    /// PAX header if one is needed, then the ustar header.
    pub head: Vec<u8>,
    /// The map at the start of a sparse file's content; empty for everything else.
    pub map: Vec<u8>,
    /// Bytes of content, the map included.
    pub content: u64,
}

/// Bytes that fill `len` up to whole blocks.
pub(crate) fn padding(len: u64) -> usize {
    let over = (len % BLOCK as u64) as usize;
    if over == 0 { 0 } else { BLOCK - over }
}

/// Bytes of the map before a sparse member's segments; 0 for every other member.
pub(crate) fn map_len(member: &Member) -> Result<usize, String> {
    match &member.kind {
        MemberKind::Sparse { size, segments } => Ok(encode_map(*size, segments)?.len()),
        _ => Ok(0),
    }
}

/// The one encoding of `member` at `offset` of the image; with `aligned` its content starts on a page.
pub(crate) fn encode(member: &Member, offset: u64, aligned: bool) -> Result<Blocks, String> {
    let path = member.path.as_os_str().as_bytes();
    check_path(path)?;
    let mut shown = path.to_vec();
    let (mut link, mut device, mut map) = (Vec::new(), None, Vec::new());
    let mut content = 0;
    let kind = match &member.kind {
        MemberKind::Directory => {
            shown.push(b'/');
            b'5'
        }
        MemberKind::Regular { size } => {
            content = *size;
            b'0'
        }
        MemberKind::Sparse { size, segments } => {
            map = encode_map(*size, segments)?;
            content = member.payload().saturating_add(map.len() as u64);
            b'0'
        }
        MemberKind::Symlink { target } => {
            link = target.as_os_str().as_bytes().to_vec();
            if link.is_empty() || link.len() > MAX_PATH || link.contains(&0) {
                return Err("the symbolic link has an impossible target".into());
            }
            b'2'
        }
        MemberKind::HardLink { target } => {
            link = target.as_os_str().as_bytes().to_vec();
            check_path(&link).map_err(|what| format!("the hard link's target: {what}"))?;
            b'1'
        }
        MemberKind::CharDevice { major, minor } => {
            device = Some((*major, *minor));
            b'3'
        }
        MemberKind::BlockDevice { major, minor } => {
            device = Some((*major, *minor));
            b'4'
        }
        MemberKind::Fifo => b'6',
    };
    if content > MAX_CONTENT {
        return Err(format!(
            "{content} bytes of content are more than {MAX_CONTENT}"
        ));
    }
    if member.mode > 0o7777 || member.mtime_ns >= 1_000_000_000 {
        return Err("its mode or time is out of range".into());
    }
    let mut pax = pax_records(member, &shown, &link, content)?;
    if aligned {
        align(&mut pax, offset);
    }
    if pax.len() as u64 > MAX_PAX {
        return Err(format!(
            "its extended attributes are more than {MAX_PAX} bytes"
        ));
    }

    let mut head = Vec::with_capacity(pax.len() + 3 * BLOCK);
    if !pax.is_empty() {
        let fields = Fields {
            name: PAX_NAME,
            mode: 0o600,
            size: pax.len() as u64,
            kind: b'x',
            ..Fields::default()
        };
        head.extend_from_slice(&fields.block());
        head.extend_from_slice(&pax);
        head.resize(head.len() + padding(pax.len() as u64), 0);
    }
    let fields = Fields {
        name: shown.get(..shown.len().min(100)).unwrap_or_default(),
        mode: member.mode,
        uid: if member.uid <= OCTAL_7 { member.uid } else { 0 },
        gid: if member.gid <= OCTAL_7 { member.gid } else { 0 },
        size: if content <= OCTAL_11 { content } else { 0 },
        mtime: u64::try_from(member.mtime)
            .ok()
            .filter(|time| *time <= OCTAL_11)
            .unwrap_or(0),
        kind,
        link: link.get(..link.len().min(100)).unwrap_or_default(),
        device,
    };
    if device.is_some_and(|(major, minor)| major > OCTAL_7 || minor > OCTAL_7) {
        return Err("its device number is out of range".into());
    }
    head.extend_from_slice(&fields.block());
    Ok(Blocks { head, map, content })
}

/// The PAX records of an entry, in their one order.
fn pax_records(
    member: &Member,
    shown: &[u8],
    link: &[u8],
    content: u64,
) -> Result<Vec<u8>, String> {
    let mut pax = Vec::new();
    // POSIX: values are UTF-8 unless hdrcharset says that they are the bytes of the system.
    if std::str::from_utf8(shown).is_err() || std::str::from_utf8(link).is_err() {
        record(&mut pax, b"hdrcharset", b"BINARY");
    }
    if let MemberKind::Sparse { size, .. } = &member.kind {
        record(&mut pax, b"GNU.sparse.major", b"1");
        record(&mut pax, b"GNU.sparse.minor", b"0");
        record(&mut pax, b"GNU.sparse.name", shown);
        record(
            &mut pax,
            b"GNU.sparse.realsize",
            size.to_string().as_bytes(),
        );
    } else if shown.len() > 100 || !shown.is_ascii() {
        record(&mut pax, b"path", shown);
    }
    if link.len() > 100 || !link.is_ascii() {
        record(&mut pax, b"linkpath", link);
    }
    if content > OCTAL_11 {
        record(&mut pax, b"size", content.to_string().as_bytes());
    }
    if member.uid > OCTAL_7 {
        record(&mut pax, b"uid", member.uid.to_string().as_bytes());
    }
    if member.gid > OCTAL_7 {
        record(&mut pax, b"gid", member.gid.to_string().as_bytes());
    }
    let plain = u64::try_from(member.mtime).is_ok_and(|time| time <= OCTAL_11);
    if !plain || member.mtime_ns != 0 {
        record(
            &mut pax,
            b"mtime",
            encode_time(member.mtime, member.mtime_ns).as_bytes(),
        );
    }
    for (name, value) in &member.xattrs {
        let name = name.as_bytes();
        if name.is_empty() || name.len() > 255 || name.contains(&0) || value.len() > 1 << 16 {
            return Err("an extended attribute has an impossible name or length".into());
        }
        let mut key = b"SCHILY.xattr.".to_vec();
        for byte in name {
            // As GNU tar writes them, since `=` ends the key.
            match byte {
                b'%' => key.extend_from_slice(b"%25"),
                b'=' => key.extend_from_slice(b"%3D"),
                _ => key.push(*byte),
            }
        }
        record(&mut pax, &key, value);
    }
    Ok(pax)
}

/// Appends one PAX record: its own length in decimal, a space, key, `=`, value, newline.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    pax.extend_from_slice(len.to_string().as_bytes());
    pax.push(b' ');
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

/// Appends the `comment` record that puts the content of an entry at `offset` on a page.
fn align(pax: &mut Vec<u8>, offset: u64) {
    let filled = pax.len() as u64 + SMALLEST_COMMENT;
    let two_headers = 2 * BLOCK as u64;
    let past = (offset % PAGE + two_headers + filled) % PAGE;
    let fill = filled + (PAGE - past) % PAGE - pax.len() as u64;
    // `fill` is the length of the whole record; its own digits are part of it.
    let spaces = fill as usize - b" comment=\n".len() - fill.to_string().len();
    record(pax, b"comment", &vec![b' '; spaces]);
}

/// A time as PAX writes it: seconds, and nine digits of a fraction if there is one.
fn encode_time(seconds: i64, ns: u32) -> String {
    if ns == 0 {
        return seconds.to_string();
    }
    if seconds >= 0 {
        return format!("{seconds}.{ns:09}");
    }
    // -1.5 is -2 seconds and 500,000,000 ns.
    let whole = i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    format!("-{}.{:09}", -whole / 1_000_000_000, -whole % 1_000_000_000)
}

fn decode_time(text: &str) -> Option<(i64, u32)> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "000000000"));
    if fraction.len() != 9 {
        return None;
    }
    let whole: i128 = whole.parse::<u64>().ok()?.into();
    let fraction: i128 = fraction.parse::<u32>().ok()?.into();
    let total = sign * (whole * 1_000_000_000 + fraction);
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).ok()?;
    Some((
        seconds,
        u32::try_from(total.rem_euclid(1_000_000_000)).ok()?,
    ))
}

/// The map of a sparse file as GNU tar's PAX format 1.0 has it: decimal lines, filled to a block.
fn encode_map(size: u64, segments: &[Segment]) -> Result<Vec<u8>, String> {
    if segments.len() > MAX_SEGMENTS {
        return Err(format!(
            "{} segments are more than {MAX_SEGMENTS}",
            segments.len()
        ));
    }
    let (mut at, block) = (0, BLOCK as u64);
    for Segment { start, len } in segments {
        let end = start
            .checked_add(*len)
            .filter(|end| *end <= size && *end <= MAX_CONTENT);
        let Some(end) = end.filter(|_| *start >= at && *len > 0) else {
            return Err(format!(
                "the segment {start}+{len} is out of order or out of the file"
            ));
        };
        if start % block != 0 || (len % block != 0 && end != size) {
            return Err(format!("the segment {start}+{len} is not of whole blocks"));
        }
        at = end;
    }
    // GNU tar knows the length of a file that ends in a hole by an empty last segment.
    let tail = at < size;
    let mut map = Vec::with_capacity(BLOCK + segments.len() * 24);
    let lines = segments
        .iter()
        .flat_map(|segment| [segment.start, segment.len]);
    let last = [size, 0];
    let count = segments.len() as u64 + u64::from(tail);
    for number in std::iter::once(count)
        .chain(lines)
        .chain(last.into_iter().filter(|_| tail))
    {
        map.extend_from_slice(number.to_string().as_bytes());
        map.push(b'\n');
    }
    map.resize(map.len() + padding(map.len() as u64), 0);
    Ok(map)
}

/// Reads the map of a sparse file of `size` bytes from whole blocks that `more` gives one by one.
pub(crate) fn decode_map<E: From<String>>(
    size: u64,
    mut more: impl FnMut() -> Result<Vec<u8>, E>,
) -> Result<Vec<Segment>, E> {
    let (mut text, mut at) = (Vec::new(), 0);
    let mut number = || -> Result<u64, E> {
        let mut value: Option<u64> = None;
        loop {
            let Some(byte) = text.get(at).copied() else {
                text = more()?;
                at = 0;
                continue;
            };
            at += 1;
            value = match (byte, value) {
                (b'0'..=b'9', value) => {
                    let digit = u64::from(byte - b'0');
                    let next = value
                        .unwrap_or(0)
                        .checked_mul(10)
                        .and_then(|v| v.checked_add(digit));
                    Some(next.ok_or_else(|| String::from("the sparse map has an absurd number"))?)
                }
                (b'\n', Some(value)) => return Ok(value),
                _ => return Err(String::from("the sparse map is not decimal lines").into()),
            };
        }
    };
    let count = number()?;
    if count > MAX_SEGMENTS as u64 + 1 {
        return Err(format!("{count} segments are more than {MAX_SEGMENTS}").into());
    }
    let mut segments = Vec::new();
    for index in 0..count {
        let (start, len) = (number()?, number()?);
        if index + 1 < count || (start, len) != (size, 0) {
            segments.push(Segment { start, len });
        }
    }
    Ok(segments)
}

/// The fields of a ustar block.
#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
    kind: u8,
    link: &'a [u8],
    device: Option<(u32, u32)>,
}

impl Fields<'_> {
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        // Each writes within its field; the block as a whole is longer than any of them.
        let mut put = |at: usize, text: &[u8]| {
            if let Some(mut field) = block.get_mut(at..) {
                let _ = field.write_all(text);
            }
        };
        put(0, self.name);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.uid).as_bytes());
        put(116, format!("{:07o}", self.gid).as_bytes());
        put(124, format!("{:011o}", self.size).as_bytes());
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, self.link);
        put(257, b"ustar\x0000");
        if let Some((major, minor)) = self.device {
            put(329, format!("{major:07o}").as_bytes());
            put(337, format!("{minor:07o}").as_bytes());
        }
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        if let Some(mut field) = block.get_mut(148..) {
            let _ = field.write_all(format!("{sum:06o}\0 ").as_bytes());
        }
        block
    }
}

/// A header as it was read: everything but a sparse file's map, which is content.
pub(crate) struct Decoded {
    /// The member; the segments of a sparse one are not filled in.
    pub member: Member,
    /// Bytes of content, a sparse file's map included.
    pub content: u64,
}

/// Whether a header block is one of PAX records, and then how many bytes of them follow.
pub(crate) fn pax_length(block: &[u8]) -> Result<Option<u64>, String> {
    if block.get(257..265) != Some(b"ustar\x0000") {
        return Err("it is not a tar header".into());
    }
    if block.get(156) != Some(&b'x') {
        return Ok(None);
    }
    let len = octal(block, 124, 11).ok_or("its PAX header has no length")?;
    if len > MAX_PAX {
        return Err(format!(
            "{len} bytes of PAX records are more than {MAX_PAX}"
        ));
    }
    Ok(Some(len))
}

/// What the PAX records and the ustar block of one entry say.
pub(crate) fn decode(pax: &[u8], block: &[u8]) -> Result<Decoded, String> {
    let bad = |field: &str| format!("its {field} makes no sense");
    let field = |at: usize, len: usize| block.get(at..at + len).unwrap_or_default();
    let number = |at, what| {
        octal(block, at, 7)
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| bad(what))
    };
    let mut path = until_zero(field(0, 100)).to_vec();
    let mut link = until_zero(field(157, 100)).to_vec();
    let mut content = octal(block, 124, 11).ok_or_else(|| bad("size"))?;
    let mut member = Member::new(PathBuf::new(), MemberKind::Fifo);
    member.mode = number(100, "mode")?;
    member.uid = number(108, "uid")?;
    member.gid = number(116, "gid")?;
    let mtime = octal(block, 136, 11).ok_or_else(|| bad("mtime"))?;
    member.mtime = i64::try_from(mtime).map_err(|_| bad("mtime"))?;
    let mut sparse = None;
    for_each_record(pax, |key, value| {
        let text = || std::str::from_utf8(value).map_err(|_| bad("PAX record"));
        let decimal = || text()?.parse::<u64>().map_err(|_| bad("PAX record"));
        match key {
            b"path" | b"GNU.sparse.name" => path = value.to_vec(),
            b"linkpath" => link = value.to_vec(),
            b"size" => content = decimal()?,
            b"uid" => member.uid = u32::try_from(decimal()?).map_err(|_| bad("uid"))?,
            b"gid" => member.gid = u32::try_from(decimal()?).map_err(|_| bad("gid"))?,
            b"mtime" => {
                (member.mtime, member.mtime_ns) =
                    decode_time(text()?).ok_or_else(|| bad("mtime"))?;
            }
            b"GNU.sparse.realsize" => sparse = Some(decimal()?),
            b"hdrcharset" | b"comment" | b"GNU.sparse.major" | b"GNU.sparse.minor" => (),
            _ => {
                let name = key.strip_prefix(b"SCHILY.xattr.").ok_or_else(|| {
                    format!(
                        "it has an unknown PAX record `{}`",
                        String::from_utf8_lossy(key)
                    )
                })?;
                member.xattrs.insert(xattr_name(name), value.to_vec());
            }
        }
        Ok(())
    })?;
    if content > MAX_CONTENT {
        return Err(format!(
            "{content} bytes of content are more than {MAX_CONTENT}"
        ));
    }
    let numbers =
        || Ok::<_, String>((number(329, "device number")?, number(337, "device number")?));
    let target = PathBuf::from(OsString::from_vec(link));
    member.kind = match block.get(156) {
        Some(b'0') => match sparse {
            Some(size) => MemberKind::Sparse {
                size,
                segments: Vec::new(),
            },
            None => MemberKind::Regular { size: content },
        },
        Some(b'1') => MemberKind::HardLink { target },
        Some(b'2') => MemberKind::Symlink { target },
        Some(b'3') => numbers().map(|(major, minor)| MemberKind::CharDevice { major, minor })?,
        Some(b'4') => numbers().map(|(major, minor)| MemberKind::BlockDevice { major, minor })?,
        Some(b'5') => {
            if path.pop() != Some(b'/') {
                return Err("its path is that of a directory without its slash".into());
            }
            MemberKind::Directory
        }
        Some(b'6') => MemberKind::Fifo,
        other => {
            let kind = char::from(*other.unwrap_or(&0))
                .escape_default()
                .to_string();
            return Err(format!("entries of type `{kind}` are not known"));
        }
    };
    check_path(&path)?;
    member.path = PathBuf::from(OsString::from_vec(path));
    Ok(Decoded { member, content })
}

fn xattr_name(key: &[u8]) -> OsString {
    let mut name = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'%', [b'2', b'5', after @ ..]) => (&b'%', after),
            (b'%', [b'3', b'D', after @ ..]) => (&b'=', after),
            other => other,
        };
        name.push(*byte);
        rest = after;
    }
    OsString::from_vec(name)
}

/// Calls `each` with key and value of every PAX record.
fn for_each_record(
    mut pax: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let bad = || String::from("its PAX records are not of the form `LENGTH KEY=VALUE`");
    while !pax.is_empty() {
        let space = pax
            .iter()
            .take(8)
            .position(|byte| *byte == b' ')
            .ok_or_else(bad)?;
        let digits = pax
            .get(..space)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let len = digits
            .and_then(|digits| digits.parse::<usize>().ok())
            .ok_or_else(bad)?;
        let (record, rest) = pax.split_at_checked(len).ok_or_else(bad)?;
        let record = record
            .get(space + 1..)
            .and_then(|record| record.strip_suffix(b"\n"));
        let record = record.ok_or_else(bad)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(bad)?;
        let (key, value) = record.split_at(equals);
        each(key, value.strip_prefix(b"=").unwrap_or_default())?;
        pax = rest;
    }
    Ok(())
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number of `len` octal digits.
fn octal(block: &[u8], at: usize, len: usize) -> Option<u64> {
    let digits = std::str::from_utf8(block.get(at..at + len)?).ok()?;
    u64::from_str_radix(digits, 8).ok()
}
