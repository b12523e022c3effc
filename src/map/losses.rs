//! What was lost: runs of sectors whose data could not be read back, and what became of them.
//!
//! Invariants: runs do not overlap; neighbours with the same fate are one run.

use crate::units::{Range, Sectors};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What became of sectors that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// They live on a spare and answer EIO until they are written.
    Held,
    /// As [`Fate::Held`], and what was lost was newer than what main has, or may have been: main cannot answer for them
    /// even if it reads.
    #[serde(rename = "held-stale")]
    HeldStale,
    /// They live on a spare and were filled with zeros.
    Zeroed,
    /// They were left on main.
    Left,
    /// They were held, and have been written since: the new data is good, the old is lost.
    Rewritten,
}

impl Fate {
    /// Whether they answer EIO until they are written.
    pub fn is_held(self) -> bool {
        matches!(self, Fate::Held | Fate::HeldStale)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::Held => "held",
            Fate::HeldStale => "held-stale",
            Fate::Zeroed => "zeroed",
            Fate::Left => "left",
            Fate::Rewritten => "rewritten",
        })
    }
}

/// One run of lost sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The sectors of the setup.
    pub range: Range,
    /// What became of them.
    pub fate: Fate,
}

/// All runs of lost sectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    runs: BTreeMap<Sectors, Loss>,
}

impl Losses {
    /// Whether nothing is lost.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Number of runs.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// All runs in order.
    pub fn iter(&self) -> impl Iterator<Item = Loss> + '_ {
        self.runs.values().copied()
    }

    /// Lost sectors of which the fate is such a one.
    pub fn sectors(&self, such: impl Fn(Fate) -> bool) -> Sectors {
        let lens = self.iter().filter(|l| such(l.fate)).map(|l| l.range.len().0);
        Sectors(lens.fold(0, u64::saturating_add))
    }

    /// The parts of runs that lie inside `window`, in order.
    pub fn within(&self, window: Range) -> impl Iterator<Item = Loss> + '_ {
        let before = self.runs.range(..window.start()).next_back().map(|(_, l)| *l);
        before
            .into_iter()
            .chain(self.runs.range(window.start()..window.end()).map(|(_, l)| *l))
            .filter_map(move |l| Some(Loss { range: l.range.intersect(window)?, fate: l.fate }))
    }

    /// Gives every sector of `range` the fate, or none.
    pub(super) fn set(&mut self, range: Range, fate: Option<Fate>) {
        let touched: Vec<Loss> = self.within(range).filter_map(|part| self.at(part.range.start())).collect();
        for loss in touched {
            self.runs.remove(&loss.range.start());
            let left = Range::between(loss.range.start(), range.start());
            let right = Range::between(range.end(), loss.range.end());
            for rest in [left, right].into_iter().flatten() {
                self.runs.insert(rest.start(), Loss { range: rest, fate: loss.fate });
            }
        }
        let Some(fate) = fate else { return };
        let mut joined = range;
        let neighbours =
            [range.start().checked_sub(Sectors(1)).and_then(|s| self.at(s)), self.runs.get(&range.end()).copied()];
        for next in neighbours.into_iter().flatten().filter(|l| l.fate == fate) {
            self.runs.remove(&next.range.start());
            let start = joined.start().min(next.range.start());
            joined = Range::between(start, joined.end().max(next.range.end())).unwrap_or(joined);
        }
        self.runs.insert(joined.start(), Loss { range: joined, fate });
    }

    /// The run that `sector` is in, whole.
    pub fn at(&self, sector: Sectors) -> Option<Loss> {
        let (_, loss) = self.runs.range(..=sector).next_back()?;
        loss.range.contains(sector).then_some(*loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn losses_agree_with_a_model_of_single_sectors(ops in prop::collection::vec((0u64..50, 1u64..12, 0usize..6), 1..60)) {
            let fates = [Some(Fate::Held), Some(Fate::HeldStale), Some(Fate::Zeroed), Some(Fate::Left), Some(Fate::Rewritten), None];
            let mut losses = Losses::default();
            let mut model = [None; 64];
            for (start, len, fate) in ops {
                losses.set(Range::new(Sectors(start), Sectors(len)).unwrap(), fates[fate]);
                model[start as usize..(start + len) as usize].fill(fates[fate]);
                for s in 0..64u64 {
                    prop_assert_eq!(losses.at(Sectors(s)).map(|l| l.fate), model[s as usize]);
                }
                let runs: Vec<Loss> = losses.iter().collect();
                prop_assert!(runs.windows(2).all(|w| w[0].range.end() < w[1].range.start()
                    || (w[0].range.end() == w[1].range.start() && w[0].fate != w[1].fate)));
            }
        }
    }
}
