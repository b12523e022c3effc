//! Planning the movement of extents: remap (main to spare) and restore (spare to main).

use super::Refusal;
use crate::format::COPY_MAX_BYTES;
use crate::format::copy::{EncodeError, encode};
use crate::format::metadata::{Metadata, UnreadablePolicy};
use crate::map::{Extent, Fate, Map, MapError, Slot, SpareIndex};
use crate::pool::Pool;
use crate::units::{Range, Sectors, coalesce};
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
}

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
}

impl MovePlan {
    /// Sectors that move.
    pub fn sectors(&self) -> Sectors {
        Sectors(self.moves.iter().map(|m| m.range.len().0).fold(0, u64::saturating_add))
    }
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
    usable: impl Fn(SpareIndex) -> bool,
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
    let mut moves = Vec::new();
    for range in fresh {
        let parts = pool.allocate(range).map_err(|_| Refusal::NoFreeSlot { needed: Sectors(total), free })?;
        moves.extend(parts.into_iter().map(|part| Move {
            range: part.range,
            from: Home::Main,
            to: Home::Slot(part.slot),
        }));
    }
    if map.remapped().checked_add(Sectors(total)).is_none_or(|all| all >= map.main_len()) {
        return Err(Refusal::WholeMain);
    }
    let plan = MovePlan { kind: MoveKind::Remap, moves, already, unreadable };
    check_room(metadata, &plan)?;
    Ok(plan)
}

/// Plans to move `requested` sectors, widened to whole units, back to main; all extents when it is `None`.
///
/// # Errors
/// [`Refusal`] when a range is beyond the end or not remapped.
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
    Ok(MovePlan { kind: MoveKind::Restore, moves, already: Vec::new(), unreadable })
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
    Ok(next)
}

fn check_room(metadata: &Metadata, plan: &MovePlan) -> Result<(), Refusal> {
    let unlikely = |what: String| Refusal::Metadata { device: metadata.config.name.clone(), what };
    let map = apply(&metadata.map, &plan.moves, &[]).map_err(|e| unlikely(e.to_string()))?;
    let after = Metadata { map, ..metadata.clone() };
    match encode(&after) {
        // The lineage grows by one, and the counters by some digits.
        Ok(encoded) if encoded.len() <= COPY_MAX_BYTES => Ok(()),
        Ok(encoded) => Err(Refusal::MetadataFull { needed: encoded.len(), room: COPY_MAX_BYTES }),
        Err(EncodeError::Full { needed }) => Err(Refusal::MetadataFull { needed, room: COPY_MAX_BYTES }),
        Err(other) => Err(unlikely(other.to_string())),
    }
}
