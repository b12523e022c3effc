//! Planning to bring scattered extents together: fewer extents, a smaller table, free space in long runs.
//!
//! One plan is one batch, one swap. What follows a batch is planned anew from the metadata that it leaves.
//!
//! Invariants:
//! - extents move whole, from slot to free slot: what a batch vacates is free for the next one only;
//! - a batch that joins leaves fewer extents; one that packs leaves as many or fewer, and slots that lie lower. So the
//!   batches come to an end, and a map that they have ended with is given none;
//! - a batch moves `batch` sectors at most;
//! - planning takes time in n log n of the number of extents.

use super::moves::{OnSpares, apply};
use super::room::check_moves;
use super::{Home, Move, MoveKind, MovePlan, Refusal};
use crate::format::MAX_SPARES;
use crate::format::metadata::{Metadata, UnreadablePolicy};
use crate::map::{Extent, Map, MapError, Slot, SpareIndex};
use crate::pool::Pool;
use crate::units::{Range, RangeSet, Sectors};
use std::cmp::Reverse;

/// The most sectors that a batch moves unless somebody says otherwise (16 MiB): what a splice can also move on a kernel
/// that does not count writes.
pub const BATCH: Sectors = Sectors(32_768);

/// How scattered a map is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Number of extents.
    pub extents: usize,
    /// Number of runs of sectors of main that live on spares: the fewest extents that there could be.
    pub runs: usize,
    /// Number of free runs on the spares.
    pub free_runs: usize,
    /// The longest of them.
    pub longest_free: Sectors,
    /// Sectors in all of them.
    pub free: Sectors,
}

/// How scattered the map is, and the free space on the spares for which `usable` says yes.
pub fn shape(metadata: &Metadata, usable: impl Fn(SpareIndex) -> bool) -> Shape {
    let pool = Pool::new(metadata, usable);
    Shape {
        extents: metadata.map.len(),
        runs: chains(&metadata.map, |_| true).len(),
        free_runs: pool.free_runs().count(),
        longest_free: pool.longest_free(),
        free: pool.free(),
    }
}

/// Plans the next batch. It has no moves when there is nothing that can be made better. Extents that touch `avoid`
/// (sectors of the setup), or live on spares for which `usable` says no, stay where they are.
///
/// # Errors
/// [`Refusal`] when the metadata would not have room, which cannot be while extents only become fewer.
pub fn plan_compact(
    metadata: &Metadata,
    usable: impl Fn(SpareIndex) -> bool,
    batch: Sectors,
    avoid: &RangeSet,
) -> Result<MovePlan, Refusal> {
    let pool = Pool::new(metadata, usable);
    let mut planner =
        Planner { map: &metadata.map, pool, avoid, left: batch.align_down(metadata.map.unit()), moves: Vec::new() };
    for chain in chains(planner.map, |extent| planner.may_move(extent)).iter().filter(|chain| chain.len() > 1) {
        planner.join(chain);
    }
    if planner.moves.is_empty() {
        planner.pack();
    }
    let mut moves = planner.moves;
    moves.sort_unstable_by_key(|step| step.range);
    let plan = MovePlan {
        kind: MoveKind::Compact,
        moves,
        already: Vec::new(),
        unreadable: UnreadablePolicy::Leave,
        bad_slots: OnSpares::new(),
        only_to: None,
    };
    if !plan.moves.is_empty() {
        check_moves(metadata, &plan)?;
    }
    Ok(plan)
}

/// All batches one after the other as far as they can be foreseen (when nothing fails, and nobody changes the map in
/// between), and the metadata that they lead to.
///
/// # Errors
/// As [`plan_compact`].
pub fn plan_all(
    metadata: &Metadata,
    usable: impl Fn(SpareIndex) -> bool,
    batch: Sectors,
) -> Result<(Vec<MovePlan>, Metadata), Refusal> {
    let mut after = metadata.clone();
    let mut plans = Vec::new();
    loop {
        let plan = plan_compact(&after, &usable, batch, &RangeSet::default())?;
        if plan.moves.is_empty() {
            return Ok((plans, after));
        }
        let unlikely =
            |error: MapError| Refusal::Metadata { device: metadata.config.name.clone(), what: error.to_string() };
        after.map = apply(&after.map, &plan.moves, &[]).map_err(unlikely)?;
        plans.push(plan);
    }
}

/// Neighbours on main that could not become one extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// All of them.
    pub range: Range,
    /// How many extents they are.
    pub extents: usize,
    /// Why, in words.
    pub why: String,
}

/// What is still apart once [`plan_compact`] has nothing left to do, with the same arguments.
pub fn still_apart(
    metadata: &Metadata,
    usable: impl Fn(SpareIndex) -> bool,
    batch: Sectors,
    avoid: &RangeSet,
) -> Vec<Apart> {
    let pool = Pool::new(metadata, usable);
    let apart = |chain: &Vec<Extent>| {
        let range = Range::between(chain.first()?.range.start(), chain.last()?.range.end())?;
        let largest = chain.iter().map(|extent| extent.range.len()).max()?;
        let why = if let Some(extent) = chain.iter().find(|extent| !pool.has(extent.slot.spare)) {
            format!("spare {} is not there, or not in use", extent.slot.spare)
        } else if avoid.overlaps(range) {
            "a part of it could not be moved".to_string()
        } else if range.len().saturating_sub(largest) > batch {
            format!("more than {batch} sectors would have to move at once")
        } else {
            format!("no free run of {} sectors, and no room beside the largest extent", range.len())
        };
        Some(Apart { range, extents: chain.len(), why })
    };
    chains(&metadata.map, |_| true).iter().filter(|chain| chain.len() > 1).filter_map(apart).collect()
}

/// Extents that follow each other on main, of those that `may_move`.
fn chains(map: &Map, may_move: impl Fn(&Extent) -> bool) -> Vec<Vec<Extent>> {
    let mut out: Vec<Vec<Extent>> = Vec::new();
    for extent in map.extents().filter(may_move) {
        match out.last_mut() {
            Some(chain) if chain.last().is_some_and(|last| last.range.end() == extent.range.start()) => {
                chain.push(extent);
            }
            _ => out.push(vec![extent]),
        }
    }
    out
}

/// A batch in the making.
struct Planner<'a> {
    map: &'a Map,
    pool: Pool<'a>,
    avoid: &'a RangeSet,
    /// Sectors that may still be moved.
    left: Sectors,
    moves: Vec<Move>,
}

impl Planner<'_> {
    fn may_move(&self, extent: &Extent) -> bool {
        self.pool.has(extent.slot.spare) && !self.avoid.overlaps(extent.range)
    }

    /// Makes one extent of a chain; failing that, fewer.
    fn join(&mut self, chain: &[Extent]) {
        let largest = (0..).zip(chain).max_by_key(|(index, extent)| (extent.range.len(), Reverse(*index)));
        let Some((anchor, kept)) = largest else { return };
        // The largest stays where it is, when all others find room around it.
        let around = self.has_room_around(kept, chain);
        let total = chain.iter().map(|extent| extent.range.len().0).fold(0, u64::saturating_add);
        if !around && Sectors(total) > self.left && !self.moves.is_empty() {
            // The next batch has more room: half of it now would be moved twice.
            return;
        }
        if around || !self.gather(chain) {
            let moved = self.grow(chain, anchor);
            if moved == 0 {
                self.gather_parts(chain);
            }
        }
    }

    /// Whether all others of the chain can be put beside `kept`.
    fn has_room_around(&self, kept: &Extent, chain: &[Extent]) -> bool {
        let room = |from: Sectors, to: Sectors| match self.map.slot_len(to.saturating_sub(from)) {
            Some(len) => len,
            None => Sectors(u64::MAX),
        };
        let before = chain.first().map_or(Sectors::ZERO, |first| room(first.range.start(), kept.range.start()));
        let behind = chain.last().map_or(Sectors::ZERO, |last| room(kept.range.end(), last.range.end()));
        let free = |start: Option<Sectors>, len: Sectors| {
            len == Sectors::ZERO || start.is_some_and(|start| self.pool.is_free(Slot { start, ..kept.slot }, len))
        };
        before.checked_add(behind).is_some_and(|all| all <= self.left)
            && free(kept.slot.start.checked_sub(before), before)
            && free(kept.slot.start.checked_add(kept.range.len()), behind)
    }

    /// Puts as many others as possible directly behind and before the slot of the one at `anchor`; how many.
    fn grow(&mut self, chain: &[Extent], anchor: usize) -> usize {
        let Some(kept) = chain.get(anchor) else { return 0 };
        let before = self.moves.len();
        let mut end = kept.slot_range().map(|slot| slot.end());
        for extent in chain.iter().skip(anchor.saturating_add(1)) {
            let Some(start) = end.filter(|start| self.send(*extent, Slot { start: *start, ..kept.slot })) else {
                break;
            };
            end = start.checked_add(extent.range.len());
        }
        let mut start = Some(kept.slot.start);
        for extent in chain.iter().take(anchor).rev() {
            start = start.and_then(|start| start.checked_sub(extent.range.len()));
            if !start.is_some_and(|start| self.send(*extent, Slot { start, ..kept.slot })) {
                break;
            }
        }
        self.moves.len().saturating_sub(before)
    }

    /// Moves all of a chain into one free run; whether there was one.
    fn gather(&mut self, chain: &[Extent]) -> bool {
        let (Some(first), Some(last)) = (chain.first(), chain.last()) else { return false };
        let Some(range) = Range::between(first.range.start(), last.range.end()) else { return false };
        let len = self.map.slot_len(range.len()).filter(|len| *len <= self.left);
        let Some(slot) = len.and_then(|len| self.pool.smallest_for(len)) else { return false };
        let mut at = slot.start;
        for extent in chain {
            if !self.send(*extent, Slot { start: at, ..slot }) {
                return false;
            }
            at = at.checked_add(extent.range.len()).unwrap_or(at);
        }
        true
    }

    /// Moves parts of a chain into free runs of their own, each as long as there is one for it.
    fn gather_parts(&mut self, chain: &[Extent]) {
        let mut rest = chain;
        while rest.len() > 1 {
            let room = self.pool.longest_free().min(self.left);
            let (part, others) = rest.split_at_checked(within(rest, room).max(1)).unwrap_or((rest, &[]));
            if part.len() > 1 && !self.gather(part) {
                return;
            }
            rest = others;
        }
    }

    /// Moves the highest extents of each spare into the lowest places that have room.
    fn pack(&mut self) {
        for spare in (0u8..).take(MAX_SPARES).map(SpareIndex) {
            let mut extents: Vec<Extent> = self.map.extents_by_slot(spare).collect();
            extents.reverse();
            for extent in extents {
                let place = self.map.slot_len(extent.range.len()).and_then(|len| self.pool.lowest_on(spare, len));
                if let Some(place) = place.filter(|place| place.start < extent.slot.start && self.may_move(&extent)) {
                    self.send(extent, place);
                }
            }
        }
    }

    /// Plans the move of an extent, if its place is free and the batch has room; whether.
    fn send(&mut self, extent: Extent, to: Slot) -> bool {
        let Some(len) = self.map.slot_len(extent.range.len()) else { return false };
        if len > self.left || !self.pool.claim(to, len) {
            return false;
        }
        self.left = self.left.saturating_sub(len);
        self.moves.push(Move { range: extent.range, from: Home::Slot(extent.slot), to: Home::Slot(to) });
        true
    }
}

/// How many extents from the first on have `room` sectors together.
fn within(chain: &[Extent], room: Sectors) -> usize {
    let mut total = Sectors::ZERO;
    let fits = |extent: &&Extent| {
        total = Sectors(total.0.saturating_add(extent.range.len().0));
        total <= room
    };
    chain.iter().take_while(fits).count()
}
