//! Which device is main, and how sure that is.
//!
//! Invariants:
//! - proof is a name that only that device has (WWN, serial, partition UUID, UUID of a dm or md device), and its size;
//! - the confidence is for people: nothing is decided by it. A device that is proven has at least 70, one that is not has
//!   less than 50, one that is another device has 0.

use super::{SeenDevice, SpareMember};
use crate::format::metadata::Metadata;
use crate::format::samples::Comparison;
use crate::identity::{Identity, Match};

/// What is to be said of main.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MainVerdict {
    /// One device is proven to be main.
    Proven(usize),
    /// Several devices are proven to be it.
    Ambiguous(Vec<usize>),
    /// No device is proven to be it, and nothing contradicts these.
    Unproven(Vec<usize>),
    /// No device fits.
    Missing,
}

/// A device that is or might be main.
#[derive(Clone, Debug, PartialEq)]
pub struct MainCandidate {
    /// The device.
    pub device: usize,
    /// Whether it fits.
    pub fit: Match,
    /// 0 to 100.
    pub confidence: u8,
    /// What speaks for it and against it, in words.
    pub evidence: Vec<String>,
    /// How it compares with the samples that were taken of main, where that was looked at.
    pub samples: Option<Comparison>,
}

/// Points for a name that both sides know and that is equal: in full for the first, a part for each further one.
const NAME: u8 = 60;
const FURTHER_NAME: u8 = 10;
const SIZE: u8 = 10;
/// For each thing that many devices share.
const SHARED: u8 = 5;
const SAMPLES: u8 = 20;

/// Judges which of the devices is main.
pub(super) fn judge(
    metadata: &Metadata,
    devices: &[SeenDevice],
    spares: &[SpareMember],
) -> (MainVerdict, Vec<MainCandidate>) {
    let wanted = &metadata.config.main;
    let is_spare = |device: usize| spares.iter().any(|spare| spare.standing.device() == Some(device));
    let mut candidates: Vec<MainCandidate> = devices
        .iter()
        .enumerate()
        .filter(|(device, seen)| !seen.is_ours && !is_spare(*device))
        .filter_map(|(device, seen)| candidate(wanted, device, seen))
        .collect();
    candidates.sort_by(|a, b| b.confidence.cmp(&a.confidence).then(a.device.cmp(&b.device)));
    let with = |fit: Match| -> Vec<usize> {
        candidates.iter().filter(|candidate| candidate.fit == fit).map(|candidate| candidate.device).collect()
    };
    let (proven, unproven) = (with(Match::Proven), with(Match::Unproven));
    let verdict = match (proven.as_slice(), unproven.is_empty()) {
        ([only], _) => MainVerdict::Proven(*only),
        ([], true) => MainVerdict::Missing,
        ([], false) => MainVerdict::Unproven(unproven),
        _ => MainVerdict::Ambiguous(proven),
    };
    (verdict, candidates)
}

/// A device that fits, or that has main's own name and does not fit all the same.
fn candidate(wanted: &Identity, device: usize, seen: &SeenDevice) -> Option<MainCandidate> {
    let fit = wanted.matches(&seen.identity);
    let names = equal_names(wanted, &seen.identity);
    if matches!(fit, Match::Different(_)) && names.is_empty() {
        return None;
    }
    let mut candidate = MainCandidate { device, fit, confidence: 0, evidence: Vec::new(), samples: None };
    candidate.weigh(wanted, &seen.identity, names);
    Some(candidate)
}

/// The names of its own that both know and that are equal.
fn equal_names(wanted: &Identity, found: &Identity) -> Vec<&'static str> {
    let names = [
        ("WWN", &wanted.wwn, &found.wwn),
        ("serial number", &wanted.serial, &found.serial),
        ("partition UUID", &wanted.partition_uuid, &found.partition_uuid),
        ("UUID", &wanted.virtual_uuid, &found.virtual_uuid),
    ];
    names.into_iter().filter(|(_, a, b)| a.is_some() && a == b).map(|(name, _, _)| name).collect()
}

impl MainCandidate {
    fn weigh(&mut self, wanted: &Identity, found: &Identity, names: Vec<&'static str>) {
        let mut points = 0_u8;
        for name in names {
            points = points.saturating_add(if points == 0 { NAME } else { FURTHER_NAME });
            self.evidence.push(format!("{name} equal"));
        }
        let shared = [
            ("size equal", SIZE, wanted.size == found.size),
            ("model equal", SHARED, wanted.model.is_some() && wanted.model == found.model),
            (
                "block sizes equal",
                SHARED,
                (wanted.logical_block, wanted.physical_block) == (found.logical_block, found.physical_block),
            ),
            ("same path as before", SHARED, wanted.path.is_some() && wanted.path == found.path),
        ];
        for (words, worth, holds) in shared {
            if holds {
                points = points.saturating_add(worth);
                self.evidence.push(words.into());
            }
        }
        if let Match::Different(why) = &self.fit {
            points = 0;
            self.evidence.push(format!("but {why}"));
        }
        self.confidence = points.min(100);
    }

    /// Takes note of how the device compares with the samples of main.
    pub fn compare(&mut self, samples: Comparison) {
        if matches!(self.fit, Match::Different(_)) {
            return;
        }
        let total = samples.equal + samples.differing.len();
        if !samples.differing.is_empty() {
            self.confidence =
                self.confidence.saturating_sub(SAMPLES).max(if self.fit == Match::Proven { 70 } else { 0 });
            self.evidence.push(format!("{} of {total} samples differ", samples.differing.len()));
        } else if total > 0 {
            let most = if self.fit == Match::Proven { 100 } else { 49 };
            self.confidence = self.confidence.saturating_add(SAMPLES).min(most);
            self.evidence.push(format!("{total} samples of its contents equal"));
        }
        if samples.unread > 0 {
            self.evidence.push(format!("{} samples could not be compared", samples.unread));
        }
        self.samples = Some(samples);
    }
}
