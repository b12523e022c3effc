//! Writing copies by hand, onto spares of a setup that is not up: what `metadata repair` and `metadata restore` have
//! planned.
//!
//! Invariants:
//! - the caller holds the setup's lock, and the devices are claimed;
//! - the group of copies that has what is good now goes last, and only after the other one is durable;
//! - a write that fails leaves the good copies as they are.

use super::EngineError;
use crate::format::copy::encode;
use crate::format::metadata::Metadata;
use crate::store::{Commit, CommitTarget};

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
/// The first write or flush that failed; the other copies are written all the same, where that is safe.
pub fn rewrite(metadata: &Metadata, rewrites: &[Rewrite]) -> Result<(), EngineError> {
    let targets: Vec<CommitTarget> = rewrites.iter().map(|rewrite| rewrite.target.clone()).collect();
    let mut commit = Commit::new(targets, encode(metadata)?);
    for (index, rewrite) in rewrites.iter().enumerate() {
        commit.keep_longest(index, &rewrite.good);
        commit.write_only(index, &rewrite.copies);
    }
    let report = commit.run();
    match report.first_error() {
        Some(error) => Err(error.clone().into()),
        None => Ok(()),
    }
}
