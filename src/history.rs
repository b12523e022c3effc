//! What was seen of a setup over time: a file of lines for each, which only grows, but for a thinning now and then.
//!
//! A record is a line of JSON with `time` (seconds since 1970) and `kind`, so that people and programs read it with what they
//! have. Kinds are added; a reader passes over those that it does not know.
//!
//! Invariants:
//! - a record is whole or is not there: what a crash has cut off is passed over, and costs at most the last one;
//! - one command at a time writes, and none waits for a reader;
//! - a file has at most [`LIMIT`] bytes, however old the setup is: what is long ago is kept once a day, then once a week.

mod file;
mod thin;

pub use file::{append, read};
pub use thin::thin;

use crate::health::Noticed;
use crate::smart::Smart;
use crate::units::Sectors;
use serde::{Deserialize, Serialize};

/// The most bytes of a file, some days of a very busy setup or decades of a quiet one.
pub const LIMIT: u64 = 4 << 20;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was seen, seconds since 1970.
    pub time: u64,
    /// What was seen.
    #[serde(flatten)]
    pub what: What,
}

/// What a record tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// The setup as a whole.
    Setup(SetupRecord),
    /// What one of its disks said of itself.
    Disk(DiskRecord),
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

impl What {
    /// Whether the other is of the same kind and subject, so that one follows the other.
    fn is_like(&self, other: &What) -> bool {
        match (self, other) {
            (What::Setup(_), What::Setup(_)) => true,
            (What::Disk(one), What::Disk(other)) => one.device == other.device,
            _ => false,
        }
    }

    /// Whether `now` says something that this does not. Hours, temperatures and numbers of requests change all the time.
    fn differs(&self, now: &What) -> bool {
        let quiet = |disk: &DiskRecord| {
            let smart = Smart { power_on_hours: None, temperature: None, exit_status: 0, ..disk.smart.clone() };
            let noticed = disk.noticed.map(|noticed| Noticed { requests: 0, slow_requests: 0, ..noticed });
            DiskRecord { smart, noticed, ..disk.clone() }
        };
        match (self, now) {
            (What::Disk(one), What::Disk(other)) => quiet(one) != quiet(other),
            (one, other) => one != other,
        }
    }
}

/// What a disk said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskRecord {
    /// What it is to the setup: `main`, or `spare` and its number.
    pub device: String,
    /// Its score, where it was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<u8>,
    /// What was noticed of it otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noticed: Option<Noticed>,
    /// What it said.
    #[serde(flatten)]
    pub smart: Smart,
}

/// How a setup was doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetupRecord {
    /// The word for its state.
    pub state: String,
    /// Generation of the metadata.
    pub generation: u64,
    /// What lives on spares.
    pub remapped_sectors: Sectors,
    /// In how many runs.
    pub extents: u64,
    /// What answers EIO until it is written.
    pub held_sectors: Sectors,
    /// What is on the list of losses.
    pub lost_sectors: Sectors,
    /// Room for further extents.
    pub room_sectors: Sectors,
    /// When the last scan ended, seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan_finished: Option<u64>,
    /// What it could not read.
    pub scan_bad_sectors: Sectors,
}

/// How long nothing has to change before it is recorded all the same, in seconds: a little less than a day, so that a daily
/// run records every time.
pub const AT_LEAST_EVERY: u64 = 20 * 3600;

/// Whether `now` is worth a record, after `last`.
pub fn is_news(last: Option<&Record>, now: &Record) -> bool {
    match last {
        // A clock that was set back must not silence it.
        Some(last) => last.what.differs(&now.what) || now.time.abs_diff(last.time) >= AT_LEAST_EVERY,
        None => true,
    }
}

/// A record as its line, without the end of the line; `None` for what has no line.
pub fn line(record: &Record) -> Option<String> {
    if record.what == What::Unknown { None } else { serde_json::to_string(record).ok() }
}

/// The records in the text of a file, in order of the file. What is cut off, damaged or unknown is passed over.
pub fn parse(text: &[u8]) -> Vec<Record> {
    let known = |line: &[u8]| serde_json::from_slice::<Record>(line).ok().filter(|record| record.what != What::Unknown);
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).filter_map(known).collect()
}

#[cfg(test)]
mod tests;
