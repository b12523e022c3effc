//! The map: which runs of sectors of the setup live on a spare, and what was lost.
//!
//! Invariants:
//! - extents do not overlap, neither on main nor on a spare, and lie inside main;
//! - an extent starts on a unit and ends on a unit or at the end of main; its slot starts on a unit;
//! - neighbours that continue each other both on main and on the same spare are one extent;
//! - held sectors always lie inside an extent.

mod losses;

pub use losses::{Fate, Loss, Losses};

use crate::units::{Range, Sectors};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The largest unit that a setup can have, in sectors (1 MiB): slots start on units, and the data area at
/// sector 10240 must be such a start.
pub const MAX_UNIT: Sectors = Sectors(2048);

/// Position of a spare in the setup's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpareIndex(pub u8);

impl SpareIndex {
    /// As an index into a list of spares.
    pub fn as_usize(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for SpareIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where on which spare an extent lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The spare.
    pub spare: SpareIndex,
    /// First sector on it, counted from the start of the device.
    pub start: Sectors,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spare {} sector {}", self.spare, self.start)
    }
}

/// A run of sectors of the setup that lives on a spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The sectors of the setup.
    pub range: Range,
    /// Where they live; the slot is as long as the range.
    pub slot: Slot,
}

impl Extent {
    /// The sectors of the spare that serve the extent; `None` only if they would not fit in 64 bits.
    pub fn slot_range(&self) -> Option<Range> {
        Range::new(self.slot.start, self.range.len())
    }

    /// The part of the extent inside `window`, with the slot that serves it.
    pub fn clip(&self, window: Range) -> Option<Extent> {
        let range = self.range.intersect(window)?;
        let skipped = range.start().checked_sub(self.range.start())?;
        let start = self.slot.start.checked_add(skipped)?;
        Some(Extent { range, slot: Slot { start, ..self.slot } })
    }
}

/// Why a change of the map is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Beyond the end of main.
    #[error("sectors {range} lie beyond the end of main, which has {main_len} sectors")]
    BeyondEnd {
        /// What was asked for.
        range: Range,
        /// Length of main.
        main_len: Sectors,
    },
    /// Not on unit boundaries.
    #[error("sectors {range} do not start and end on a unit of {unit} sectors")]
    Unaligned {
        /// What was asked for.
        range: Range,
        /// The unit.
        unit: Sectors,
    },
    /// Already on a spare.
    #[error("sectors {range} are already remapped: {} lives at {}", .existing.range, .existing.slot)]
    AlreadyMapped {
        /// What was asked for.
        range: Range,
        /// The extent that is in the way.
        existing: Extent,
    },
    /// The slot serves another extent.
    #[error("slot {slot} already serves sectors {}", .existing.range)]
    SlotTaken {
        /// The slot that was to be used.
        slot: Slot,
        /// The extent that has it.
        existing: Extent,
    },
    /// Not on a spare.
    #[error("sectors {0} are not remapped")]
    NotMapped(Range),
    /// Held sectors outside every extent.
    #[error("sectors {0} are marked as held, but no extent serves them")]
    HeldOutside(Range),
    /// A unit that the format cannot express.
    #[error("a unit of {0} sectors is not possible: it must be a power of two up to 2048")]
    BadUnit(Sectors),
}

/// The map of one setup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    main_len: Sectors,
    unit: Sectors,
    // Shared with copies of this map until one of them changes: a map is cloned far more often than it is changed.
    extents: Arc<BTreeMap<Sectors, Extent>>,
    /// The same extents by slot: start of the extent.
    by_slot: Arc<BTreeMap<Slot, Sectors>>,
    losses: Losses,
}

impl Map {
    /// A map of a main of `main_len` sectors on which nothing is remapped.
    ///
    /// # Errors
    /// [`MapError::BadUnit`] unless `unit` is a power of two up to [`MAX_UNIT`].
    pub fn new(main_len: Sectors, unit: Sectors) -> Result<Map, MapError> {
        if !unit.0.is_power_of_two() || unit > MAX_UNIT {
            return Err(MapError::BadUnit(unit));
        }
        let (extents, by_slot) = (Arc::default(), Arc::default());
        Ok(Map { main_len, unit, extents, by_slot, losses: Losses::default() })
    }

    /// Length of main in sectors.
    pub fn main_len(&self) -> Sectors {
        self.main_len
    }

    /// Size of the smallest remap in sectors.
    pub fn unit(&self) -> Sectors {
        self.unit
    }

    /// Number of extents.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether nothing is remapped.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Sectors that live on spares.
    pub fn remapped(&self) -> Sectors {
        Sectors(self.extents().map(|e| e.range.len().0).fold(0, u64::saturating_add))
    }

    /// All extents, in order of main.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.extents.values().copied()
    }

    /// All extents on one spare, in order of their slots.
    pub fn extents_by_slot(&self, spare: SpareIndex) -> impl Iterator<Item = Extent> + '_ {
        let first = Slot { spare, start: Sectors::ZERO };
        let last = Slot { spare, start: Sectors(u64::MAX) };
        self.by_slot.range(first..=last).filter_map(|(_, start)| self.extents.get(start).copied())
    }

    /// The parts of extents that lie inside `window`, in order of main.
    pub fn extents_in(&self, window: Range) -> impl Iterator<Item = Extent> + '_ {
        let before = self.extents.range(..window.start()).next_back().map(|(_, e)| *e);
        before
            .into_iter()
            .chain(self.extents.range(window.start()..window.end()).map(|(_, e)| *e))
            .filter_map(move |e| e.clip(window))
    }

    /// The extent that `sector` is in, whole.
    pub fn extent_at(&self, sector: Sectors) -> Option<Extent> {
        let (_, extent) = self.extents.range(..=sector).next_back()?;
        extent.range.contains(sector).then_some(*extent)
    }

    /// Whether all of `range` lives on spares.
    pub fn serves(&self, range: Range) -> bool {
        let parts = self.extents_in(range).map(|e| e.range.len().0);
        parts.fold(0, u64::saturating_add) == range.len().0
    }

    /// What was lost and not acknowledged.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// The sectors that a spare slot takes for `len` sectors of data: whole units. `None` on overflow.
    pub fn slot_len(&self, len: Sectors) -> Option<Sectors> {
        len.align_up(self.unit)
    }

    fn check_range(&self, range: Range) -> Result<(), MapError> {
        if range.end() > self.main_len {
            return Err(MapError::BeyondEnd { range, main_len: self.main_len });
        }
        let ends_well = range.end().is_multiple_of(self.unit) || range.end() == self.main_len;
        if !range.start().is_multiple_of(self.unit) || !ends_well {
            return Err(MapError::Unaligned { range, unit: self.unit });
        }
        Ok(())
    }

    fn slot_conflict(&self, slot: Slot, len: Sectors) -> Result<Option<Extent>, MapError> {
        let unaligned =
            || MapError::Unaligned { range: Range::new(slot.start, len).unwrap_or(Range::MAX), unit: self.unit };
        let wanted = self
            .slot_len(len)
            .and_then(|len| Range::new(slot.start, len))
            .filter(|r| r.start().is_multiple_of(self.unit))
            .ok_or_else(unaligned)?;
        let end = Slot { start: wanted.end(), ..slot };
        let Some((found, start)) = self.by_slot.range(..end).next_back() else {
            return Ok(None);
        };
        let Some(extent) = self.extents.get(start) else {
            return Ok(None);
        };
        let taken = self.slot_len(extent.range.len()).and_then(|len| Range::new(found.start, len));
        let overlaps = found.spare == slot.spare && taken.is_none_or(|t| t.overlaps(wanted));
        Ok(overlaps.then_some(*extent))
    }

    /// Sends `range` to `slot`.
    ///
    /// # Errors
    /// When the range is outside main, unaligned or already remapped, or the slot is in use; nothing is changed then.
    pub fn insert(&mut self, range: Range, slot: Slot) -> Result<(), MapError> {
        self.check_range(range)?;
        if let Some(part) = self.extents_in(range).next() {
            let existing = self.extent_at(part.range.start()).unwrap_or(part);
            return Err(MapError::AlreadyMapped { range, existing });
        }
        if let Some(existing) = self.slot_conflict(slot, range.len())? {
            return Err(MapError::SlotTaken { slot, existing });
        }
        let mut extent = Extent { range, slot };
        if let Some((_, before)) = self.extents.range(..range.start()).next_back()
            && let Some(joined) = join(*before, extent)
        {
            self.forget(*before);
            extent = joined;
        }
        if let Some(after) = self.extents.get(&extent.range.end()).copied()
            && let Some(joined) = join(extent, after)
        {
            self.forget(after);
            extent = joined;
        }
        self.remember(extent);
        Ok(())
    }

    /// Sends `range` back to main. Losses are not touched.
    ///
    /// # Errors
    /// When any part of the range is not remapped, or it does not lie on units; nothing is changed then.
    pub fn remove(&mut self, range: Range) -> Result<(), MapError> {
        self.check_range(range)?;
        if !self.serves(range) {
            return Err(MapError::NotMapped(range));
        }
        let parts: Vec<Extent> = self.extents_in(range).collect();
        for part in parts {
            let Some(whole) = self.extent_at(part.range.start()) else {
                continue;
            };
            self.forget(whole);
            let left = Range::between(whole.range.start(), part.range.start());
            let right = Range::between(part.range.end(), whole.range.end());
            for rest in [left, right].into_iter().flatten() {
                if let Some(kept) = whole.clip(rest) {
                    self.remember(kept);
                }
            }
        }
        Ok(())
    }

    /// Takes no more memory than its extents need: in a map that was made by inserting them in order, half of it is room for
    /// more.
    pub fn shrink(&mut self) {
        let extents = std::mem::take(&mut self.extents);
        self.extents = Arc::new(Arc::unwrap_or_clone(extents).into_iter().collect());
        let by_slot = std::mem::take(&mut self.by_slot);
        self.by_slot = Arc::new(Arc::unwrap_or_clone(by_slot).into_iter().collect());
    }

    fn remember(&mut self, extent: Extent) {
        Arc::make_mut(&mut self.by_slot).insert(extent.slot, extent.range.start());
        Arc::make_mut(&mut self.extents).insert(extent.range.start(), extent);
    }

    fn forget(&mut self, extent: Extent) {
        Arc::make_mut(&mut self.by_slot).remove(&extent.slot);
        Arc::make_mut(&mut self.extents).remove(&extent.range.start());
    }

    /// Records that the data of `range` was lost, in place of what was known of these sectors.
    ///
    /// # Errors
    /// When the range lies beyond the end, or is to be held and no extent serves all of it.
    pub fn record_loss(&mut self, range: Range, fate: Fate) -> Result<(), MapError> {
        if range.end() > self.main_len {
            return Err(MapError::BeyondEnd { range, main_len: self.main_len });
        }
        if fate.is_held() && !self.serves(range) {
            return Err(MapError::HeldOutside(range));
        }
        self.losses.set(range, Some(fate));
        Ok(())
    }

    /// Forgets what was lost in `range`.
    pub fn clear_loss(&mut self, range: Range) {
        self.losses.set(range, None);
    }

    /// Held ranges on one spare, as sectors of the spare, in order of the slots.
    pub fn held_slots(&self, spare: SpareIndex) -> Vec<Range> {
        let mut out: Vec<Range> = self
            .losses
            .iter()
            .filter(|loss| loss.fate.is_held())
            .flat_map(|loss| self.extents_in(loss.range))
            .filter(|extent| extent.slot.spare == spare)
            .filter_map(|extent| extent.slot_range())
            .collect();
        out.sort_unstable();
        out
    }

    /// Whether any sector of `range` is held.
    pub fn has_held(&self, range: Range) -> bool {
        self.losses.within(range).any(|loss| loss.fate.is_held())
    }
}

/// The two as one extent, if `second` continues `first` both on main and on the spare.
fn join(first: Extent, second: Extent) -> Option<Extent> {
    let slot_end = first.slot.start.checked_add(first.range.len())?;
    let continues = first.range.end() == second.range.start()
        && first.slot.spare == second.slot.spare
        && slot_end == second.slot.start;
    let range = Range::between(first.range.start(), second.range.end())?;
    continues.then_some(Extent { range, slot: first.slot })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    fn slot(spare: u8, start: u64) -> Slot {
        Slot { spare: SpareIndex(spare), start: Sectors(start) }
    }

    fn map() -> Map {
        Map::new(Sectors(1003), Sectors(8)).unwrap()
    }

    #[test]
    fn neighbours_that_continue_each_other_are_one_extent() {
        let mut map = map();
        map.insert(range(16, 8), slot(0, 10_248)).unwrap();
        map.insert(range(32, 8), slot(0, 10_264)).unwrap();
        map.insert(range(24, 8), slot(0, 10_256)).unwrap();
        assert_eq!(map.extents().collect::<Vec<_>>(), [Extent { range: range(16, 24), slot: slot(0, 10_248) }]);
        map.insert(range(40, 8), slot(1, 10_272)).unwrap();
        assert_eq!(map.len(), 2);
        map.remove(range(24, 8)).unwrap();
        assert_eq!(map.len(), 3);
        assert_eq!(map.extent_at(Sectors(33)).unwrap().slot, slot(0, 10_264));
    }

    #[test]
    fn impossible_changes_are_refused_and_change_nothing() {
        let mut map = map();
        map.insert(range(16, 8), slot(0, 10_240)).unwrap();
        let before = map.clone();
        assert!(matches!(map.insert(range(16, 8), slot(0, 20_000)), Err(MapError::AlreadyMapped { .. })));
        assert!(matches!(map.insert(range(24, 8), slot(0, 10_240)), Err(MapError::SlotTaken { .. })));
        assert!(matches!(map.insert(range(25, 8), slot(0, 20_000)), Err(MapError::Unaligned { .. })));
        assert!(matches!(map.insert(range(24, 8), slot(0, 20_001)), Err(MapError::Unaligned { .. })));
        assert!(matches!(map.insert(range(1000, 8), slot(0, 20_000)), Err(MapError::BeyondEnd { .. })));
        assert!(matches!(map.remove(range(16, 16)), Err(MapError::NotMapped(_))));
        assert!(matches!(map.record_loss(range(0, 1), Fate::Held), Err(MapError::HeldOutside(_))));
        assert_eq!(map, before);
        assert!(matches!(Map::new(Sectors(10), Sectors(4096)), Err(MapError::BadUnit(_))));
    }

    #[test]
    fn the_last_unit_may_be_short_but_its_slot_is_not() {
        let mut map = map();
        map.insert(range(1000, 3), slot(0, 10_240)).unwrap();
        assert!(matches!(map.insert(range(0, 8), slot(0, 10_240)), Err(MapError::SlotTaken { .. })));
        map.insert(range(0, 8), slot(0, 10_248)).unwrap();
    }

    #[test]
    fn held_sectors_are_found_on_their_spare() {
        let mut map = map();
        map.insert(range(16, 8), slot(1, 10_240)).unwrap();
        map.record_loss(range(18, 2), Fate::Held).unwrap();
        assert_eq!(map.held_slots(SpareIndex(1)), [range(10_242, 2)]);
        assert!(map.held_slots(SpareIndex(0)).is_empty());
        assert!(map.has_held(range(16, 8)) && !map.has_held(range(20, 4)));
    }

    proptest! {
        /// Against a model that knows every unit by itself.
        #[test]
        fn a_map_agrees_with_a_model_of_single_units(ops in prop::collection::vec((any::<bool>(), 0u64..30, 1u64..4, 0u8..2, 0u64..40), 1..80)) {
            let mut map = Map::new(Sectors(30 * 8), Sectors(8)).unwrap();
            let mut model: Vec<Option<(u8, u64)>> = vec![None; 30];
            for (add, start, len, spare, at) in ops {
                if start + len > 30 { continue; }
                let units = start..start + len;
                let r = range(start * 8, len * 8);
                if add {
                    let wanted: Vec<_> = (0..len).map(|i| (spare, at + i)).collect();
                    let possible = units.clone().all(|u| model[u as usize].is_none())
                        && wanted.iter().all(|w| !model.contains(&Some(*w)));
                    prop_assert_eq!(map.insert(r, slot(spare, at * 8)).is_ok(), possible);
                    if possible { for (u, w) in units.zip(wanted) { model[u as usize] = Some(w); } }
                } else {
                    let possible = units.clone().all(|u| model[u as usize].is_some());
                    prop_assert_eq!(map.remove(r).is_ok(), possible);
                    if possible { for u in units { model[u as usize] = None; } }
                }
                for u in 0..30u64 {
                    let found = map.extent_at(Sectors(u * 8)).map(|e| {
                        let part = e.clip(range(u * 8, 8)).unwrap();
                        (part.slot.spare.0, part.slot.start.0 / 8)
                    });
                    prop_assert_eq!(found, model[u as usize]);
                }
            }
        }
    }
}
