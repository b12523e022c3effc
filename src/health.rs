//! How a disk is doing: a score from 0 to 100, and the reasons for it.
//!
//! The score is a summary for people, by fixed rules that are all in `health/rules.rs`; it is no probability, and none is read out of it.
//! Probabilities come from [`crate::risk`], and a high one lowers the score.
//!
//! Invariants:
//! - what is not known lowers no score: a disk that says nothing, and of which nothing is known, has none;
//! - every point that is missing from 100 has a reason, in words and numbers;
//! - the maker's own verdict is believed when it is bad, and is no comfort when it is good.

mod rules;

pub use rules::judge;

use crate::risk::Risk;
use crate::smart::Smart;
use crate::units::Sectors;
use serde::{Deserialize, Serialize};

/// What a judgement goes by. Times are seconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct Evidence<'a> {
    /// When it is judged.
    pub now: u64,
    /// What the disk says of itself now.
    pub smart: Option<&'a Smart>,
    /// What it said before, oldest first. Only what is of the same disk.
    pub before: &'a [(u64, Smart)],
    /// What the last scan could not read.
    pub bad: Option<Sectors>,
    /// Places that the last scan found to be slow.
    pub weak_places: u64,
    /// What had been moved away from it at a time, oldest first: of a main only.
    pub moved: &'a [(u64, Sectors)],
    /// Sectors of it that were found bad while it served as a spare.
    pub spare_bad: Sectors,
    /// What else this machine has noticed of it.
    pub noticed: Noticed,
}

/// What a machine notices of a disk by using it, whatever the disk says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Noticed {
    /// Failed requests in the kernel log since the machine started, for which a sector was to blame. The kernel does not name all.
    pub medium_errors: u64,
    /// The same for which the way to the disk was to blame: cable, controller, time limits.
    pub transport_errors: u64,
    /// Requests of users that were counted (dm-stats).
    pub requests: u64,
    /// Those of them that took a second or longer.
    pub slow_requests: u64,
}

/// A judgement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// From 0, which is dead, to 100; nothing when nothing is known.
    pub score: Option<u8>,
    /// What that is called.
    pub band: Band,
    /// Why it is not 100, the gravest first.
    pub reasons: Vec<Reason>,
    /// How likely it is to fail, the nearest first; nothing for disks that the model knows nothing about.
    pub risks: Vec<Risk>,
}

/// Why a score is lower than it could be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Points that it costs; 0 for what is only to be known.
    pub points: u8,
    /// In words and numbers.
    pub text: String,
}

/// What a score is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Band {
    /// Nothing is known.
    #[default]
    Unknown,
    /// Below 40: copy the data off.
    Failing,
    /// Below 70: have a replacement ready.
    Poor,
    /// Below 90: keep an eye on it.
    Fair,
    /// Nothing speaks against it.
    Good,
}

impl Band {
    /// The band of a score.
    pub fn of(score: u8) -> Band {
        match score {
            0..40 => Band::Failing,
            40..70 => Band::Poor,
            70..90 => Band::Fair,
            _ => Band::Good,
        }
    }

    /// How bad it is, from 0; nothing where nothing is known.
    pub fn level(self) -> Option<u8> {
        match self {
            Band::Unknown => None,
            Band::Good => Some(0),
            Band::Fair => Some(1),
            Band::Poor => Some(2),
            Band::Failing => Some(3),
        }
    }

    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Band::Unknown => "unknown",
            Band::Failing => "failing",
            Band::Poor => "poor",
            Band::Fair => "fair",
            Band::Good => "good",
        }
    }

    /// What to do.
    pub fn advice(self) -> &'static str {
        match self {
            Band::Unknown => "nothing is known of it",
            Band::Failing => "copy the data off it now, and replace it",
            Band::Poor => "have a replacement ready, and see that the backup is good",
            Band::Fair => "keep an eye on it",
            Band::Good => "nothing speaks against it",
        }
    }
}

#[cfg(test)]
mod tests;
