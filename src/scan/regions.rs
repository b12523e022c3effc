//! The regions of main that are likely to give the next bad sectors: around those that were bad, weak, or moved.
//!
//! Bad sectors come in clusters: L. N. Bairavasundaram et al., "An analysis of latent sector errors in disk drives", SIGMETRICS 2007,
//! found further errors mostly within some megabytes of the first.
//!
//! Invariant: a region never leaves main, and holds nothing that was not asked for.

use super::survey::Found;
use crate::map::Map;
use crate::units::{Range, RangeSet, Sectors};

/// Sectors on both sides of a suspect that are read more often: 16 MiB.
pub const AROUND: Sectors = Sectors(16 << 11);

/// The regions around what has moved, what was lost, and what scans have found.
pub fn suspect_regions<'a>(map: &Map, found: impl IntoIterator<Item = &'a Found>) -> RangeSet {
    let mut suspects: Vec<Range> = map.extents().map(|extent| extent.range).collect();
    suspects.extend(map.losses().iter().map(|loss| loss.range));
    for found in found {
        suspects.extend(found.bad.iter());
        suspects.extend(found.weak.iter().map(|weak| weak.range));
        suspects.extend(found.recovered.iter().map(|recovered| recovered.range));
    }
    let around = |range: Range| {
        let end = Sectors(range.end().0.saturating_add(AROUND.0)).min(map.main_len());
        Range::between(range.start().saturating_sub(AROUND), end)
    };
    suspects.into_iter().filter_map(around).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{Slot, SpareIndex};
    use crate::scan::survey::Weak;

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    #[test]
    fn regions_surround_what_was_seen_and_stay_on_main() {
        let size = 1 << 24;
        let mut map = Map::new(Sectors(size), Sectors(8)).unwrap();
        assert!(suspect_regions(&map, []).is_empty(), "a disk without suspects is read as ever");
        let slot = Slot { spare: SpareIndex(0), start: Sectors(4096) };
        map.insert(range(800, 8), slot).unwrap();
        let mut found = Found::default();
        found.bad.insert(range(size - 8, 8));
        found.weak.push(Weak { range: range(1 << 20, 8), milliseconds: 900 });
        let regions: Vec<Range> = suspect_regions(&map, [&found]).iter().collect();
        let around = AROUND.0;
        let expected =
            [range(0, 808 + around), range((1 << 20) - around, 8 + 2 * around), range(size - 8 - around, 8 + around)];
        assert_eq!(regions, expected);
        // What lies beyond the end (a found set of an older, larger main) gives nothing.
        let mut beyond = Found::default();
        beyond.bad.insert(range(size + 2 * around, 8));
        assert!(
            !suspect_regions(&Map::new(Sectors(size), Sectors(8)).unwrap(), [&beyond]).iter().any(|r| r.end().0 > size)
        );
    }
}
