//! The map against sizes, slots against each other, bad sectors against slots.

use super::{Check, Subject};
use crate::format::{COPY_STARTS, copy_range};
use crate::map::{Extent, Fate, Map, SpareIndex};
use crate::units::{Range, RangeSet, Sectors};

pub(super) fn checks(subject: &Subject<'_>) -> [Check; 4] {
    [extents(subject), slots(subject), bad_blocks(subject), losses(subject)]
}

/// The sectors of the spare that an extent takes: whole units.
pub(super) fn taken(map: &Map, extent: &Extent) -> Option<Range> {
    Range::new(extent.slot.start, map.slot_len(extent.range.len())?)
}

/// Every row of the map against main, and against the others.
fn extents(subject: &Subject<'_>) -> Check {
    let map = &subject.copy.metadata.map;
    let (unit, len) = (map.unit(), map.main_len());
    let mut check =
        Check::new("extents", format!("{} extents, {} of {len} sectors of main", map.len(), map.remapped()));
    if !unit.0.is_power_of_two() {
        check.error(format!("the unit of {unit} sectors is no power of two"));
    }
    let mut end = Sectors::ZERO;
    for extent in map.extents() {
        let range = extent.range;
        if range.start() < end {
            check.error(format!("sectors {range} are mapped twice"));
        }
        end = end.max(range.end());
        if range.end() > len {
            check.error(format!("sectors {range} are beyond the end of main"));
        }
        let whole = range.end().is_multiple_of(unit) || range.end() == len;
        if !range.start().is_multiple_of(unit) || !whole {
            check.error(format!("sectors {range} are not whole units of {unit}"));
        }
    }
    check
}

/// Every slot against its spare, the metadata there, and the other slots.
fn slots(subject: &Subject<'_>) -> Check {
    let metadata = &subject.copy.metadata;
    let map = &metadata.map;
    let mut here = 0usize;
    let mut check = Check::new("slots", "");
    for (index, record) in (0u8..).map(SpareIndex).zip(&metadata.spares) {
        let own = subject.index == Some(index);
        let size = if own { subject.disk.size() } else { record.identity.size };
        let mut used: Vec<(Range, Range)> = Vec::new();
        for extent in map.extents().filter(|extent| extent.slot.spare == index) {
            let Some(slot) = taken(map, &extent) else {
                check.error(format!("sectors {}: their slot is beyond all sectors", extent.range));
                continue;
            };
            if slot.start() < record.data_start || slot.end() > size {
                check.error(format!("spare {index} sectors {slot} (for {}): outside the data area", extent.range));
            }
            if (0..COPY_STARTS.len()).filter_map(copy_range).any(|copy| copy.overlaps(slot)) {
                check.error(format!("spare {index} sectors {slot} (for {}): inside the metadata", extent.range));
            }
            if !slot.start().is_multiple_of(map.unit()) {
                check.error(format!("spare {index} sectors {slot} (for {}): not on a unit", extent.range));
            }
            used.push((slot, extent.range));
        }
        used.sort_unstable_by_key(|(slot, _)| slot.start());
        for ((one, of_one), (other, of_other)) in used.iter().zip(used.iter().skip(1)) {
            if one.overlaps(*other) {
                check.error(format!("spare {index} sectors {one} serve {of_one}, and {other} serve {of_other}"));
            }
        }
        here = if own { used.len() } else { here };
    }
    check.summary = format!("{here} slots on this spare, {} in all", map.len());
    check
}

/// What is known to be bad, against sizes and slots.
fn bad_blocks(subject: &Subject<'_>) -> Check {
    let metadata = &subject.copy.metadata;
    let runs = |index: SpareIndex| metadata.bad_blocks.get(&index).into_iter().flatten();
    let count = subject.index.map_or(0, |index| runs(index).count());
    let mut check = Check::new("bad-blocks", format!("{count} bad runs are recorded for this spare"));
    for (index, record) in (0u8..).map(SpareIndex).zip(&metadata.spares) {
        for run in runs(index).filter(|run| run.end() > record.identity.size) {
            check.error(format!("spare {index} sectors {run} are beyond its end"));
        }
        let bad: RangeSet = runs(index).copied().collect();
        for extent in metadata.map.extents().filter(|extent| extent.slot.spare == index) {
            if let Some(slot) = extent.slot_range().filter(|slot| bad.within(*slot).next().is_some()) {
                check.warn(format!("spare {index} sectors {slot} serve {} and are known to be bad", extent.range));
            }
        }
    }
    check
}

/// What was lost, against main and the extents.
fn losses(subject: &Subject<'_>) -> Check {
    let map = &subject.copy.metadata.map;
    let (held, all) = (map.losses().sectors(Fate::is_held), map.losses().len());
    let mut check = Check::new("losses", format!("{all} ranges are recorded as lost, {held} sectors held"));
    for loss in map.losses().iter() {
        if loss.range.end() > map.main_len() {
            check.error(format!("sectors {} are lost, and beyond the end of main", loss.range));
        }
        let served: u64 = map.extents_in(loss.range).map(|extent| extent.range.len().0).fold(0, u64::saturating_add);
        if loss.fate.is_held() && served != loss.range.len().0 {
            check.error(format!("sectors {} are held, and not all of them live on a spare", loss.range));
        }
    }
    check
}
