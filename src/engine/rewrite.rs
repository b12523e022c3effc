//! Writing copies by hand, onto spares of a setup that is not up: what `metadata repair` and `metadata restore` have
//! planned.
//!
//! Invariants:
//! - the caller holds the setup's lock, and the devices are claimed;
//! - the group of copies that has what is good now goes last, and only after the other one is durable;
//! - a write that fails leaves the good copies as they are;
//! - what was written is read back and judged: a device that loses writes is found out.

use super::EngineError;
use super::find::verdict_words;
use crate::format::choose::Expected;
use crate::format::copy::{Verdict, encode};
use crate::format::metadata::Metadata;
use crate::store::{Commit, CommitTarget, read_copies};

/// Copies to write on one spare.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// The spare.
    pub target: CommitTarget,
    /// The copies to write.
    pub copies: Vec<usize>,
    /// The copies that are good now.
    pub good: Vec<usize>,
}

/// Writes the metadata to the copies of all spares given, and makes it durable.
///
/// # Errors
/// The first write or flush that failed (the other copies are written all the same, where that is safe), or what does not
/// read back.
pub fn rewrite(metadata: &Metadata, rewrites: &[Rewrite]) -> Result<(), EngineError> {
    let targets: Vec<CommitTarget> = rewrites.iter().map(|rewrite| rewrite.target.clone()).collect();
    let mut commit = Commit::new(targets, encode(metadata)?);
    for (index, rewrite) in rewrites.iter().enumerate() {
        commit.keep_longest(index, &rewrite.good);
        commit.write_only(index, &rewrite.copies);
    }
    let digest = commit.encoded().digest();
    let report = commit.run();
    if let Some(error) = report.first_error() {
        return Err(error.clone().into());
    }
    for Rewrite { target, copies, .. } in rewrites {
        let expected = Expected { setup: Some(metadata.setup), spare: Some(target.uuid) };
        let reading = read_copies(&*target.disk, expected);
        let is_there =
            |index: &usize| matches!(reading.verdicts.get(*index), Some(Verdict::Valid(copy)) if copy.digest == digest);
        if let Some(index) = copies.iter().find(|index| !is_there(index)) {
            let verdict = reading.verdicts.get(*index).map(verdict_words).unwrap_or_default();
            return Err(EngineError::Device(format!(
                "{}: copy {index} does not read back as it was written: {verdict}. The device is not to be trusted",
                reading.device
            )));
        }
    }
    Ok(())
}
