//! How likely a hard disk is to fail soon: a small model, fitted on disks that really failed.
//!
//! Source: Backblaze's published drive histories of April 2013 to June 2015, hard disks on ATA only. `cargo run --release --example
//! evaluate` fits the model, judges it, and writes `risk/model.json`; docs/EVALUATION.md says how well it does, and what it cannot say.
//!
//! Invariants:
//! - of a disk that the data says nothing about (flash, NVMe, SAS) nothing is said;
//! - a feature is computed here, and only here, for the fit as for use; it looks at nothing that came later;
//! - what comes out is a probability with the share of all such disks that fail beside it, never a date.

mod features;
mod model;

pub use features::{FEATURES, Features, Maker, Reading, family};
pub use model::{Horizon, Model, Node, Tree};

use crate::smart::{Protocol, Smart};
use serde::{Deserialize, Serialize};

/// The probability that a disk fails, within some days.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Risk {
    /// The days.
    pub days: u16,
    /// The probability, 0 to 1.
    pub probability: f64,
    /// The share of all disks in the data that failed within so many days, of those in service on a day.
    pub base_rate: f64,
}

/// A risk from which on something is to be done; how often it is right and how often in vain is measured in docs/EVALUATION.md.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Days ahead.
    pub days: u16,
    /// The probability, 0 to 1.
    pub probability: f64,
}

impl Level {
    /// Whether a risk is of the same days, and as high.
    pub fn is_reached(&self, risk: &Risk) -> bool {
        risk.days == self.days && risk.probability >= self.probability
    }
}

impl Risk {
    /// The probability in parts of a billion.
    pub fn billionths(&self) -> u64 {
        // Between 0 and a billion, so that nothing is cut off but digits that say nothing.
        format!("{:.0}", self.probability.clamp(0.0, 1.0) * 1e9).parse().unwrap_or(0)
    }

    /// The probability, for people.
    pub fn percent(&self) -> String {
        percent(self.probability)
    }
}

/// A share, for people: two digits, and never less than can be said.
pub fn percent(share: f64) -> String {
    let number = 100.0 * share;
    match number {
        99.0.. => "more than 99 %".into(),
        10.0.. => format!("{number:.0} %"),
        1.0.. => format!("{number:.1} %"),
        0.01.. => format!("{number:.2} %"),
        _ => "less than 0.01 %".into(),
    }
}

/// Where a replacement should be ready: about as many false alarms as with "5, 187, 197 or 198 above zero".
pub const WATCH: Level = Level { days: 365, probability: 0.30 };

/// Where the data should be copied off: about one false alarm in 200 drive-years.
pub const ACT: Level = Level { days: 30, probability: 0.30 };

/// Both.
pub const LEVELS: [Level; 2] = [WATCH, ACT];

/// Whether the model may be asked about a disk: a hard disk on ATA, like those it was fitted on. A disk that does not say whether it
/// turns may be a flash drive.
pub fn is_known_kind(smart: &Smart) -> bool {
    smart.protocol == Protocol::Ata && smart.rotates == Some(true)
}

/// The risks of a disk at a time, by its readings up to then, oldest first; nothing for a kind of disk that the data says nothing
/// about. Times are seconds since 1970.
pub fn assess(smart: &Smart, before: &[(u64, Smart)], now: u64) -> Vec<Risk> {
    let Some(model) = Model::built_in().filter(|_| is_known_kind(smart)) else { return Vec::new() };
    let mut readings: Vec<Reading> = before.iter().map(|(time, smart)| Reading::of(*time, smart)).collect();
    readings.retain(|reading| reading.time <= now);
    readings.push(Reading::of(now, smart));
    let name = smart.model.as_deref().unwrap_or_default();
    let features = Features::at(name, model.prior(name), &readings, now);
    model.risks(&features)
}

#[cfg(test)]
mod tests;
