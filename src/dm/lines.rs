//! The kernel's answer to a table query, read line by line where it lies.
//!
//! The crate reads it too, but makes two strings of each line: of a table of 200,000 lines that is more memory than all
//! else that a command needs.
//!
//! Invariant: any bytes give lines or an error, never a panic.
//!
//! Source: `struct dm_target_spec` of include/uapi/linux/dm-ioctl.h, and `retrieve_status` of drivers/md/dm-ioctl.c: `next`
//! counts from the first line.

use super::window::TYPE_LEN;
use crate::segments::{Target, TargetKind};
use crate::units::Sectors;

/// Where the fields of a `struct dm_target_spec` begin, and its length.
const LEN_AT: usize = 8;
const NEXT_AT: usize = 20;
const TYPE_AT: usize = 24;
const PARAMS_AT: usize = TYPE_AT + TYPE_LEN;

/// Reads `count` lines.
///
/// # Errors
/// What cannot be read, in words.
pub(super) fn parse(answer: &[u8], count: u32) -> Result<Vec<Target>, String> {
    // No more room than there can be lines: a wrong count must not ask for all memory.
    let most = answer.len() / PARAMS_AT;
    let mut table = Vec::with_capacity(usize::try_from(count).unwrap_or(most).min(most));
    walk(answer, count, |target| table.push(target))?;
    Ok(table)
}

/// Whether `count` lines are those of `table`.
///
/// # Errors
/// As [`parse`].
pub(super) fn are(answer: &[u8], count: u32, table: &[Target]) -> Result<bool, String> {
    let (mut expected, mut same) = (table.iter(), true);
    walk(answer, count, |target| same &= expected.next() == Some(&target))?;
    Ok(same && expected.next().is_none())
}

fn walk(answer: &[u8], count: u32, mut each: impl FnMut(Target)) -> Result<(), String> {
    let mut at = 0;
    for number in 0..count {
        let cut = || format!("line {number} is cut off");
        let line = answer.get(at..).filter(|line| line.len() > PARAMS_AT).ok_or_else(cut)?;
        let (start, len) = (number_at(line, 0).ok_or_else(cut)?, number_at(line, LEN_AT).ok_or_else(cut)?);
        let kind = text(line.get(TYPE_AT..PARAMS_AT).unwrap_or_default());
        let params = text(line.get(PARAMS_AT..).unwrap_or_default());
        let (kind, params) = kind.zip(params).ok_or_else(|| format!("line {number} is no text"))?;
        let kind = TargetKind::parse(kind, params).map_err(|error| error.to_string())?;
        each(Target { start: Sectors(start), len: Sectors(len), kind });
        at = next(line).filter(|next| *next > at).unwrap_or(answer.len());
    }
    Ok(())
}

#[allow(clippy::host_endian_bytes)] // an ioctl speaks the host's byte order
fn number_at(line: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*line.get(at..)?.first_chunk()?))
}

#[allow(clippy::host_endian_bytes)] // an ioctl speaks the host's byte order
fn next(line: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_ne_bytes(*line.get(NEXT_AT..)?.first_chunk()?)).ok()
}

/// The text up to the first zero byte.
fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(bytes.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::DevNo;

    /// Lines as the kernel writes them.
    #[allow(clippy::host_endian_bytes)] // an ioctl speaks the host's byte order
    fn answer(lines: &[(u64, u64, &str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (start, len, kind, params) in lines {
            let text = (params.len() + 1).next_multiple_of(8);
            let next = u32::try_from(out.len() + PARAMS_AT + text).unwrap();
            out.extend(start.to_ne_bytes());
            out.extend(len.to_ne_bytes());
            out.extend([0; 4]);
            out.extend(next.to_ne_bytes());
            out.extend(kind.bytes().chain(std::iter::repeat(0)).take(TYPE_LEN));
            out.extend(params.bytes().chain(std::iter::repeat(0)).take(text));
        }
        out
    }

    #[test]
    fn lines_are_read_as_they_stand() {
        let bytes = answer(&[(0, 8, "linear", "8:1 100"), (8, 2, "error", ""), (10, 6, "thin", "253:1 7")]);
        let device = DevNo { major: 8, minor: 1 };
        let kinds = [
            TargetKind::Linear { device, offset: Sectors(100) },
            TargetKind::Error,
            TargetKind::other("thin", "253:1 7"),
        ];
        let places = [(0, 8), (8, 2), (10, 6)];
        let expected: Vec<Target> = places
            .into_iter()
            .zip(kinds)
            .map(|((start, len), kind)| Target { start: Sectors(start), len: Sectors(len), kind })
            .collect();
        assert_eq!(are(&bytes, 3, &expected), Ok(true));
        assert_eq!(are(&bytes, 2, &expected), Ok(false));
        assert_eq!(are(&bytes, 3, &expected[..2]), Ok(false));
        let mut other = expected.clone();
        other[1].len = Sectors(3);
        assert_eq!(are(&bytes, 3, &other), Ok(false));
        assert_eq!(parse(&bytes, 3), Ok(expected));
        assert_eq!(parse(&bytes, 0), Ok(vec![]));
        assert_eq!(parse(&[], 0), Ok(vec![]));
    }

    #[test]
    fn what_is_cut_off_or_wrong_is_an_error() {
        let bytes = answer(&[(0, 8, "linear", "8:1 100"), (8, 2, "error", "")]);
        for len in 0..bytes.len() - 7 {
            assert!(parse(&bytes[..len], 2).is_err(), "{len}");
        }
        assert!(parse(&bytes, 3).is_err());
        assert!(parse(&bytes, u32::MAX).is_err());
        assert!(parse(&answer(&[(0, 8, "linear", "8:1")]), 1).unwrap_err().contains("linear"));
        let mut loops = bytes.clone();
        loops[NEXT_AT..TYPE_AT].fill(0);
        assert!(parse(&loops, 2).is_err(), "a line that leads to itself");
        let mut odd = bytes;
        odd[TYPE_AT..PARAMS_AT].fill(b'x');
        assert!(parse(&odd, 2).is_err(), "a type without an end");
        odd[TYPE_AT] = 0xff;
        assert!(parse(&odd, 2).is_err());
    }
}
