//! What is told: the kinds of events, and a message with all that happened to a setup.
//!
//! Invariants: names and message identifiers of kinds never change; what a message holds is bounded.

use crate::units::Range;
use serde::Serialize;

/// The version of the JSON form of [`Alert`]; raised when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// The most runs of sectors that an event names.
pub const MOST_RANGES: usize = 1000;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Bad sectors were moved to a spare.
    Bad,
    /// Sectors that read slowly were moved to a spare.
    Weak,
    /// Sectors could not be read: their data is lost.
    Lost,
    /// A spare failed.
    Failed,
    /// The room on the spares is short.
    Space,
    /// A spare is missing or failed: the setup is degraded.
    Degraded,
    /// The setup is whole again.
    Whole,
    /// A person must look: the setup is suspended, or its table or metadata is not as it should be.
    Attention,
    /// A disk is judged to be in a worse band than was told.
    Health,
    /// A scan has finished.
    Scan,
    /// A test of the alerts.
    Test,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 11] = [
        Kind::Bad,
        Kind::Weak,
        Kind::Lost,
        Kind::Failed,
        Kind::Space,
        Kind::Degraded,
        Kind::Whole,
        Kind::Attention,
        Kind::Health,
        Kind::Scan,
        Kind::Test,
    ];

    /// The name, as the configuration, programs and JSON have it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bad => "bad",
            Kind::Weak => "weak",
            Kind::Lost => "lost",
            Kind::Failed => "failed",
            Kind::Space => "space",
            Kind::Degraded => "degraded",
            Kind::Whole => "whole",
            Kind::Attention => "attention",
            Kind::Health => "health",
            Kind::Scan => "scan",
            Kind::Test => "test",
        }
    }

    /// The journal's MESSAGE_ID (systemd.journal-fields(7)): never changes, and belongs to nothing else.
    pub fn message_id(self) -> &'static str {
        match self {
            Kind::Bad => "59b224c27942462ba1d1ad0d644f69ea",
            Kind::Weak => "ba5669056e8e49198dc2270a587b4061",
            Kind::Lost => "ab4e993891db40e083971cda7091e383",
            Kind::Failed => "6b343f76333c49048276a4cb71dd35ed",
            Kind::Space => "2d083283e6894417add409ad9f1fa514",
            Kind::Degraded => "333ea4bbbe0f4e7189650c6db14d4a72",
            Kind::Whole => "b583aff734e14b5aa556fde9d84d290e",
            Kind::Attention => "d6ccc3c912a347fb8db2053480696df6",
            Kind::Health => "952728e944ba47cb95b5f227661dd955",
            Kind::Scan => "afed8a71913e486ba390c548f7e00129",
            Kind::Test => "aab0288743dc444f9629e9d02ae380b1",
        }
    }

    /// How grave it is: syslog's numbers, 3 for an error to 6 for information.
    pub fn priority(self) -> u8 {
        match self {
            Kind::Bad => 4,
            Kind::Weak => 5,
            Kind::Lost => 3,
            Kind::Failed => 3,
            Kind::Space => 4,
            Kind::Degraded => 3,
            Kind::Whole => 5,
            Kind::Attention => 3,
            Kind::Health => 4,
            Kind::Scan => 6,
            Kind::Test => 5,
        }
    }

    /// What it means, in a sentence.
    pub fn about(self) -> &'static str {
        match self {
            Kind::Bad => "Bad sectors were moved to a spare",
            Kind::Weak => "Sectors that read slowly were moved to a spare",
            Kind::Lost => "Sectors could not be read: their data is lost",
            Kind::Failed => "A spare failed",
            Kind::Space => "The room on the spares is short",
            Kind::Degraded => "A spare is missing or failed: the setup is degraded",
            Kind::Whole => "The setup is whole again",
            Kind::Attention => {
                "A person must look: the setup is suspended, or its table or metadata is not as it should be"
            }
            Kind::Health => "A disk is judged to be worse than was told",
            Kind::Scan => "A scan has finished",
            Kind::Test => "A test of the alerts",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// What.
    pub event: Kind,
    /// In words, for people.
    pub text: String,
    /// The sectors of the setup that it is about; at most [`MOST_RANGES`] runs.
    pub sectors: Vec<Range>,
}

/// A message: all that happened to a setup since the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// [`VERSION`].
    pub version: u32,
    /// Seconds since 1970.
    pub time: u64,
    /// The name of the machine.
    pub host: String,
    /// The name of the setup.
    pub setup: String,
    /// Its UUID; empty for a test without a setup.
    pub uuid: String,
    /// Its main device.
    pub device: String,
    /// What happened, the gravest first. Never empty.
    pub events: Vec<Event>,
}

impl Alert {
    /// The gravest of the kinds, which the message goes by.
    pub fn kind(&self) -> Kind {
        self.events.iter().map(|event| event.event).min_by_key(|kind| kind.priority()).unwrap_or(Kind::Test)
    }

    /// The names of all kinds in it, each once.
    pub fn kinds(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for event in &self.events {
            if !names.contains(&event.event.name()) {
                names.push(event.event.name());
            }
        }
        names.join(" ")
    }

    /// One line: the setup, and what is gravest.
    pub fn subject(&self) -> String {
        let first = self.events.first().map_or("", |event| event.text.as_str());
        let more = match self.events.len().saturating_sub(1) {
            0 => String::new(),
            number => format!(" (and {number} more)"),
        };
        format!("dm-remap: {} on {}: {first}{more}", self.setup, self.host)
    }

    /// All of it in words, a line for each event.
    pub fn details(&self) -> String {
        self.events.iter().map(|event| format!("{}: {}\n", event.event.name(), event.text)).collect()
    }

    /// Version 1 of the JSON form.
    ///
    /// # Errors
    /// None that a message can cause; serde_json's signature has one.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn identifiers_are_128_bits_and_all_different() {
        let ids: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.message_id()).collect();
        assert_eq!(ids.len(), Kind::ALL.len());
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn the_page_has_every_identifier() {
        let page = include_str!("../../docs/man/dm-remap-alert.8.md");
        for kind in Kind::ALL {
            let row = |line: &str| line.split_whitespace().eq([kind.name(), kind.message_id()]);
            assert!(page.lines().any(row), "{}", kind.name());
        }
    }
}
