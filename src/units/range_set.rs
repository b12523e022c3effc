//! A set of sectors, kept as runs.
//!
//! Invariants: runs do not overlap and do not touch; adding, removing and looking up take time in the logarithm of
//! their number (and in the number of runs that a change swallows).

use super::{Range, Sectors, coalesce};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A set of sectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Range>", into = "Vec<Range>")]
pub struct RangeSet {
    runs: BTreeMap<Sectors, Range>,
    sectors: Sectors,
}

impl From<Vec<Range>> for RangeSet {
    fn from(ranges: Vec<Range>) -> Self {
        let runs: BTreeMap<Sectors, Range> = coalesce(ranges).into_iter().map(|r| (r.start(), r)).collect();
        let sectors = Sectors(runs.values().map(|r| r.len().0).fold(0, u64::saturating_add));
        RangeSet { runs, sectors }
    }
}

impl From<RangeSet> for Vec<Range> {
    fn from(set: RangeSet) -> Self {
        set.iter().collect()
    }
}

impl FromIterator<Range> for RangeSet {
    fn from_iter<T: IntoIterator<Item = Range>>(iter: T) -> Self {
        iter.into_iter().collect::<Vec<_>>().into()
    }
}

impl RangeSet {
    /// Whether there is no sector in it.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Number of runs.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Number of sectors.
    pub fn sectors(&self) -> Sectors {
        self.sectors
    }

    /// The runs in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range> + '_ {
        self.runs.values().copied()
    }

    /// The first run.
    pub fn first(&self) -> Option<Range> {
        self.runs.values().next().copied()
    }

    /// The part of the first run that has sectors at or after `at`, without what lies before it.
    pub fn first_from(&self, at: Sectors) -> Option<Range> {
        let here = self.run_at(at).and_then(|run| Range::between(at, run.end()));
        here.or_else(|| self.runs.range(at..).next().map(|(_, run)| *run))
    }

    /// The part of the last run that has sectors before `end`, without what lies at or after it.
    pub fn last_before(&self, end: Sectors) -> Option<Range> {
        let run = self.runs.range(..end).next_back().map(|(_, run)| *run)?;
        Range::between(run.start(), run.end().min(end))
    }

    /// The run that `sector` is in.
    pub fn run_at(&self, sector: Sectors) -> Option<Range> {
        let run = self.runs.range(..=sector).next_back().map(|(_, run)| *run)?;
        run.contains(sector).then_some(run)
    }

    /// The parts of runs that lie inside `window`, in order.
    pub fn within(&self, window: Range) -> impl Iterator<Item = Range> + '_ {
        let before = self.runs.range(..window.start()).next_back().map(|(_, run)| *run);
        let rest = self.runs.range(window.start()..window.end()).map(|(_, run)| *run);
        before.into_iter().chain(rest).filter_map(move |run| run.intersect(window))
    }

    /// The sectors that are in both.
    pub fn intersection(&self, other: &RangeSet) -> RangeSet {
        self.iter().flat_map(|run| other.within(run)).collect()
    }

    /// Whether any sector of `range` is in it.
    pub fn overlaps(&self, range: Range) -> bool {
        self.within(range).next().is_some()
    }

    /// Adds all sectors of `range`.
    pub fn insert(&mut self, range: Range) {
        let (mut start, mut end) = (range.start(), range.end());
        if let Some((_, before)) = self.runs.range(..start).next_back()
            && before.end() >= start
        {
            start = before.start();
            end = end.max(before.end());
        }
        while let Some((_, next)) = self.runs.range(start..=end).next() {
            let next = *next;
            end = end.max(next.end());
            self.take_out(next);
        }
        if let Some(run) = Range::between(start, end) {
            self.put_in(run);
        }
    }

    /// Takes all sectors of `range` out.
    pub fn remove(&mut self, range: Range) {
        let touched: Vec<Range> = self.within(range).filter_map(|part| self.run_at(part.start())).collect();
        for run in touched {
            self.take_out(run);
            let rest = [Range::between(run.start(), range.start()), Range::between(range.end(), run.end())];
            rest.into_iter().flatten().for_each(|part| self.put_in(part));
        }
    }

    fn put_in(&mut self, run: Range) {
        self.sectors = Sectors(self.sectors.0.saturating_add(run.len().0));
        self.runs.insert(run.start(), run);
    }

    fn take_out(&mut self, run: Range) {
        self.sectors = self.sectors.saturating_sub(run.len());
        self.runs.remove(&run.start());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_agrees_with_a_model_of_single_sectors(
            ops in prop::collection::vec((0u64..50, 1u64..12, any::<bool>()), 1..60),
            at in 0u64..70,
        ) {
            let mut set = RangeSet::default();
            let mut model = [false; 64];
            for (start, len, add) in ops {
                let range = Range::new(Sectors(start), Sectors(len)).unwrap();
                if add { set.insert(range) } else { set.remove(range) }
                model[start as usize..(start + len) as usize].fill(add);
                prop_assert_eq!(set.sectors().0, model.iter().filter(|m| **m).count() as u64);
                for s in 0..64 {
                    prop_assert_eq!(set.run_at(Sectors(s)).is_some(), model[s as usize]);
                }
                let evens: RangeSet = (0..32).filter_map(|n| Range::new(Sectors(n * 2), Sectors(1))).collect();
                let both = set.intersection(&evens);
                for s in 0..64 {
                    prop_assert_eq!(both.run_at(Sectors(s)).is_some(), model[s as usize] && s % 2 == 0);
                }
                let runs: Vec<Range> = set.iter().collect();
                prop_assert!(runs.windows(2).all(|w| w[0].end() < w[1].start()));
                prop_assert_eq!(&RangeSet::from(runs), &set);
                let first = (at..64).find(|s| model[*s as usize]);
                prop_assert_eq!(set.first_from(Sectors(at)).map(|r| r.start().0), first);
                let last = (0..at.min(64)).rev().find(|s| model[*s as usize]);
                prop_assert_eq!(set.last_before(Sectors(at)).map(|r| r.end().0 - 1), last);
            }
        }
    }
}
