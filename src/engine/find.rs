//! Verdicts on copies, in words.

use crate::format::copy::Verdict;
use crate::store::SpareReading;

/// The verdicts of a device in one line.
pub fn describe(reading: &SpareReading) -> String {
    let words: Vec<String> =
        reading.verdicts.iter().enumerate().map(|(i, v)| format!("copy {i} {}", verdict_words(v))).collect();
    words.join(", ")
}

/// A verdict in words.
pub fn verdict_words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Unreadable { reason, .. } => format!("unreadable: {reason}"),
        Verdict::Blank => "blank".into(),
        Verdict::Foreign(what) => format!("foreign: {what}"),
        Verdict::Damaged(damage) => format!("damaged: {damage}"),
        Verdict::Unsupported(what) => format!("unsupported: {what}"),
        Verdict::Valid(copy) => format!("valid, generation {}", copy.metadata.generation),
    }
}
