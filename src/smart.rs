//! What a disk says of itself: the output of `smartctl --json`, read into the few numbers that are worth something.
//!
//! Source: smartctl(8), "EXIT STATUS" and the JSON that smartmontools 7.0 and later print; the ATA attributes that makers agree on.
//!
//! Invariants:
//! - what a drive does not report is absent, never zero;
//! - a raw value whose upper bytes hold something else is cut to the counter that is meant, or is absent where that cannot be told;
//! - no output is an error: what cannot be understood is left out, and the reading says how much there is.

mod parse;

pub use parse::parse;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a disk is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// ATA, also behind SAT and USB bridges.
    Ata,
    /// SCSI and SAS.
    Scsi,
    /// NVMe.
    Nvme,
    /// None that is known.
    #[default]
    Unknown,
}

/// What a disk has said at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Smart {
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Whether it turns; absent when it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotates: Option<bool>,
    /// The maker's own verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<bool>,
    /// Hours that it was powered on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_on_hours: Option<u64>,
    /// Degrees Celsius.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<i64>,
    /// What was counted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<Counter, u64>,
    /// Attributes that are at or below their maker's threshold now, or were; only those that foretell a failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<String>,
    /// Bits of NVMe's critical warning.
    #[serde(skip_serializing_if = "is_zero")]
    pub critical_warning: u64,
    /// Whether the newest self-test that came to an end found a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_test_failed: Option<bool>,
    /// The exit status of smartctl.
    #[serde(skip_serializing_if = "is_zero")]
    pub exit_status: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A thing that disks count. Only what counts trouble, and means the same for all makers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counter {
    /// Sectors that the drive has replaced (ATA 5).
    Reallocated,
    /// Tries to spin up again (ATA 10).
    SpinRetries,
    /// Errors that no correction helped against, told to the host (ATA 187; SCSI: uncorrected errors).
    Uncorrected,
    /// Commands that took too long (ATA 188). Some makers pack three numbers into it.
    CommandTimeouts,
    /// Writes with the head too high (ATA 189).
    HighFlyWrites,
    /// Times that sectors were replaced (ATA 196).
    ReallocationEvents,
    /// Sectors that could not be read and wait for a write (ATA 197).
    Pending,
    /// Sectors that an offline scan could not read (ATA 198).
    OfflineUncorrectable,
    /// Errors on the cable (ATA 199).
    CableErrors,
    /// Entries of the error log (ATA).
    LoggedErrors,
    /// Places that a SCSI disk has replaced since it left the factory.
    GrownDefects,
    /// Errors of the medium (NVMe).
    MediaErrors,
    /// Spare room of a flash drive that is left, in percent.
    SparePercent,
    /// Below this it fails, in percent.
    SpareThresholdPercent,
    /// What of its life is used, in percent; may be more than 100.
    UsedPercent,
}

impl Counter {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Counter::Reallocated => "reallocated sectors",
            Counter::SpinRetries => "spin retries",
            Counter::Uncorrected => "uncorrected errors",
            Counter::CommandTimeouts => "command timeouts",
            Counter::HighFlyWrites => "high fly writes",
            Counter::ReallocationEvents => "reallocation events",
            Counter::Pending => "pending sectors",
            Counter::OfflineUncorrectable => "sectors unreadable offline",
            Counter::CableErrors => "cable errors",
            Counter::LoggedErrors => "logged errors",
            Counter::GrownDefects => "grown defects",
            Counter::MediaErrors => "media errors",
            Counter::SparePercent => "spare room in percent",
            Counter::SpareThresholdPercent => "threshold of spare room in percent",
            Counter::UsedPercent => "life used in percent",
        }
    }
}

impl Smart {
    /// A counter, where the disk has it.
    pub fn counter(&self, counter: Counter) -> Option<u64> {
        self.counters.get(&counter).copied()
    }

    /// Whether it said anything that a judgement could go by.
    pub fn is_empty(&self) -> bool {
        self.passed.is_none() && self.counters.is_empty()
    }
}

/// What smartctl's exit status says (smartctl(8), EXIT STATUS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub u64);

impl ExitStatus {
    /// It did not understand its own command line.
    pub fn bad_usage(self) -> bool {
        self.0 & 1 != 0
    }

    /// The device could not be opened, or sleeps and was not to be woken.
    pub fn not_opened(self) -> bool {
        self.0 & 2 != 0
    }

    /// The disk says that it fails.
    pub fn failing(self) -> bool {
        self.0 & 8 != 0
    }
}

#[cfg(test)]
mod tests;
