//! The free space on the spares, and where the next extent goes.
//!
//! Invariants:
//! - a slot never touches metadata, a used slot, a bad run of the spare, or the end of the spare;
//! - slots start and end on units;
//! - what was allocated is free again only when the pool is built anew;
//! - a request gets all that it asks for, or nothing is taken;
//! - where extents go follows from the metadata (and the scores that are handed in), never from hidden state;
//! - an allocation takes time in the logarithm of the number of free runs, times the number of their different lengths
//!   and the number of spares.
//!
//! Neighbours stay together: before the policy is asked, sectors that continue an extent are put directly behind or
//! before its slot, if that is free (and by the policy `health` not on a spare that is far worse than another). Else the policy names a run with room for all that is left of the request, or at
//! least for this range, and the ranges that follow continue behind it as long as they fit.

mod forecast;
mod policy;
mod runs;

pub use forecast::{Outlook, forecast};
pub use policy::{Scores, recorded_scores};

use crate::format::metadata::{AllocationPolicy, Metadata, SpareState};
use crate::map::{Map, Slot, SpareIndex};
use crate::units::{Range, Sectors, coalesce};
use policy::{order, run_on};
use runs::FreeRuns;
use std::collections::BTreeMap;

/// Points of health that are worth an extent of its own.
const FAR_WORSE: u8 = 20;

/// Free space of all spares that can take extents.
#[derive(Clone, Debug)]
pub struct Pool<'a> {
    map: &'a Map,
    policy: AllocationPolicy,
    scores: Scores,
    /// Requests over the life of the setup.
    turn: u64,
    spares: BTreeMap<SpareIndex, FreeRuns>,
    /// What was allocated from this pool: where the sectors end, and where their slot ends.
    ends: BTreeMap<Sectors, Slot>,
    /// The same: where the sectors start, and where their slot starts.
    starts: BTreeMap<Sectors, Slot>,
}

/// A part of a request, and the slot that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Sectors of the setup.
    pub range: Range,
    /// Where they go.
    pub slot: Slot,
}

/// The spares as the caller sees them. A closure says which of them may be used, and nothing of their disks.
pub trait Available {
    /// Whether extents may go to this spare.
    fn is_usable(&self, spare: SpareIndex) -> bool;
    /// How well its disk is, from 0 to 100; nothing when that is not known.
    fn disk_score(&self, _spare: SpareIndex) -> Option<u8> {
        None
    }
}

impl<F: Fn(SpareIndex) -> bool> Available for F {
    fn is_usable(&self, spare: SpareIndex) -> bool {
        self(spare)
    }
}

/// Not enough room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free slot for sectors {range}: {free} sectors are free on the spares")]
pub struct PoolFull {
    /// What found no place.
    pub range: Range,
    /// Sectors free in total.
    pub free: Sectors,
}

impl<'a> Pool<'a> {
    /// The free space that the metadata leaves, on the spares that are available, to be given out by the setup's own
    /// policy. A spare is as well as [`recorded_scores`] and its disk's score say, whichever is less.
    pub fn new(metadata: &'a Metadata, available: impl Available) -> Pool<'a> {
        let unit = metadata.map.unit();
        let mut spares = BTreeMap::new();
        for (index, record) in (0u8..).map(SpareIndex).zip(&metadata.spares) {
            if record.state != SpareState::Present || !available.is_usable(index) {
                continue;
            }
            let used = metadata
                .map
                .extents_by_slot(index)
                .filter_map(|e| Range::new(e.slot.start, metadata.map.slot_len(e.range.len())?));
            let limit = record.identity.size.align_down(unit);
            let bad = metadata.bad_blocks.get(&index).into_iter().flatten();
            // A bad sector takes its whole unit out of use.
            let bad = bad.filter_map(|r| r.widen_to(unit, limit));
            let taken = coalesce(used.chain(bad).collect());
            let start = record.data_start.align_up(unit).unwrap_or(limit);
            spares.insert(index, FreeRuns::between(start, limit, &taken));
        }
        let pool = Pool {
            map: &metadata.map,
            policy: metadata.config.policy.allocation,
            scores: recorded_scores(metadata),
            // Every remap is a splice of its own.
            turn: metadata.health.splices,
            spares,
            ends: BTreeMap::new(),
            starts: BTreeMap::new(),
        };
        pool.judged_by(&available)
    }

    /// The same, no spare being better than its disk.
    #[must_use]
    pub fn judged_by(mut self, available: &impl Available) -> Pool<'a> {
        for (index, score) in &mut self.scores {
            *score = available.disk_score(*index).map_or(*score, |disk| disk.min(*score));
        }
        self
    }

    /// Sectors that are free in total.
    pub fn free(&self) -> Sectors {
        let totals = self.spares.values().map(|s| s.total().0);
        Sectors(totals.fold(0, u64::saturating_add))
    }

    /// Sectors that are free on one spare.
    pub fn free_on(&self, spare: SpareIndex) -> Sectors {
        self.spares.get(&spare).map_or(Sectors::ZERO, FreeRuns::total)
    }

    /// The free runs, by spare and in order of their place.
    pub fn free_runs(&self) -> impl Iterator<Item = (SpareIndex, Range)> + '_ {
        self.spares.iter().flat_map(|(spare, free)| free.iter().map(|run| (*spare, run)))
    }

    /// Length of the longest free run on any spare.
    pub fn longest_free(&self) -> Sectors {
        let longest = self.spares.values().filter_map(FreeRuns::longest).map(|run| run.len());
        longest.max().unwrap_or_default()
    }

    /// Whether the pool gives out room on this spare.
    pub fn has(&self, spare: SpareIndex) -> bool {
        self.spares.contains_key(&spare)
    }

    /// The lowest place on a spare with room for `len` sectors in one piece.
    pub fn lowest_on(&self, spare: SpareIndex, len: Sectors) -> Option<Slot> {
        let run = self.spares.get(&spare)?.first_fit(len)?;
        Some(Slot { spare, start: run.start() })
    }

    /// The smallest run on any spare with room for `len` sectors in one piece.
    pub fn smallest_for(&self, len: Sectors) -> Option<Slot> {
        let runs = self.spares.iter().filter_map(|(spare, free)| Some((free.best_fit(len)?, *spare)));
        let (run, spare) = runs.min_by_key(|(run, spare)| (run.len(), *spare))?;
        Some(Slot { spare, start: run.start() })
    }

    /// Whether the `len` sectors from `slot` on are free.
    pub fn is_free(&self, slot: Slot, len: Sectors) -> bool {
        self.spares.get(&slot.spare).is_some_and(|free| free.run_of(slot.start, len).is_some())
    }

    /// Takes the `len` sectors from `slot` on, if they are free. Both are whole units.
    pub fn claim(&mut self, slot: Slot, len: Sectors) -> bool {
        self.take_at(slot, len)
    }

    /// Finds slots for `range`: in one piece if any spare has room for it; else in several. Nothing is taken when there
    /// is not enough room.
    ///
    /// # Errors
    /// [`PoolFull`].
    pub fn allocate(&mut self, range: Range) -> Result<Vec<Allocation>, PoolFull> {
        self.allocate_all(&[range])
    }

    /// Finds slots for all ranges of one request (disjoint, in order of main). The answer is in the same order. Nothing
    /// is taken when there is not enough room for all.
    ///
    /// # Errors
    /// [`PoolFull`].
    pub fn allocate_all(&mut self, ranges: &[Range]) -> Result<Vec<Allocation>, PoolFull> {
        let free = self.free();
        let mut left = Sectors::ZERO;
        for range in ranges {
            let total = self.map.slot_len(range.len()).and_then(|len| left.checked_add(len));
            left = total.filter(|total| *total <= free).ok_or(PoolFull { range: *range, free })?;
        }
        let mut out = Vec::with_capacity(ranges.len());
        let mut next: Option<Slot> = None;
        for range in ranges {
            let full = PoolFull { range: *range, free };
            let len = self.map.slot_len(range.len()).ok_or(full)?;
            if let Some(slot) = self.take_beside(*range, len) {
                out.push(self.note(*range, slot, len));
            } else {
                next = self.take_by_policy(*range, len, left, next, &mut out).ok_or(full)?;
            }
            left = left.saturating_sub(len);
        }
        self.turn = self.turn.saturating_add(1);
        Ok(out)
    }

    /// Takes the place directly behind the slot of the sectors before `range`, or directly before that of those after.
    fn take_beside(&mut self, range: Range, len: Sectors) -> Option<Slot> {
        let before = self.ends.get(&range.start()).copied().or_else(|| {
            let extent = self.map.extent_at(range.start().checked_sub(Sectors(1))?)?;
            // What lies in the map behind it is being moved itself: it tells nothing.
            let start = extent.slot.start.checked_add(extent.range.len())?;
            (extent.range.end() == range.start()).then_some(Slot { start, ..extent.slot })
        });
        let after = self.starts.get(&range.end()).copied().or_else(|| {
            let extent = self.map.extent_at(range.end())?;
            (extent.range.start() == range.end()).then_some(extent.slot)
        });
        let after = after.and_then(|slot| Some(Slot { start: slot.start.checked_sub(len)?, ..slot }));
        let is_fit = |slot: &Slot| !self.is_far_worse(slot.spare, len);
        let places: Vec<Slot> = [before, after].into_iter().flatten().filter(is_fit).collect();
        places.into_iter().find(|slot| self.take_at(*slot, len))
    }

    /// Whether by [`AllocationPolicy::Health`] another spare with room is so much better that neighbours are better apart.
    fn is_far_worse(&self, spare: SpareIndex, len: Sectors) -> bool {
        let score = |index: &SpareIndex| self.scores.get(index).copied().unwrap_or(100);
        let best = self.spares.iter().filter(|(_, free)| free.first_fit(len).is_some()).map(|(index, _)| score(index));
        self.policy == AllocationPolicy::Health
            && best.max().is_some_and(|best| score(&spare).saturating_add(FAR_WORSE) < best)
    }

    /// Takes what the policy names for `range`: behind `next` while that is free. Returns what the next range may
    /// continue behind; `None` when there was no room.
    fn take_by_policy(
        &mut self,
        range: Range,
        len: Sectors,
        left: Sectors,
        next: Option<Slot>,
        out: &mut Vec<Allocation>,
    ) -> Option<Option<Slot>> {
        let behind = |slot: Slot| Some(Slot { start: slot.start.checked_add(len)?, ..slot });
        if let Some(slot) = next.filter(|slot| self.take_at(*slot, len)) {
            out.push(self.note(range, slot, len));
            return Some(behind(slot));
        }
        let order = order(self.policy, &self.spares, &self.scores, self.turn);
        let found = self.choose(&order, left).or_else(|| self.choose(&order, len));
        if let Some(slot) = found.filter(|slot| self.take_at(*slot, len)) {
            out.push(self.note(range, slot, len));
            return Some(behind(slot));
        }
        self.take_pieces(&order, range, len, out).then_some(None)
    }

    /// The start of the run that the policy names for `len` sectors in one piece.
    fn choose(&self, order: &[SpareIndex], len: Sectors) -> Option<Slot> {
        let mut found = order.iter().filter_map(|spare| {
            let run = run_on(self.policy, self.spares.get(spare)?, len)?;
            Some((run.len(), Slot { spare: *spare, start: run.start() }))
        });
        let chosen = match self.policy {
            AllocationPolicy::BestFit => found.min(),
            _ => found.next(),
        };
        chosen.map(|(_, slot)| slot)
    }

    /// Takes several runs for a range that none has room for: the best fitting and the longest with
    /// [`AllocationPolicy::BestFit`], else the first on each spare in turn.
    fn take_pieces(&mut self, order: &[SpareIndex], range: Range, len: Sectors, out: &mut Vec<Allocation>) -> bool {
        let (mut at, mut left) = (range.start(), len);
        while left > Sectors::ZERO {
            let run = match self.policy {
                AllocationPolicy::BestFit => {
                    self.choose(order, left).map(|slot| (slot, left)).or_else(|| self.longest())
                }
                _ => order.iter().find_map(|spare| {
                    let run = self.spares.get(spare)?.iter().next()?;
                    Some((Slot { spare: *spare, start: run.start() }, run.len()))
                }),
            };
            let Some((slot, room)) = run else { return false };
            let taken = room.min(left);
            let end = at.checked_add(taken).unwrap_or(range.end()).min(range.end());
            let Some(part) = Range::between(at, end).filter(|_| self.take_at(slot, taken)) else { return false };
            out.push(self.note(part, slot, taken));
            (at, left) = (end, left.saturating_sub(taken));
        }
        true
    }

    /// The longest free run on any spare; the lowest spare of several.
    fn longest(&self) -> Option<(Slot, Sectors)> {
        let runs = self.spares.iter().rev().filter_map(|(spare, free)| Some((*spare, free.longest()?)));
        let (spare, run) = runs.max_by_key(|(_, run)| run.len())?;
        Some((Slot { spare, start: run.start() }, run.len()))
    }

    fn take_at(&mut self, slot: Slot, len: Sectors) -> bool {
        self.spares.get_mut(&slot.spare).is_some_and(|free| free.take_at(slot.start, len))
    }

    /// Remembers an allocation, for what will lie beside it.
    fn note(&mut self, range: Range, slot: Slot, len: Sectors) -> Allocation {
        self.starts.insert(range.start(), slot);
        if let Some(start) = slot.start.checked_add(len) {
            self.ends.insert(range.end(), Slot { start, ..slot });
        }
        Allocation { range, slot }
    }
}
