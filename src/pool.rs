//! The free space on the spares, and where the next extent goes.
//!
//! Invariants:
//! - a slot never touches metadata, a used slot, a bad run of the spare, or the end of the spare;
//! - slots start and end on units;
//! - what was allocated is free again only when the pool is built anew;
//! - an allocation takes time in the logarithm of the number of free runs, times the number of their different lengths.

use crate::format::metadata::{Metadata, SpareState};
use crate::map::{Slot, SpareIndex};
use crate::units::{Range, Sectors, coalesce};
use std::collections::{BTreeMap, BTreeSet};

/// Free runs of one spare, in order.
#[derive(Clone, Debug, Default)]
struct FreeRuns {
    runs: BTreeMap<Sectors, Range>,
    /// Starts of the same runs, by length.
    by_len: BTreeMap<Sectors, BTreeSet<Sectors>>,
    /// Sectors in all of them.
    total: Sectors,
}

/// Free space of all spares that can take extents.
#[derive(Clone, Debug)]
pub struct Pool {
    unit: Sectors,
    spares: BTreeMap<SpareIndex, FreeRuns>,
}

/// A part of a request, and the slot that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Sectors of the setup.
    pub range: Range,
    /// Where they go.
    pub slot: Slot,
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

impl Pool {
    /// The free space that the metadata leaves, on the spares for which `usable` says yes.
    pub fn new(metadata: &Metadata, usable: impl Fn(SpareIndex) -> bool) -> Pool {
        let unit = metadata.map.unit();
        let mut spares = BTreeMap::new();
        for (index, record) in (0u8..).map(SpareIndex).zip(&metadata.spares) {
            if record.state != SpareState::Present || !usable(index) {
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
        Pool { unit, spares }
    }

    /// Sectors that are free in total.
    pub fn free(&self) -> Sectors {
        let totals = self.spares.values().map(|s| s.total.0);
        Sectors(totals.fold(0, u64::saturating_add))
    }

    /// Sectors that are free on one spare.
    pub fn free_on(&self, spare: SpareIndex) -> Sectors {
        self.spares.get(&spare).map_or(Sectors::ZERO, |s| s.total)
    }

    /// Finds slots for `range`: in one piece if any spare has room for it, the first spare and the lowest place
    /// first; else in several pieces. Nothing is taken when there is not enough room.
    ///
    /// # Errors
    /// [`PoolFull`].
    pub fn allocate(&mut self, range: Range) -> Result<Vec<Allocation>, PoolFull> {
        let full = PoolFull { range, free: self.free() };
        let mut left = range.len().align_up(self.unit).ok_or(full)?;
        if left > full.free {
            return Err(full);
        }
        for (index, spare) in &mut self.spares {
            if let Some(start) = spare.take(left) {
                let slot = Slot { spare: *index, start };
                return Ok(vec![Allocation { range, slot }]);
            }
        }
        let mut out = Vec::new();
        let mut at = range.start();
        for (index, spare) in &mut self.spares {
            while left > Sectors::ZERO
                && let Some(run) = spare.take_up_to(left)
            {
                let end = at.checked_add(run.len()).unwrap_or(range.end()).min(range.end());
                let Some(part) = Range::between(at, end) else {
                    break;
                };
                out.push(Allocation { range: part, slot: Slot { spare: *index, start: run.start() } });
                left = left.saturating_sub(run.len());
                at = end;
            }
        }
        if left > Sectors::ZERO { Err(full) } else { Ok(out) }
    }
}

impl FreeRuns {
    /// What `taken` (sorted, disjoint) leaves between `start` and `end`.
    fn between(start: Sectors, end: Sectors, taken: &[Range]) -> FreeRuns {
        let mut free = FreeRuns::default();
        let mut at = start;
        for range in taken {
            free.add(Range::between(at, range.start().min(end)));
            at = at.max(range.end());
        }
        free.add(Range::between(at, end));
        free
    }

    fn add(&mut self, run: Option<Range>) {
        let Some(run) = run else { return };
        self.runs.insert(run.start(), run);
        self.by_len.entry(run.len()).or_default().insert(run.start());
        self.total = Sectors(self.total.0.saturating_add(run.len().0));
    }

    fn forget(&mut self, run: Range) {
        self.runs.remove(&run.start());
        if let Some(starts) = self.by_len.get_mut(&run.len()) {
            starts.remove(&run.start());
            if starts.is_empty() {
                self.by_len.remove(&run.len());
            }
        }
        self.total = self.total.saturating_sub(run.len());
    }

    /// Takes `len` sectors out of the first run that has them.
    fn take(&mut self, len: Sectors) -> Option<Sectors> {
        let long_enough = self.by_len.range(len..);
        let start = *long_enough.filter_map(|(_, starts)| starts.first()).min()?;
        let run = *self.runs.get(&start)?;
        self.cut(run, len);
        Some(start)
    }

    /// Takes the first run, or its first `len` sectors.
    fn take_up_to(&mut self, len: Sectors) -> Option<Range> {
        let run = *self.runs.values().next()?;
        let taken = Range::new(run.start(), run.len().min(len))?;
        self.cut(run, taken.len());
        Some(taken)
    }

    fn cut(&mut self, run: Range, len: Sectors) {
        self.forget(run);
        let rest = run.start().checked_add(len);
        self.add(rest.and_then(|at| Range::between(at, run.end())));
    }
}
