//! The map as bytes: compact enough for 100,000 scattered extents in a copy.
//!
//! Layout (docs/FORMAT.md, "Map section"): a head of 40 bytes, then one group of extents for each spare that has
//! any, then the losses. Inside a group extents are sorted by their place on main and written in blocks of up to
//! 256: for each column (gap, length, slot) the smallest value and a bit width, then the values less the smallest,
//! packed. This is "frame of reference" coding; see Goldstein, Ramakrishnan and Shaft, "Compressing relations and
//! indexes" (1998). Extents are counted in units, losses in sectors.

use super::bits::{BitReader, BitWriter, width_of};
use crate::map::{Extent, Fate, Map, MapError, Slot, SpareIndex};
use crate::units::{Range, Sectors};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Entries in a full block.
const BLOCK: usize = 256;

/// The most extents, and the most runs of losses, that a map section may have. A table cannot have more pieces (1,048,576),
/// and rows that follow a pattern take so few bytes that a hostile section could ask for any amount of memory.
pub const MAX_ROWS: u64 = 1 << 20;

/// First bytes of the map section.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMapHead {
    main_len: U64,
    unit: U32,
    groups: U32,
    extents: U64,
    losses: U64,
    reserved: U64,
}

/// First bytes of the extents of one spare.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawGroupHead {
    spare: U32,
    extents: U32,
}

/// First bytes of one column of a block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawColumnHead {
    smallest: U64,
    width: u8,
}

const _: () = {
    assert!(size_of::<RawMapHead>() == 40);
    assert!(size_of::<RawGroupHead>() == 8);
    assert!(size_of::<RawColumnHead>() == 9);
};

/// Why a map section makes no sense (its checksum was right, so it was written like this).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapSectionError {
    /// It ends in the middle of something.
    #[error("the map section ends too early")]
    Truncated,
    /// A number is out of bounds.
    #[error("the map section has an impossible {0}")]
    Impossible(&'static str),
    /// The entries contradict each other.
    #[error("the map section contradicts itself: {0}")]
    Contradiction(#[from] MapError),
}

/// Encodes a map.
pub fn encode(map: &Map) -> Vec<u8> {
    let unit = map.unit().0.max(1);
    let mut groups: std::collections::BTreeMap<SpareIndex, Vec<Extent>> = Default::default();
    for extent in map.extents() {
        groups.entry(extent.slot.spare).or_default().push(extent);
    }
    let head = RawMapHead {
        main_len: map.main_len().0.into(),
        unit: u32::try_from(unit).unwrap_or(u32::MAX).into(),
        groups: u32::try_from(groups.len()).unwrap_or(u32::MAX).into(),
        extents: to_u64(map.len()).into(),
        losses: to_u64(map.losses().len()).into(),
        reserved: 0.into(),
    };
    let mut out = head.as_bytes().to_vec();
    for (spare, extents) in groups {
        let count = u32::try_from(extents.len()).unwrap_or(u32::MAX);
        let group = RawGroupHead { spare: u32::from(spare.0).into(), extents: count.into() };
        out.extend_from_slice(group.as_bytes());
        let mut end = 0;
        let rows: Vec<[u64; 3]> = extents
            .iter()
            .map(|e| {
                let start = e.range.start().0 / unit;
                let len = e.range.len().0.div_ceil(unit);
                let row = [start - end, len - 1, e.slot.start.0 / unit];
                end = start + len;
                row
            })
            .collect();
        put_rows(&mut out, &rows);
    }
    let mut end = 0;
    let rows: Vec<[u64; 3]> = map
        .losses()
        .iter()
        .map(|loss| {
            let row = [loss.range.start().0 - end, loss.range.len().0 - 1, fate_code(loss.fate)];
            end = loss.range.end().0;
            row
        })
        .collect();
    put_rows(&mut out, &rows);
    out
}

/// Decodes a map. Every number is checked; the result obeys all invariants of [`Map`].
///
/// # Errors
/// See [`MapSectionError`].
pub fn decode(bytes: &[u8]) -> Result<Map, MapSectionError> {
    let (head, mut rest) = RawMapHead::read_from_prefix(bytes).map_err(|_| MapSectionError::Truncated)?;
    let unit = Sectors(u64::from(head.unit.get()));
    let mut map = Map::new(Sectors(head.main_len.get()), unit)?;
    if head.extents.get() > MAX_ROWS || head.losses.get() > MAX_ROWS {
        return Err(MapSectionError::Impossible("number of rows"));
    }
    let mut extents = 0u64;
    for _ in 0..head.groups.get() {
        let (group, after) = RawGroupHead::read_from_prefix(rest).map_err(|_| MapSectionError::Truncated)?;
        rest = after;
        let spare = u8::try_from(group.spare.get())
            .ok()
            .filter(|s| usize::from(*s) < super::MAX_SPARES)
            .ok_or(MapSectionError::Impossible("spare"))?;
        let mut end = 0u64;
        if extents.saturating_add(u64::from(group.extents.get())) > head.extents.get() {
            return Err(MapSectionError::Impossible("number of extents"));
        }
        take_rows(&mut rest, u64::from(group.extents.get()), |[gap, len, slot]| {
            let (range, next) = units_range(end, gap, len, unit, map.main_len())?;
            end = next;
            let start = Sectors(slot).checked_mul(unit.0).ok_or(MapSectionError::Impossible("slot"))?;
            map.insert(range, Slot { spare: SpareIndex(spare), start })?;
            Ok(())
        })?;
        extents = extents.saturating_add(u64::from(group.extents.get()));
    }
    if extents != head.extents.get() {
        return Err(MapSectionError::Impossible("number of extents"));
    }
    let mut end = 0u64;
    take_rows(&mut rest, head.losses.get(), |[gap, len, code]| {
        let (range, next) = units_range(end, gap, len, Sectors(1), map.main_len())?;
        end = next;
        let fate = fate_of(code).ok_or(MapSectionError::Impossible("fate"))?;
        map.record_loss(range, fate)?;
        Ok(())
    })?;
    if !rest.iter().all(|&b| b == 0) {
        return Err(MapSectionError::Impossible("tail"));
    }
    map.shrink();
    Ok(map)
}

/// The range that a row stands for, clipped to main, and the end of the row in units.
fn units_range(
    end: u64,
    gap: u64,
    len_less_one: u64,
    unit: Sectors,
    limit: Sectors,
) -> Result<(Range, u64), MapSectionError> {
    let checked = || {
        let start = end.checked_add(gap)?;
        let next = start.checked_add(len_less_one)?.checked_add(1)?;
        let first = Sectors(start).checked_mul(unit.0)?;
        let last = Sectors(next).checked_mul(unit.0)?.min(limit);
        Some((Range::between(first, last)?, next))
    };
    checked().ok_or(MapSectionError::Impossible("place on main"))
}

fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn fate_code(fate: Fate) -> u64 {
    match fate {
        Fate::Held => 1,
        Fate::Zeroed => 2,
        Fate::Left => 3,
        Fate::Rewritten => 4,
        Fate::HeldStale => 5,
    }
}

fn fate_of(code: u64) -> Option<Fate> {
    [Fate::Held, Fate::Zeroed, Fate::Left, Fate::Rewritten, Fate::HeldStale]
        .into_iter()
        .find(|fate| fate_code(*fate) == code)
}

fn put_rows(out: &mut Vec<u8>, rows: &[[u64; 3]]) {
    for block in rows.chunks(BLOCK) {
        for column in 0..3 {
            let values = || block.iter().filter_map(move |row| row.get(column).copied());
            let smallest = values().min().unwrap_or(0);
            let width = width_of(values().max().unwrap_or(0) - smallest);
            let head = RawColumnHead { smallest: smallest.into(), width: u8::try_from(width).unwrap_or(64) };
            out.extend_from_slice(head.as_bytes());
            let mut bits = BitWriter::default();
            for value in values() {
                bits.put(value - smallest, width);
            }
            out.extend_from_slice(&bits.finish());
        }
    }
}

fn take_rows(
    rest: &mut &[u8],
    count: u64,
    mut each: impl FnMut([u64; 3]) -> Result<(), MapSectionError>,
) -> Result<(), MapSectionError> {
    let mut left = count;
    while left > 0 {
        let rows = usize::try_from(left.min(to_u64(BLOCK))).unwrap_or(BLOCK);
        let mut columns = [[0u64; BLOCK]; 3];
        for column in &mut columns {
            take_column(rest, column.get_mut(..rows).unwrap_or_default())?;
        }
        let [gaps, lens, places] = &columns;
        for ((gap, len), place) in gaps.iter().zip(lens).zip(places).take(rows) {
            each([*gap, *len, *place])?;
        }
        left -= to_u64(rows);
    }
    Ok(())
}

fn take_column(rest: &mut &[u8], column: &mut [u64]) -> Result<(), MapSectionError> {
    let (head, after) = RawColumnHead::read_from_prefix(rest).map_err(|_| MapSectionError::Truncated)?;
    let width = u32::from(head.width);
    if width > 64 {
        return Err(MapSectionError::Impossible("bit width"));
    }
    let bytes = (column.len() * usize::from(head.width)).div_ceil(8);
    let (packed, after) = after.split_at_checked(bytes).ok_or(MapSectionError::Truncated)?;
    *rest = after;
    let mut bits = BitReader::new(packed);
    for value in column {
        let packed = bits.take(width).ok_or(MapSectionError::Truncated)?;
        *value = packed.checked_add(head.smallest.get()).ok_or(MapSectionError::Impossible("value"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Scatters `count` one-unit extents over `units` units, slots in random order over `spares` spares.
    fn scattered(count: u64, units: u64, spares: u64) -> Map {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut map = Map::new(Sectors(units * 8), Sectors(8)).unwrap();
        let mut slots: Vec<u64> = (0..count).collect();
        for i in (1..slots.len()).rev() {
            slots.swap(i, (random() % (i as u64 + 1)) as usize);
        }
        for slot in slots {
            loop {
                let at = Range::new(Sectors(random() % units * 8), Sectors(8)).unwrap();
                let spare = SpareIndex((slot % spares) as u8);
                let start = Sectors(10_240 + slot / spares * 16);
                if map.insert(at, Slot { spare, start }).is_ok() {
                    break;
                }
            }
        }
        map
    }

    #[test]
    fn a_hundred_thousand_scattered_extents_fit_in_any_order_on_the_largest_disks() {
        // 24 TB with slots in the order in which sectors went bad: nothing is sorted.
        for spares in [1, 3, 16] {
            let map = scattered(100_000, 6_000_000_000, spares);
            let bytes = encode(&map);
            // Leaves at least 40 KiB for header, configuration, sixteen spares and the rest.
            assert!(bytes.len() < super::super::COPY_MAX_BYTES - 40 * 1024, "{} spares: {}", spares, bytes.len());
            assert_eq!(decode(&bytes).unwrap(), map);
        }
    }

    #[test]
    fn an_empty_map_is_forty_bytes() {
        let map = Map::new(Sectors(1 << 40), Sectors(8)).unwrap();
        assert_eq!(encode(&map).len(), 40);
        assert_eq!(decode(&encode(&map)).unwrap(), map);
    }

    proptest! {
        #[test]
        fn maps_read_back(
            extents in prop::collection::vec((0u64..2000, 1u64..20, 0u8..16, 0u64..5000), 0..600),
            losses in prop::collection::vec((0u64..16_000, 1u64..20, 1u64..5), 0..40),
            tail in 0u64..8,
        ) {
            let mut map = Map::new(Sectors(2000 * 8 + tail), Sectors(8)).unwrap();
            for (start, len, spare, slot) in extents {
                let end = Sectors(((start + len) * 8).min(map.main_len().0));
                let range = Range::between(Sectors(start * 8), end).unwrap();
                let _ = map.insert(range, Slot { spare: SpareIndex(spare), start: Sectors(10_240 + slot * 8) });
            }
            for (start, len, code) in losses {
                let _ = map.record_loss(Range::new(Sectors(start), Sectors(len)).unwrap(), fate_of(code).unwrap());
            }
            prop_assert_eq!(decode(&encode(&map)).unwrap(), map);
        }

        #[test]
        fn nonsense_is_an_error_and_not_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn flipped_bytes_are_an_error_or_a_valid_map(at in 0usize..200, bit in 0u8..8) {
            let mut bytes = encode(&scattered(30, 10_000, 2));
            if at < bytes.len() {
                bytes[at] ^= 1 << bit;
                if let Ok(map) = decode(&bytes) {
                    prop_assert_eq!(decode(&encode(&map)).unwrap(), map);
                }
            }
        }
    }
}
