//! Lists of bad places that other programs write and read: e2fsprogs' badblocks lists and GNU ddrescue's mapfiles.
//!
//! Sources: badblocks(8) and e2fsck's reader (one block number a line); the ddrescue manual, "Mapfile structure".
//! Invariant: reading never panics, and every error names the line.

use crate::units::{Range, SECTOR_SIZE, Sectors, coalesce};
use std::fmt::Write;

/// A line that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ListError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

fn wrong(line: usize, what: impl Into<String>) -> ListError {
    ListError { line: line.saturating_add(1), what: what.into() }
}

/// Sectors that cover `len` bytes from byte `start`.
fn covering(start: u64, len: u64) -> Option<Range> {
    let sector = u64::try_from(SECTOR_SIZE).ok()?;
    let end = start.checked_add(len)?.div_ceil(sector);
    Range::between(Sectors(start / sector), Sectors(end))
}

/// Reads a badblocks list: one block number a line, blocks of `block_bytes` bytes. Empty lines and lines that begin
/// with `#` are passed over.
///
/// # Errors
/// [`ListError`] for a line that is not a number, or a block beyond what 64 bits can address.
pub fn read_badblocks(text: &str, block_bytes: u64) -> Result<Vec<Range>, ListError> {
    let mut out = Vec::new();
    for (line, content) in text.lines().enumerate() {
        let content = content.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let number: u64 =
            content.parse().map_err(|_| wrong(line, format!("'{}' is not a block number", shorten(content))))?;
        let range = number.checked_mul(block_bytes).and_then(|start| covering(start, block_bytes));
        out.push(range.ok_or_else(|| wrong(line, format!("block {number} is beyond any device")))?);
    }
    Ok(coalesce(out))
}

/// Writes a badblocks list of blocks of `block_bytes` bytes (a multiple of 512): every block that any range touches.
pub fn write_badblocks(ranges: &[Range], block_bytes: u64) -> String {
    let block = Sectors(block_bytes / 512).0.max(1);
    let mut out = String::new();
    let mut next = 0;
    for range in coalesce(ranges.to_vec()) {
        for number in (range.start().0 / block).max(next)..range.end().0.div_ceil(block) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{number}");
            next = number.saturating_add(1);
        }
    }
    out
}

/// What a mapfile says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapfile {
    /// Blocks of the wanted statuses.
    pub wanted: Vec<Range>,
    /// Bytes that ddrescue has not finished with (`?`, `*`, `/`), and which were not wanted.
    pub unfinished_bytes: u64,
}

/// Reads a mapfile: the ranges whose status is one of `statuses` (`-` is a bad sector).
///
/// # Errors
/// [`ListError`] for a line that is not of the form `position size status`.
pub fn read_mapfile(text: &str, statuses: &str) -> Result<Mapfile, ListError> {
    let mut out = Mapfile::default();
    let mut head = true;
    for (line, content) in text.lines().enumerate() {
        let content = content.split('#').next().unwrap_or_default();
        let words: Vec<&str> = content.split_ascii_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        if std::mem::take(&mut head) {
            // The first line is the position and status of the run; ddrescue up to 1.21 wrote no pass number.
            if words.len() >= 2 && words.len() <= 3 && number(words.first()).is_some() && is_status_line(&words) {
                continue;
            }
            return Err(wrong(line, "the first line is not ddrescue's 'current_pos current_status'"));
        }
        let (Some(start), Some(len), Some(status)) = (number(words.first()), number(words.get(1)), words.get(2)) else {
            return Err(wrong(line, format!("'{}' is not 'position size status'", shorten(content))));
        };
        if !matches!(*status, "?" | "*" | "/" | "-" | "+") || words.len() > 3 {
            return Err(wrong(line, format!("'{}' is not a block status", shorten(status))));
        }
        if statuses.contains(*status) {
            let range = covering(start, len).ok_or_else(|| wrong(line, "the block is empty or beyond any device"))?;
            out.wanted.push(range);
        } else if matches!(*status, "?" | "*" | "/") {
            out.unfinished_bytes = out.unfinished_bytes.saturating_add(len);
        }
    }
    if head {
        return Err(wrong(0, "the file is empty"));
    }
    out.wanted = coalesce(out.wanted);
    Ok(out)
}

fn is_status_line(words: &[&str]) -> bool {
    words.get(1).is_some_and(|s| matches!(*s, "?" | "*" | "/" | "-" | "F" | "G" | "+"))
}

/// A number as ddrescue writes it: hexadecimal with `0x`, or decimal.
fn number(word: Option<&&str>) -> Option<u64> {
    let word = word?;
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

/// Writes a mapfile for a device of `len` sectors on which `bad` is bad (`-`) and everything else finished (`+`).
pub fn write_mapfile(bad: &[Range], len: Sectors) -> String {
    let mut out = String::from("# Mapfile. Written by dm-remap\n# current_pos  current_status  current_pass\n");
    out.push_str("0x00000000     +               1\n#      pos        size  status\n");
    let mut put = |range: Range, status: char| {
        let bytes = |s: Sectors| s.to_bytes().map_or(u64::MAX, |b| b.0);
        let _ = writeln!(out, "0x{:08X}  0x{:08X}  {status}", bytes(range.start()), bytes(range.len()));
    };
    let mut at = Sectors::ZERO;
    for range in coalesce(bad.to_vec()) {
        if let Some(good) = Range::between(at, range.start()) {
            put(good, '+');
        }
        put(range, '-');
        at = range.end();
    }
    if let Some(good) = Range::between(at, len) {
        put(good, '+');
    }
    out
}

fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    #[test]
    fn a_badblocks_list_is_read_in_its_own_blocks() {
        assert_eq!(read_badblocks("5\n6\n\n# x\n9\n", 1024).unwrap(), [range(10, 4), range(18, 2)]);
        let error = read_badblocks("5\nsix\n", 1024).unwrap_err();
        assert_eq!(error.to_string(), "line 2: 'six' is not a block number");
        assert!(read_badblocks("18446744073709551615", 4096).is_err());
    }

    #[test]
    fn a_mapfile_of_ddrescue_is_read() {
        let text = "# Mapfile. Created by GNU ddrescue version 1.27\n# Command line: ddrescue /dev/sda img map\n\
            # current_pos  current_status  current_pass\n0x00120000     ?               1\n\
            #      pos        size  status\n0x00000000  0x00117000  +\n0x00117000  0x00000200  -\n\
            0x00117200  0x00001000  /\n0x00118200  0x00000001  -\n";
        let map = read_mapfile(text, "-").unwrap();
        assert_eq!(map.wanted, [range(0x117000 / 512, 1), range(0x118200 / 512, 1)]);
        assert_eq!(map.unfinished_bytes, 0x1000);
        assert!(read_mapfile("", "-").is_err());
        assert!(read_mapfile("hello\n", "-").is_err());
        assert!(read_mapfile("0 + 1\n0x0 0x200 !\n", "-").is_err());
        assert!(read_mapfile("0 + 1\n0x0 0x0 -\n", "-").is_err());
    }

    proptest! {
        #[test]
        fn lists_make_a_round_trip(raw in prop::collection::vec((0u64..5000, 1u64..30), 0..20)) {
            let ranges = coalesce(raw.into_iter().map(|(s, l)| range(s, l)).collect());
            prop_assert_eq!(&read_badblocks(&write_badblocks(&ranges, 512), 512).unwrap(), &ranges);
            let map = read_mapfile(&write_mapfile(&ranges, Sectors(6000)), "-").unwrap();
            prop_assert_eq!(&map.wanted, &ranges);
            prop_assert_eq!(map.unfinished_bytes, 0);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let _ = read_badblocks(&text, 1024);
            let _ = read_mapfile(&text, "-?*/");
        }
    }
}
