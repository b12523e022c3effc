//! Planning the movement of extents: remap (main to spare), restore (spare to main), evacuate (slot to slot).

use super::Refusal;
use super::room::check_moves;
use crate::format::metadata::{Metadata, UnreadablePolicy};
use crate::map::{Extent, Fate, Map, MapError, Slot, SpareIndex};
use crate::pool::{Allocation, Available, Pool};
use crate::units::{Range, Sectors, coalesce};
use std::collections::BTreeMap;
use std::fmt;

/// Where sectors of the setup live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In the same place on main.
    Main,
    /// In a slot on a spare.
    Slot(Slot),
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Home::Main => f.write_str("main"),
            Home::Slot(slot) => slot.fmt(f),
        }
    }
}

/// One run of sectors that moves from one home to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The sectors of the setup.
    pub range: Range,
    /// Where they live now.
    pub from: Home,
    /// Where they will live.
    pub to: Home,
}

impl Move {
    /// The part of this move that lies inside `window`.
    pub fn clip(&self, window: Range) -> Option<Move> {
        let range = self.range.intersect(window)?;
        let skipped = range.start().checked_sub(self.range.start())?;
        let shift = |home| match home {
            Home::Main => Some(Home::Main),
            Home::Slot(slot) => Some(Home::Slot(Slot { start: slot.start.checked_add(skipped)?, ..slot })),
        };
        Some(Move { range, from: shift(self.from)?, to: shift(self.to)? })
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.range, self.from, self.to)
    }
}

/// Which way extents move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveKind {
    /// From main to a spare.
    Remap,
    /// From a spare to main.
    Restore,
    /// From a slot that is bad, or on a spare that is to be left, to another one.
    Evacuate,
    /// The same, from a spare that is given up: what cannot be read there is lost, whatever the reason.
    GiveUp,
    /// From one good slot to another, to bring extents together: what cannot be read, or finds its new slot bad, stays
    /// where it is, whole.
    Compact,
}

/// Sectors of spares, by spare.
pub type OnSpares = BTreeMap<SpareIndex, Vec<Range>>;

/// Extents to move in one swap.
#[derive(Clone, Debug)]
pub struct MovePlan {
    /// Which way.
    pub kind: MoveKind,
    /// What moves, in order of main.
    pub moves: Vec<Move>,
    /// Sectors that were asked for and live on a spare already.
    pub already: Vec<Range>,
    /// What to do with sectors that cannot be read.
    pub unreadable: UnreadablePolicy,
    /// Sectors of spares that are known to be bad; the commit of the moves records them.
    pub bad_slots: OnSpares,
    /// The only spares that slots may be taken on, where others are out of the question.
    pub only_to: Option<Vec<SpareIndex>>,
}

impl MovePlan {
    /// Sectors that move.
    pub fn sectors(&self) -> Sectors {
        sectors_of(&self.moves)
    }
}

/// Sectors of some moves.
pub fn sectors_of(moves: &[Move]) -> Sectors {
    Sectors(moves.iter().map(|step| step.range.len().0).fold(0, u64::saturating_add))
}

/// What to do with requested sectors that are remapped already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlreadyMapped {
    /// Refuse, and say where they live: for sectors that a person named.
    Refuse,
    /// Leave them out: for lists that a program made.
    Skip,
}

/// Plans to move `requested` sectors, widened to whole units, to free slots.
///
/// # Errors
/// [`Refusal`] when a range is beyond the end or already remapped, or slots or metadata do not suffice.
pub fn plan_remap(
    metadata: &Metadata,
    requested: &[Range],
    already_mapped: AlreadyMapped,
    unreadable: UnreadablePolicy,
    usable: impl Available,
) -> Result<MovePlan, Refusal> {
    let map = &metadata.map;
    let wanted = widen(map, requested)?;
    let mut already = Vec::new();
    let mut fresh = Vec::new();
    for range in wanted {
        let mut at = range.start();
        for extent in map.extents_in(range) {
            if already_mapped == AlreadyMapped::Refuse {
                let existing = map.extent_at(extent.range.start()).unwrap_or(extent);
                return Err(Refusal::AlreadyRemapped { range, existing });
            }
            fresh.extend(Range::between(at, extent.range.start()));
            already.push(extent.range);
            at = extent.range.end();
        }
        fresh.extend(Range::between(at, range.end()));
    }
    let mut pool = Pool::new(metadata, usable);
    let total = fresh.iter().map(|r| r.len().0).fold(0, u64::saturating_add);
    let free = pool.free();
    let parts = pool.allocate_all(&fresh).map_err(|_| Refusal::NoFreeSlot { needed: Sectors(total), free })?;
    let to_spare = |part: Allocation| Move { range: part.range, from: Home::Main, to: Home::Slot(part.slot) };
    let moves = parts.into_iter().map(to_spare).collect();
    if map.remapped().checked_add(Sectors(total)).is_none_or(|all| all >= map.main_len()) {
        return Err(Refusal::WholeMain);
    }
    let plan =
        MovePlan { kind: MoveKind::Remap, moves, already, unreadable, bad_slots: OnSpares::new(), only_to: None };
    check_moves(metadata, &plan)?;
    Ok(plan)
}

/// Plans to move `requested` sectors, widened to whole units, back to main; all extents when it is `None`.
///
/// # Errors
/// [`Refusal`] when a range is beyond the end or not remapped, or metadata do not suffice for what is cut in two.
pub fn plan_restore(
    metadata: &Metadata,
    requested: Option<&[Range]>,
    unreadable: UnreadablePolicy,
) -> Result<MovePlan, Refusal> {
    let map = &metadata.map;
    let back = |extent: Extent| Move { range: extent.range, from: Home::Slot(extent.slot), to: Home::Main };
    let mut moves = Vec::new();
    match requested {
        None => moves.extend(map.extents().map(back)),
        Some(requested) => {
            for range in widen(map, requested)? {
                if !map.serves(range) {
                    return Err(Refusal::NotRemapped(range));
                }
                moves.extend(map.extents_in(range).map(back));
            }
        }
    }
    let bad_slots = OnSpares::new();
    let plan = MovePlan { kind: MoveKind::Restore, moves, already: Vec::new(), unreadable, bad_slots, only_to: None };
    // Out of the middle of an extent, it leaves two.
    check_moves(metadata, &plan)?;
    Ok(plan)
}

/// Plans to move every unit whose slot touches one of the `bad` sectors of the spares to another slot, on any spare for
/// that is `usable`. The slots that are left are not free: their bad sectors are recorded with the moves. The
/// plan has no moves when all bad sectors lie outside the slots in use.
///
/// `unreadable` is for what cannot be read from its slot any more, and was not lost before: it is held, or zeroed, or
/// its unit stays in the slot ([`UnreadablePolicy::Leave`]).
///
/// # Errors
/// [`Refusal`] when a bad range lies on no spare, a spare that serves it is not there, or free slots or metadata do not
/// suffice.
pub fn plan_evacuate(
    metadata: &Metadata,
    bad: &OnSpares,
    unreadable: UnreadablePolicy,
    usable: impl Available,
) -> Result<MovePlan, Refusal> {
    let map = &metadata.map;
    let bad_blocks = bad_blocks_with(metadata, bad)?;
    let mut leaving: Vec<Extent> = Vec::new();
    for (spare, runs) in bad {
        let units = coalesce(runs.iter().filter_map(|r| r.widen_to(map.unit(), Sectors(u64::MAX))).collect());
        let parts: Vec<Extent> = map.extents_by_slot(*spare).flat_map(|extent| touched(extent, &units)).collect();
        if !parts.is_empty() && !usable.is_usable(*spare) {
            let (name, index) = (metadata.config.name.clone(), *spare);
            let what = "its extents are to be moved".into();
            return Err(Refusal::SpareMissing { name, index, what });
        }
        leaving.extend(parts);
    }
    leaving.sort_unstable_by_key(|part| part.range);
    let view = Metadata { bad_blocks, ..metadata.clone() };
    let mut pool = Pool::new(&view, usable);
    let needed = Sectors(leaving.iter().map(|part| part.range.len().0).fold(0, u64::saturating_add));
    let free = pool.free();
    let ranges: Vec<Range> = leaving.iter().map(|part| part.range).collect();
    let slots = pool.allocate_all(&ranges).map_err(|_| Refusal::NoFreeSlot { needed, free })?;
    let from = |to: &Allocation| map.extents_in(to.range).next().map(|part| part.slot);
    let slot_to_slot =
        |to: Allocation| Some(Move { range: to.range, from: Home::Slot(from(&to)?), to: Home::Slot(to.slot) });
    let moves = slots.into_iter().filter_map(slot_to_slot).collect();
    let bad_slots = bad.clone();
    let plan = MovePlan { kind: MoveKind::Evacuate, moves, already: Vec::new(), unreadable, bad_slots, only_to: None };
    check_moves(metadata, &plan)?;
    Ok(plan)
}

/// The parts of an extent that live in `bad` (sectors of its spare, sorted and disjoint).
fn touched(extent: Extent, bad: &[Range]) -> Vec<Extent> {
    let Some(slot) = extent.slot_range() else { return Vec::new() };
    let first = bad.partition_point(|run| run.end() <= slot.start());
    let inside = bad.iter().skip(first).map_while(|run| run.intersect(slot));
    let part = |run: Range| {
        let skipped = run.start().checked_sub(slot.start())?;
        extent.clip(Range::new(extent.range.start().checked_add(skipped)?, run.len())?)
    };
    inside.filter_map(part).collect()
}

/// The sectors of the setup that live in these sectors of spares.
pub(crate) fn on_setup(map: &Map, spares: &OnSpares) -> Vec<Range> {
    let served = spares.iter().flat_map(|(spare, runs)| {
        let runs = coalesce(runs.clone());
        map.extents_by_slot(*spare).flat_map(move |extent| touched(extent, &runs))
    });
    coalesce(served.map(|part| part.range).collect())
}

/// The recorded bad sectors of the spares, with these.
///
/// # Errors
/// [`Refusal::NotOnSpare`] when a range does not lie on a spare of the setup.
pub fn bad_blocks_with(metadata: &Metadata, bad: &OnSpares) -> Result<OnSpares, Refusal> {
    let mut all = metadata.bad_blocks.clone();
    for (spare, runs) in bad {
        let size = metadata.spare(*spare).map_or(Sectors::ZERO, |record| record.identity.size);
        if let Some(range) = runs.iter().find(|range| range.end() > size) {
            return Err(Refusal::NotOnSpare { spare: *spare, range: *range, size });
        }
        add_bad(&mut all, *spare, runs.iter().copied());
    }
    Ok(all)
}

/// Adds bad sectors of one spare.
pub(crate) fn add_bad(all: &mut OnSpares, spare: SpareIndex, bad: impl IntoIterator<Item = Range>) {
    let mut runs = all.remove(&spare).unwrap_or_default();
    runs.extend(bad);
    if !runs.is_empty() {
        all.insert(spare, coalesce(runs));
    }
}

/// Whole units that cover the ranges, sorted and joined.
fn widen(map: &Map, requested: &[Range]) -> Result<Vec<Range>, Refusal> {
    if requested.is_empty() {
        return Err(Refusal::NothingGiven);
    }
    let main_len = map.main_len();
    let wide: Result<Vec<Range>, Refusal> = requested
        .iter()
        .map(|range| {
            let beyond = Refusal::BeyondEnd { range: *range, main_len };
            if range.end() > main_len {
                return Err(beyond);
            }
            range.widen_to(map.unit(), main_len).ok_or(beyond)
        })
        .collect();
    Ok(coalesce(wide?))
}

/// The map after the moves, with the given losses.
///
/// # Errors
/// [`MapError`] when a move does not fit the map.
pub fn apply(map: &Map, moves: &[Move], losses: &[(Range, Fate)]) -> Result<Map, MapError> {
    let mut next = map.clone();
    for step in moves {
        if let Home::Slot(_) = step.from {
            next.remove(step.range)?;
        }
    }
    for step in moves {
        if let Home::Slot(slot) = step.to {
            next.insert(step.range, slot)?;
        }
    }
    for (range, fate) in losses {
        next.record_loss(*range, *fate)?;
    }
    if moves.len() > next.len() / 16 {
        next.shrink();
    }
    Ok(next)
}
