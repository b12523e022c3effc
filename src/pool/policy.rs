//! Which spare is asked first.
//!
//! Invariant: the answer depends on the metadata and on the scores that were handed in alone: whoever plans the same
//! request again gets the same slots.

use super::runs::FreeRuns;
use crate::format::metadata::{AllocationPolicy, Metadata, SpareState};
use crate::map::SpareIndex;
use crate::units::Range;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// How well each spare is, from 0 to 100. A spare that is not in it counts as 100.
pub type Scores = BTreeMap<SpareIndex, u8>;

/// The scores that the metadata alone gives: 0 for a spare that failed a commit, 100 for one without bad sectors; the
/// first bad sector costs 10 points, and each doubling of their number 10 more.
pub fn recorded_scores(metadata: &Metadata) -> Scores {
    let score = |index: SpareIndex, state: SpareState| {
        if state == SpareState::Failed {
            return 0;
        }
        let runs = metadata.bad_blocks.get(&index).into_iter().flatten();
        let bad = runs.map(|run| run.len().0).fold(0, u64::saturating_add);
        let doublings = bad.checked_ilog2().map_or(0, |log| log.saturating_add(1));
        u8::try_from(100u32.saturating_sub(doublings.saturating_mul(10))).unwrap_or(100)
    };
    let spares = (0u8..).map(SpareIndex).zip(&metadata.spares);
    spares.map(|(index, record)| (index, score(index, record.state))).collect()
}

/// The spares in the order in which they are asked for room. `turn` counts the requests over the life of the setup.
pub(super) fn order(
    policy: AllocationPolicy,
    spares: &BTreeMap<SpareIndex, FreeRuns>,
    scores: &Scores,
    turn: u64,
) -> Vec<SpareIndex> {
    let mut all: Vec<(SpareIndex, &FreeRuns)> = spares.iter().map(|(index, free)| (*index, free)).collect();
    let score = |index: SpareIndex| scores.get(&index).copied().unwrap_or(100);
    // Stable sorts: among equals the lowest index comes first.
    match policy {
        AllocationPolicy::FirstFit | AllocationPolicy::BestFit => {}
        AllocationPolicy::RoundRobin => {
            let count = u64::try_from(all.len()).unwrap_or(0);
            let first = turn.checked_rem(count).and_then(|first| usize::try_from(first).ok()).unwrap_or(0);
            all.rotate_left(first);
        }
        AllocationPolicy::LeastUsed => all.sort_by(|a, b| by_free_share(a.1, b.1)),
        AllocationPolicy::Health => {
            all.sort_by(|a, b| score(b.0).cmp(&score(a.0)).then_with(|| by_free_share(a.1, b.1)));
        }
    }
    all.into_iter().map(|(index, _)| index).collect()
}

/// The one with the larger free share first.
fn by_free_share(a: &FreeRuns, b: &FreeRuns) -> Ordering {
    let share =
        |free: &FreeRuns, other: &FreeRuns| u128::from(free.total().0).saturating_mul(u128::from(other.capacity().0));
    share(b, a).cmp(&share(a, b))
}

/// The run to take `len` sectors from: the first, or the best fitting, of a spare.
pub(super) fn run_on(policy: AllocationPolicy, free: &FreeRuns, len: crate::units::Sectors) -> Option<Range> {
    match policy {
        AllocationPolicy::BestFit => free.best_fit(len),
        _ => free.first_fit(len),
    }
}
