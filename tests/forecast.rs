//! The history of used sectors stays small and true, and the forecast says no more than it tells.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

#[path = "format_support/mod.rs"]
mod support;

use dm_remap::format::copy::encode;
use dm_remap::format::metadata::{MAX_USED_SAMPLES, Metadata};
use dm_remap::pool::{Outlook, forecast};
use dm_remap::units::Sectors;
use proptest::prelude::*;
use support::{metadata, range, slot};

const DAY: u64 = 86_400;
const START: u64 = 1_700_000_000;

/// The metadata after a commit at `time` with so many units in use.
fn commit(before: &Metadata, time: u64, units: u64) -> Metadata {
    let mut next = before.next(time, [0; 32]);
    while next.map.remapped().0 / 8 < units {
        let n = next.map.remapped().0 / 8;
        next.map.insert(range(n * 16, 8), slot(0, 10_240 + n * 8)).unwrap();
    }
    while next.map.remapped().0 / 8 > units {
        let last = next.map.extents().last().unwrap().range;
        next.map.remove(range(last.end().0 - 8, 8)).unwrap();
    }
    next.note_used(before);
    next
}

/// Commits of (time, units in use), after a creation at [`START`].
fn history(commits: &[(u64, u64)]) -> Metadata {
    let mut setup = metadata(1, 1);
    (setup.config.created, setup.committed) = (START, START);
    commits.iter().fold(setup, |before, (time, units)| commit(&before, *time, *units))
}

fn samples(metadata: &Metadata) -> Vec<(u64, u64)> {
    metadata.health.used.iter().map(|s| (s.time(), s.sectors().0 / 8)).collect()
}

fn outlook(metadata: &Metadata, free: u64, now: u64) -> Outlook {
    forecast(metadata, Sectors(free), now)
}

#[test]
fn only_changes_are_recorded_and_what_was_before_the_first() {
    let setup = history(&[(START + 10, 0), (START + 20, 2), (START + 30, 2), (START + 40, 1)]);
    assert_eq!(samples(&setup), [(START + 10, 0), (START + 20, 2), (START + 40, 1)]);
    let json = serde_json::to_string(&setup.health).unwrap();
    assert!(json.contains(&format!("\"used\":[[{},0],[{},16],[{},8]]", START + 10, START + 20, START + 40)), "{json}");
    assert_eq!(serde_json::from_str::<dm_remap::format::metadata::Health>(&json).unwrap(), setup.health);
    // Where nothing changed, older metadata encodes to the same bytes.
    let none = history(&[(START + 10, 0)]);
    assert!(!serde_json::to_string(&none.health).unwrap().contains("used"));
    encode(&setup).unwrap();
}

#[test]
fn a_clock_that_jumps_spoils_little() {
    // At time zero nobody knows the time: the value counts for the last time known.
    let setup = history(&[(START + DAY, 3), (5, 4), (START + 2 * DAY, 6)]);
    assert_eq!(samples(&setup), [(START, 0), (START + DAY, 4), (START + 2 * DAY, 6)]);
    // A clock that was ahead, and was put right.
    let setup = history(&[(START + DAY, 3), (START + 9000 * DAY, 4), (START + 2 * DAY, 6)]);
    assert_eq!(samples(&setup), [(START, 0), (START + DAY, 3), (START + 2 * DAY, 6)]);
    // Before anything is recorded at all.
    let mut setup = metadata(1, 1);
    (setup.config.created, setup.committed) = (0, 0);
    let setup = commit(&setup, 0, 3);
    assert_eq!(samples(&setup), [(0, 3)]);
    assert_eq!(outlook(&setup, 100, 0), Outlook::TooEarly);
    // Read while the clock is behind all that was recorded.
    assert_eq!(outlook(&history(&[(START + DAY, 3)]), 100, START - 5), Outlook::TooEarly);
    assert_eq!(outlook(&history(&[(START + DAY, 3)]), 100, 0), Outlook::TooEarly);
}

#[test]
fn the_forecast_is_the_rate_of_the_last_thirty_days() {
    use Outlook::{Exhausted, Growing, NoGrowth, TooEarly};
    let fresh = history(&[]);
    assert_eq!(outlook(&fresh, 100, START + DAY - 1), TooEarly);
    assert_eq!(outlook(&fresh, 100, START + 3 * DAY), NoGrowth { days: 3 });
    assert_eq!(outlook(&fresh, 0, START + 3 * DAY), Exhausted);

    // 80 sectors in ten days, and 160 free: twenty more days.
    let growing = history(&[(START + 5 * DAY, 5), (START + 10 * DAY, 10)]);
    let now = START + 10 * DAY;
    assert_eq!(outlook(&growing, 160, now), Growing { days: 10, per_day: 8, until: now + 20 * DAY });
    // Slower than one a day is rounded up, but the date is exact.
    let slow = history(&[(START + 20 * DAY, 1)]);
    let now = START + 20 * DAY;
    assert_eq!(outlook(&slow, 8, now), Growing { days: 20, per_day: 1, until: now + 20 * DAY });
    // What happened before the last 30 days is no rate of today.
    assert_eq!(outlook(&slow, 8, START + 60 * DAY), NoGrowth { days: 30 });
    // Moved back to main.
    let back = history(&[(START + 5 * DAY, 5), (START + 10 * DAY, 0)]);
    assert_eq!(outlook(&back, 8, START + 12 * DAY), NoGrowth { days: 12 });
    // Metadata of an earlier version: no history, and sectors in use.
    let mut old = history(&[(START + DAY, 5)]);
    old.health.used.clear();
    assert_eq!(outlook(&old, 8, START + 12 * DAY), TooEarly);
    assert!(matches!(outlook(&growing, u64::MAX, START + 10 * DAY), Growing { until: u64::MAX, .. }));
    assert_eq!(outlook(&growing, 8, u64::MAX), NoGrowth { days: 30 });
}

proptest! {
    #[test]
    fn the_history_stays_small_sorted_and_ends_with_the_present(
        steps in prop::collection::vec((0u64..100 * DAY, 0u64..6, 0u8..12), 1..300),
        free in 0u64..1000,
    ) {
        let mut setup = history(&[]);
        let mut now = START;
        for (wait, units, clock) in steps {
            now += wait;
            // Now and then the clock is wrong.
            let time = match clock { 0 => 0, 1 => now.saturating_sub(wait * 2), 2 => now + 400 * DAY, _ => now };
            setup = commit(&setup, time, units);
            let known = samples(&setup);
            prop_assert!(known.len() <= MAX_USED_SAMPLES);
            prop_assert!(known.windows(2).all(|w| w[0].0 < w[1].0), "{known:?}");
            prop_assert!(known.last().is_none_or(|last| last.1 == setup.map.remapped().0 / 8));
            let _ = outlook(&setup, free, time);
        }
        encode(&setup).unwrap();
    }
}
