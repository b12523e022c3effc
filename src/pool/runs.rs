//! The free runs of one spare, by place and by length.
//!
//! Invariant: both orders hold the same runs; runs do not overlap and do not touch.

use crate::units::{Range, Sectors};
use std::collections::{BTreeMap, BTreeSet};

/// Free runs of one spare, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct FreeRuns {
    runs: BTreeMap<Sectors, Range>,
    /// Starts of the same runs, by length.
    by_len: BTreeMap<Sectors, BTreeSet<Sectors>>,
    /// Sectors in all of them.
    total: Sectors,
    /// Sectors of the data area in whole units, free or not.
    capacity: Sectors,
}

impl FreeRuns {
    /// What `taken` (sorted, disjoint) leaves between `start` and `end`.
    pub(super) fn between(start: Sectors, end: Sectors, taken: &[Range]) -> FreeRuns {
        let mut free = FreeRuns { capacity: end.saturating_sub(start), ..FreeRuns::default() };
        let mut at = start;
        for range in taken {
            free.add(Range::between(at, range.start().min(end)));
            at = at.max(range.end());
        }
        free.add(Range::between(at, end));
        free
    }

    /// Sectors that are free.
    pub(super) fn total(&self) -> Sectors {
        self.total
    }

    /// Sectors of the data area in whole units, free or not.
    pub(super) fn capacity(&self) -> Sectors {
        self.capacity
    }

    /// The runs in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.runs.values().copied()
    }

    /// The longest run; the lowest of several.
    pub(super) fn longest(&self) -> Option<Range> {
        let (_, starts) = self.by_len.last_key_value()?;
        self.runs.get(starts.first()?).copied()
    }

    /// The first run with room for `len` sectors.
    pub(super) fn first_fit(&self, len: Sectors) -> Option<Range> {
        let long_enough = self.by_len.range(len..);
        let start = long_enough.filter_map(|(_, starts)| starts.first()).min()?;
        self.runs.get(start).copied()
    }

    /// The shortest run with room for `len` sectors; the lowest of several.
    pub(super) fn best_fit(&self, len: Sectors) -> Option<Range> {
        let (_, starts) = self.by_len.range(len..).next()?;
        self.runs.get(starts.first()?).copied()
    }

    /// The run that the `len` sectors from `start` on are free in.
    pub(super) fn run_of(&self, start: Sectors, len: Sectors) -> Option<Range> {
        let wanted = Range::new(start, len)?;
        let run = self.runs.range(..=start).next_back().map(|(_, run)| *run)?;
        run.encloses(wanted).then_some(run)
    }

    /// Takes the `len` sectors from `start` on, if all of them are free.
    pub(super) fn take_at(&mut self, start: Sectors, len: Sectors) -> bool {
        let (Some(wanted), Some(run)) = (Range::new(start, len), self.run_of(start, len)) else { return false };
        self.forget(run);
        self.add(Range::between(run.start(), wanted.start()));
        self.add(Range::between(wanted.end(), run.end()));
        true
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
}
