//! What `status` says of the room on the spares, and how long it lasts.

use crate::cli::report::{count, sizes};
use crate::forecast::Foresight;
use crate::format::metadata::Metadata;
use crate::pool::{Outlook, Pool, forecast};
use crate::units::Sectors;
use serde::Serialize;
use std::time::{Duration, UNIX_EPOCH};

/// A day in seconds.
const DAY: u64 = 86_400;

/// Room that lasts no longer than this asks for attention.
const SOON: u64 = 30 * DAY;

/// Room on the spares.
#[derive(Debug, Serialize)]
pub(super) struct RoomReport {
    pub(super) sectors: Sectors,
    unit: Sectors,
    pub(super) longest_run_sectors: Sectors,
    /// `exhausted`, `unknown`, `steady` or `growing`.
    outlook: &'static str,
    /// Days that the outlook is taken from.
    days: Option<u64>,
    sectors_per_day: Option<u64>,
    /// When no room is left at the present rate, seconds since 1970.
    pub(super) exhausted_at: Option<u64>,
    summary: String,
    #[serde(skip)]
    soon: bool,
}

impl RoomReport {
    /// What `foresight` says; where the past is too short for it, the plain rate of what there is.
    pub(super) fn new(metadata: &Metadata, pool: &Pool<'_>, foresight: &Foresight, now: u64) -> RoomReport {
        let (free, unit) = (pool.free(), metadata.map.unit());
        let plain = format!("room for {} in units of {unit}", sizes(free));
        let longest_run_sectors = pool.longest_free();
        let report = |outlook, days, summary| RoomReport {
            sectors: free,
            unit,
            longest_run_sectors,
            outlook,
            days,
            sectors_per_day: None,
            exhausted_at: None,
            summary,
            soon: false,
        };
        let growing = |days, per_day, until: Option<u64>, words: String| RoomReport {
            sectors_per_day: Some(per_day),
            exhausted_at: until,
            soon: until.is_some_and(|until| until.saturating_sub(now) <= SOON),
            ..report("growing", Some(days), format!("{plain}; {words}"))
        };
        let steady = |days| report("steady", Some(days), format!("{plain}; no growth seen in {}", count_days(days)));
        match foresight {
            Foresight::Exhausted => RoomReport { soon: true, ..report("exhausted", None, "no room is left".into()) },
            Foresight::Steady { days } => steady(whole(*days)),
            Foresight::Growing(growth) => {
                let until = growth.expected.map(|days| now.saturating_add(whole(days).saturating_mul(DAY)));
                growing(whole(growth.days), growth.sectors_per_day(), until, growth.span_words())
            }
            Foresight::TooEarly => match forecast(metadata, free, now) {
                Outlook::Growing { days, per_day, until } => {
                    let rate = format!("at the rate of the last {} ({per_day} sectors a day)", count_days(days));
                    growing(days, per_day, Some(until), format!("{rate} {}", until_words(until, now)))
                }
                Outlook::NoGrowth { days } => steady(days),
                Outlook::Exhausted | Outlook::TooEarly => {
                    report("unknown", None, format!("{plain}; too early to tell for how long"))
                }
            },
        }
    }

    /// In words.
    pub(super) fn summary(&self) -> &str {
        &self.summary
    }

    /// Whether there is none, or soon will be.
    pub(super) fn is_short(&self) -> bool {
        self.soon
    }
}

fn whole(days: usize) -> u64 {
    u64::try_from(days).unwrap_or(u64::MAX)
}

fn count_days(days: u64) -> String {
    count(usize::try_from(days).unwrap_or(usize::MAX), "day")
}

fn until_words(until: u64, now: u64) -> String {
    const CENTURY: u64 = 36_525 * DAY;
    let date = UNIX_EPOCH.checked_add(Duration::from_secs(until));
    match date.filter(|_| until.saturating_sub(now) < CENTURY && until < 200_000_000_000) {
        Some(date) => {
            let text = humantime::format_rfc3339_seconds(date).to_string();
            format!("until about {}", text.split('T').next().unwrap_or_default())
        }
        None => "for more than a hundred years".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_said_as_far_as_they_make_sense() {
        assert_eq!(until_words(1_700_000_000, 1_690_000_000), "until about 2023-11-14");
        assert_eq!(until_words(u64::MAX, 1_690_000_000), "for more than a hundred years");
        assert_eq!(until_words(u64::MAX, u64::MAX), "for more than a hundred years");
        assert_eq!(until_words(0, 0), "until about 1970-01-01");
    }
}
