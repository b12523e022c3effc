//! How long the room on the spares will last.
//!
//! Invariant: it says no more than the recorded history tells: no rate from less than a day, no date without growth.

use crate::format::metadata::Metadata;
use crate::units::Sectors;

/// Seconds in a day.
const DAY: u64 = 86_400;

/// How far back the present rate is taken from, in seconds: 30 days.
const PERIOD: u64 = 30 * DAY;

/// What the history tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// There is no room left.
    Exhausted,
    /// Less than a day of history, or a clock that was set back.
    TooEarly,
    /// No more sectors live on spares than before.
    NoGrowth {
        /// Whole days that this is for.
        days: u64,
    },
    /// It becomes less.
    Growing {
        /// Whole days that the rate is taken from.
        days: u64,
        /// Sectors a day, rounded up.
        per_day: u64,
        /// When no room is left if it goes on like that, seconds since 1970.
        until: u64,
    },
}

/// Foretells when `free` sectors will be in use, by what the metadata recorded up to `now` (seconds since 1970).
pub fn forecast(metadata: &Metadata, free: Sectors, now: u64) -> Outlook {
    if free == Sectors::ZERO {
        return Outlook::Exhausted;
    }
    let used = metadata.map.remapped();
    // A sample of the future was taken while the clock was wrong.
    let samples = metadata.health.used.iter().filter(|sample| sample.time() <= now);
    let mut history: Vec<(u64, Sectors)> = samples.map(|sample| (sample.time(), sample.sectors())).collect();
    history.sort_by_key(|(time, _)| *time);
    if history.is_empty() && used == Sectors::ZERO && metadata.health.used.is_empty() {
        // Nothing was ever moved.
        history.push((metadata.config.created, Sectors::ZERO));
    }
    let Some((first, _)) = history.first().copied() else { return Outlook::TooEarly };
    let start = first.max(now.saturating_sub(PERIOD));
    let span = now.saturating_sub(start);
    if span < DAY {
        return Outlook::TooEarly;
    }
    let days = span / DAY;
    // What was in use at the start is what the last sample until then says.
    let before = history.iter().rev().find(|(time, _)| *time <= start).map_or(Sectors::ZERO, |(_, sectors)| *sectors);
    let growth = used.saturating_sub(before).0;
    if growth == 0 {
        return Outlook::NoGrowth { days };
    }
    let (growth, span) = (u128::from(growth), u128::from(span));
    let narrow = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    let per_day = narrow(growth.saturating_mul(DAY.into()).div_ceil(span));
    let left = narrow(u128::from(free.0).saturating_mul(span) / growth);
    Outlook::Growing { days, per_day, until: now.saturating_add(left) }
}
