//! What the model looks at: numbers computed from the readings of a disk up to a time. Pure.

use crate::smart::{Counter, Smart};

const DAY: u64 = 86_400;

/// What is counted by the disks that the model was fitted on, in the order of [`Reading::counters`].
pub(crate) const COUNTERS: [Counter; 8] = [
    Counter::Reallocated,
    Counter::Uncorrected,
    Counter::Pending,
    Counter::OfflineUncorrectable,
    Counter::CommandTimeouts,
    Counter::HighFlyWrites,
    Counter::SpinRetries,
    Counter::ReallocationEvents,
];

/// Those of [`COUNTERS`], the first, that tell of sectors that could not be read.
const OF_THE_MEDIUM: usize = 4;

/// What a disk said at a time. It holds until the next reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When, in seconds since 1970.
    pub time: u64,
    /// Hours that it was powered on.
    pub hours: Option<u64>,
    /// Reallocated, uncorrected, pending, unreadable offline, command timeouts, high fly writes, spin retries, reallocation events.
    pub counters: [Option<u64>; 8],
}

impl Reading {
    /// The reading in what smartctl said.
    pub fn of(time: u64, smart: &Smart) -> Reading {
        Reading { time, hours: smart.power_on_hours, counters: COUNTERS.map(|counter| smart.counter(counter)) }
    }

    /// Whether it tells of sectors that could not be read: reallocated, uncorrected, pending, or unreadable offline.
    pub fn has_signs(&self) -> bool {
        self.counters.iter().take(OF_THE_MEDIUM).flatten().any(|value| *value > 0)
    }
}

/// Who made a disk: makers count differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// HGST and Hitachi.
    Hgst,
    /// Western Digital.
    Wdc,
    /// Seagate.
    Seagate,
    /// Another, or one that is not known.
    Other,
}

impl Maker {
    /// By the name of a model, as smartctl and Backblaze give it.
    pub fn of(model: &str) -> Maker {
        let name = model.trim().to_ascii_uppercase();
        let begins = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
        if begins(&["HGST", "HITACHI"]) {
            Maker::Hgst
        } else if begins(&["WDC", "WD", "WESTERN"]) {
            Maker::Wdc
        } else if begins(&["SEAGATE"])
            || (name.starts_with("ST") && name.as_bytes().get(2).is_some_and(u8::is_ascii_digit))
        {
            Maker::Seagate
        } else {
            Maker::Other
        }
    }

    fn code(self) -> f32 {
        match self {
            Maker::Hgst => 0.0,
            Maker::Wdc => 1.0,
            Maker::Other => 2.0,
            Maker::Seagate => 3.0,
        }
    }
}

/// The name under which a model is in the data: without what follows a dash, which makers use for the firmware and the customer.
pub fn family(model: &str) -> &str {
    model.trim().split('-').next().unwrap_or_default().trim()
}

/// How many numbers the model looks at.
pub const FEATURES: usize = 43;

/// The numbers; NaN for what is not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Features(pub [f32; FEATURES]);

#[expect(
    clippy::cast_precision_loss,
    reason = "a count is compared with thresholds, of which none needs more than 24 bits"
)]
fn number(value: u64) -> f32 {
    value as f32
}

fn days(seconds: u64) -> f32 {
    number(seconds / 3600) / 24.0
}

impl Features {
    /// Whether it is known how the disk's model has done.
    pub fn has_prior(&self) -> bool {
        self.0.get(2).is_some_and(|prior| !prior.is_nan())
    }

    /// Of a disk at a time, by its readings, oldest first and none later than `now`. `prior` says how its model has done, as a
    /// logarithm; NaN when that is not known.
    pub fn at(model: &str, prior: f32, readings: &[Reading], now: u64) -> Features {
        let mut out = [f32::NAN; FEATURES];
        let mut slots = out.iter_mut();
        let mut put = |value: f32| {
            if let Some(slot) = slots.next() {
                *slot = value;
            }
        };
        let last = readings.last().copied().unwrap_or_default();
        let since = now.saturating_sub(last.time) / 3600;
        put(last.hours.map_or(f32::NAN, |hours| number(hours.saturating_add(since)) / 24.0));
        put(Maker::of(model).code());
        put(prior);
        for index in 0..COUNTERS.len() {
            let value = |reading: &Reading| reading.counters.get(index).copied().flatten();
            let latest = value(&last);
            put(latest.map_or(f32::NAN, number));
            for span in [2 * DAY, 7 * DAY, 30 * DAY] {
                let then = at(readings, now.saturating_sub(span)).and_then(value);
                put(latest.zip(then).map_or(f32::NAN, |(latest, then)| number(latest.saturating_sub(then))));
            }
        }
        let (mut quiet, mut bad) = (f32::NAN, f32::NAN);
        for index in 0..OF_THE_MEDIUM {
            let value = |reading: &Reading| reading.counters.get(index).copied().flatten().unwrap_or(0);
            let grew = readings.windows(2).rev().find_map(|pair| match pair {
                [before, after] if value(after) > value(before) => Some(after.time),
                _ => None,
            });
            let since = grew.map_or(f32::NAN, |time| days(now.saturating_sub(time)));
            put(since);
            quiet = quiet.min(since);
            let first = readings.iter().find(|reading| value(reading) > 0).map(|reading| reading.time);
            bad = bad.max(first.map_or(f32::NAN, |time| days(now.saturating_sub(time))));
        }
        put(quiet);
        put(bad);
        let highest = readings.iter().filter_map(|reading| reading.counters[2]).max();
        put(highest.map_or(f32::NAN, number));
        let counters = last.counters.iter().take(OF_THE_MEDIUM).flatten();
        put(number(counters.filter(|value| **value > 0).count() as u64));
        Features(out)
    }
}

/// The reading that held at a time; the first when it is earlier than all.
fn at(readings: &[Reading], time: u64) -> Option<&Reading> {
    let after = readings.partition_point(|reading| reading.time <= time);
    readings.get(after.saturating_sub(1))
}
