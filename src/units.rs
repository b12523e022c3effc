//! Sectors, bytes, ranges and device numbers as types of their own.
//!
//! Invariants:
//! - a sector is 512 bytes, everywhere, whatever the logical block size of a device;
//! - arithmetic is checked: nothing wraps and nothing truncates silently;
//! - a [`Range`] is never empty and its end always fits in 64 bits.

mod range_set;

pub use range_set::RangeSet;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes in a sector.
pub const SECTOR_SIZE: usize = 512;

/// [`SECTOR_SIZE`] for 64-bit arithmetic.
const SECTOR_SIZE_U64: u64 = 512;

/// A number of 512-byte sectors: a length, or a position counted from the start of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sectors(pub u64);

impl Sectors {
    /// No sectors, or the first sector of a device.
    pub const ZERO: Sectors = Sectors(0);

    /// Sum; `None` when it does not fit in 64 bits.
    pub const fn checked_add(self, other: Sectors) -> Option<Sectors> {
        match self.0.checked_add(other.0) {
            Some(n) => Some(Sectors(n)),
            None => None,
        }
    }

    /// Difference; `None` when `other` is larger.
    pub const fn checked_sub(self, other: Sectors) -> Option<Sectors> {
        match self.0.checked_sub(other.0) {
            Some(n) => Some(Sectors(n)),
            None => None,
        }
    }

    /// Product; `None` when it does not fit in 64 bits.
    pub const fn checked_mul(self, factor: u64) -> Option<Sectors> {
        match self.0.checked_mul(factor) {
            Some(n) => Some(Sectors(n)),
            None => None,
        }
    }

    /// Difference, or zero when `other` is larger.
    pub const fn saturating_sub(self, other: Sectors) -> Sectors {
        Sectors(self.0.saturating_sub(other.0))
    }

    /// The same length in bytes; `None` when it does not fit in 64 bits.
    pub const fn to_bytes(self) -> Option<Bytes> {
        match self.0.checked_mul(SECTOR_SIZE_U64) {
            Some(n) => Some(Bytes(n)),
            None => None,
        }
    }

    /// The same length in bytes as a `usize` for buffers; `None` when it does not fit.
    pub fn to_usize_bytes(self) -> Option<usize> {
        usize::try_from(self.to_bytes()?.0).ok()
    }

    /// Whether this position or length is a multiple of `unit`. Nothing is a multiple of zero.
    pub const fn is_multiple_of(self, unit: Sectors) -> bool {
        unit.0 != 0 && self.0.is_multiple_of(unit.0)
    }

    /// The largest multiple of `unit` that is not above this; itself when `unit` is zero.
    pub const fn align_down(self, unit: Sectors) -> Sectors {
        match self.0.checked_rem(unit.0) {
            Some(rest) => Sectors(self.0 - rest),
            None => self,
        }
    }

    /// The smallest multiple of `unit` that is not below this; `None` when it does not fit or `unit` is zero.
    pub const fn align_up(self, unit: Sectors) -> Option<Sectors> {
        match self.0.checked_next_multiple_of(unit.0) {
            Some(n) => Some(Sectors(n)),
            None => None,
        }
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// Whole sectors in this many bytes, rounded down.
    pub const fn to_sectors_down(self) -> Sectors {
        Sectors(self.0 / SECTOR_SIZE_U64)
    }
}

impl fmt::Display for Bytes {
    /// Binary units with one decimal, as `lsblk` prints them: `512 B`, `4.0 KiB`, `1.5 TiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut tenths = u128::from(self.0) * 10;
        let mut name = "B";
        for next in NAMES {
            if tenths < 10_240 {
                break;
            }
            tenths /= 1024;
            name = next;
        }
        if name == "B" { write!(f, "{} B", self.0) } else { write!(f, "{}.{} {name}", tenths / 10, tenths % 10) }
    }
}

/// A run of sectors: never empty, and its end fits in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawRange", into = "RawRange")]
pub struct Range {
    start: Sectors,
    len: Sectors,
}

/// The serialised form of a [`Range`], before it is checked.
#[derive(Serialize, Deserialize)]
struct RawRange {
    start: Sectors,
    count: Sectors,
}

impl TryFrom<RawRange> for Range {
    type Error = UnitError;
    fn try_from(raw: RawRange) -> Result<Self, UnitError> {
        Range::new(raw.start, raw.count).ok_or(UnitError::BadRange(raw.start.0, raw.count.0))
    }
}

impl From<Range> for RawRange {
    fn from(range: Range) -> Self {
        RawRange { start: range.start, count: range.len }
    }
}

impl Range {
    /// The largest range there is: stands for "everything" and in messages for a range that does not fit.
    pub const MAX: Range = Range { start: Sectors::ZERO, len: Sectors(u64::MAX) };

    /// The range of `len` sectors from `start`; `None` when it is empty or its end does not fit.
    pub const fn new(start: Sectors, len: Sectors) -> Option<Range> {
        if len.0 == 0 || start.checked_add(len).is_none() {
            return None;
        }
        Some(Range { start, len })
    }

    /// The range from `start` up to, but without, `end`; `None` when it would be empty.
    pub const fn between(start: Sectors, end: Sectors) -> Option<Range> {
        match end.checked_sub(start) {
            Some(len) => Range::new(start, len),
            None => None,
        }
    }

    /// First sector.
    pub const fn start(self) -> Sectors {
        self.start
    }

    /// Number of sectors, at least one. (There is no `is_empty`: a range never is.)
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(self) -> Sectors {
        self.len
    }

    /// The sector after the last one.
    pub const fn end(self) -> Sectors {
        // Cannot overflow: the constructors have checked it.
        Sectors(self.start.0.saturating_add(self.len.0))
    }

    /// Whether `sector` lies inside.
    pub const fn contains(self, sector: Sectors) -> bool {
        self.start.0 <= sector.0 && sector.0 < self.end().0
    }

    /// Whether all of `other` lies inside.
    pub const fn encloses(self, other: Range) -> bool {
        self.start.0 <= other.start.0 && other.end().0 <= self.end().0
    }

    /// The sectors that are in both; `None` when there are none.
    pub fn intersect(self, other: Range) -> Option<Range> {
        Range::between(self.start.max(other.start), self.end().min(other.end()))
    }

    /// Whether the two share a sector.
    pub fn overlaps(self, other: Range) -> bool {
        self.intersect(other).is_some()
    }

    /// The parts outside all of `holes`, which are sorted and disjoint.
    pub fn without(self, holes: &[Range]) -> Vec<Range> {
        let first = holes.partition_point(|hole| hole.end() <= self.start);
        let mut parts = Vec::new();
        let mut at = self.start;
        for hole in holes.iter().skip(first).take_while(|hole| hole.start < self.end()) {
            parts.extend(Range::between(at, hole.start));
            at = at.max(hole.end());
        }
        parts.extend(Range::between(at, self.end()));
        parts
    }

    /// The range in parts of `len` sectors, the last one perhaps shorter. One part when `len` is zero.
    pub fn chunks(self, len: Sectors) -> impl Iterator<Item = Range> {
        let step = if len.0 == 0 { self.len } else { len };
        let mut at = self.start;
        std::iter::from_fn(move || {
            let end = at.checked_add(step).unwrap_or(self.end()).min(self.end());
            let part = Range::between(at, end)?;
            at = end;
            Some(part)
        })
    }

    /// Grown outwards to multiples of `unit`, but not beyond `limit`; `None` when nothing is left below it.
    pub fn widen_to(self, unit: Sectors, limit: Sectors) -> Option<Range> {
        let end = self.end().align_up(unit).unwrap_or(limit).min(limit);
        Range::between(self.start.align_down(unit), end)
    }
}

impl fmt::Display for Range {
    /// `1000` for one sector, `1000+8` for more: the form that the command line takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len.0 == 1 { write!(f, "{}", self.start) } else { write!(f, "{}+{}", self.start, self.len) }
    }
}

impl FromStr for Range {
    type Err = UnitError;

    /// Reads `SECTOR`, `SECTOR+COUNT` or `FIRST-LAST` (inclusive), in decimal.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let number = |s: &str| s.parse::<u64>().map_err(|_| UnitError::NotARange(text.chars().take(80).collect()));
        if let Some((start, count)) = text.split_once('+') {
            let (start, count) = (number(start)?, number(count)?);
            return Range::new(Sectors(start), Sectors(count)).ok_or(UnitError::BadRange(start, count));
        }
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (number(first)?, number(last)?);
            return last
                .checked_add(1)
                .and_then(|end| Range::between(Sectors(first), Sectors(end)))
                .ok_or(UnitError::Backwards(first, last));
        }
        let start = number(text)?;
        Range::new(Sectors(start), Sectors(1)).ok_or(UnitError::BadRange(start, 1))
    }
}

/// Sorts ranges and joins those that touch or overlap.
pub fn coalesce(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end() => {
                if let Some(joined) = Range::between(last.start, last.end().max(range.end())) {
                    *last = joined;
                }
            }
            _ => out.push(range),
        }
    }
    out
}

/// What is wrong with a number that a person or a file gave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not of the form `SECTOR`, `SECTOR+COUNT` or `FIRST-LAST`.
    #[error("'{0}' is not a sector or a range: write SECTOR, SECTOR+COUNT or FIRST-LAST, in decimal")]
    NotARange(String),
    /// Empty, or its end does not fit in 64 bits.
    #[error("{0}+{1} is not a range: the count must be at least 1 and the end must fit in 64 bits")]
    BadRange(u64, u64),
    /// The last sector lies before the first.
    #[error("{0}-{1} is not a range: the last sector lies before the first")]
    Backwards(u64, u64),
}

/// The kernel's number for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DevNo {
    /// Major number: the driver.
    pub major: u32,
    /// Minor number: the device within the driver.
    pub minor: u32,
}

impl fmt::Display for DevNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for DevNo {
    type Err = UnitError;

    /// Reads `MAJOR:MINOR`, as sysfs and device-mapper tables write it.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::NotARange(text.chars().take(80).collect());
        let (major, minor) = text.trim().split_once(':').ok_or_else(bad)?;
        Ok(DevNo { major: major.parse().map_err(|_| bad())?, minor: minor.parse().map_err(|_| bad())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_read_and_write_the_same_text() {
        for text in ["0", "1000+8", "18446744073709551614"] {
            assert_eq!(text.parse::<Range>().unwrap().to_string(), text);
        }
        assert_eq!("10-19".parse::<Range>().unwrap().to_string(), "10+10");
        for bad in ["", "x", "1+0", "1+", "-3", "9-3", "18446744073709551615", "1+18446744073709551615"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_read_as_people_write_them() {
        assert_eq!(Bytes(511).to_string(), "511 B");
        assert_eq!(Bytes(4096).to_string(), "4.0 KiB");
        assert_eq!(Bytes(1536 * 1024).to_string(), "1.5 MiB");
        assert_eq!(Bytes(u64::MAX).to_string(), "15.9 EiB");
    }

    proptest! {
        #[test]
        fn widening_keeps_the_range_inside(start in 0u64..10_000, len in 1u64..500, shift in 0u32..6) {
            let (unit, limit) = (Sectors(1 << shift), Sectors(20_000));
            let range = Range::new(Sectors(start), Sectors(len)).unwrap();
            let wide = range.widen_to(unit, limit).unwrap();
            prop_assert!(wide.encloses(range));
            prop_assert!(wide.start().is_multiple_of(unit));
            prop_assert!(wide.end().is_multiple_of(unit) || wide.end() == limit);
        }

        #[test]
        fn what_is_without_holes_is_exactly_what_no_hole_has(raw in prop::collection::vec((0u64..200, 1u64..20), 0..12)) {
            let whole = Range::new(Sectors(50), Sectors(100)).unwrap();
            let holes = coalesce(raw.iter().map(|&(s, l)| Range::new(Sectors(s), Sectors(l)).unwrap()).collect());
            let parts = whole.without(&holes);
            for s in (0..230).map(Sectors) {
                let expected = whole.contains(s) && !holes.iter().any(|hole| hole.contains(s));
                prop_assert_eq!(parts.iter().filter(|part| part.contains(s)).count(), usize::from(expected));
            }
        }

        #[test]
        fn coalescing_keeps_exactly_the_same_sectors(raw in prop::collection::vec((0u64..200, 1u64..20), 0..30)) {
            let ranges: Vec<Range> = raw.iter().map(|&(s, l)| Range::new(Sectors(s), Sectors(l)).unwrap()).collect();
            let joined = coalesce(ranges.clone());
            for s in 0..230 {
                let inside = |set: &[Range]| set.iter().any(|r| r.contains(Sectors(s)));
                prop_assert_eq!(inside(&ranges), inside(&joined));
            }
            prop_assert!(joined.windows(2).all(|w| w[0].end() < w[1].start()));
        }
    }
}
