//! A place on a device that reads: what fails beside it with an EIO is to blame itself, and not the way to the device.
//!
//! Invariant: nothing is condemned for an EIO that did not fail once more between two reads of the witness that succeeded. A
//! cable that was out for a moment is in again, as a rule, when its device is asked whether it works.

use super::EngineError;
use crate::block::buffer::AlignedBuffer;
use crate::block::judge::{PROBES, known_good_fails, spread_probes};
use crate::block::{Disk, DiskError};
use crate::units::{Range, SECTOR_SIZE};

/// A block of a device that reads.
#[derive(Debug)]
pub(super) struct Witness<'a> {
    disk: &'a dyn Disk,
    block: Range,
    buf: AlignedBuffer,
}

impl<'a> Witness<'a> {
    /// One away from `suspect`, where something has failed with `error`.
    ///
    /// # Errors
    /// [`EngineError::NotTheMedium`] when not most of the blocks spread over the device can be read.
    pub(super) fn find(disk: &'a dyn Disk, suspect: Range, error: &DiskError) -> Result<Witness<'a>, EngineError> {
        let not_the_medium = |probe| EngineError::NotTheMedium { error: error.clone(), probe };
        let probes = spread_probes(disk, &[suspect], PROBES);
        if let Some((probe, _)) = known_good_fails(disk, &probes) {
            return Err(not_the_medium(if probes.is_empty() { suspect } else { probe }));
        }
        let mut buf = AlignedBuffer::new(disk.logical_block().to_usize_bytes().unwrap_or(SECTOR_SIZE));
        let found = probes.into_iter().find(|probe| disk.read(probe.start(), &mut buf).is_ok());
        found.map(|block| Witness { disk, block, buf }).ok_or_else(|| not_the_medium(suspect))
    }

    /// What comes of an attempt between two reads of the witness. `error` is what it has failed with before.
    ///
    /// # Errors
    /// [`EngineError::NotTheMedium`] when the witness does not read.
    pub(super) fn beside<T>(&mut self, error: &DiskError, attempt: impl FnOnce() -> T) -> Result<T, EngineError> {
        self.reads(error)?;
        let outcome = attempt();
        self.reads(error)?;
        Ok(outcome)
    }

    fn reads(&mut self, error: &DiskError) -> Result<(), EngineError> {
        let not_the_medium = |_| EngineError::NotTheMedium { error: error.clone(), probe: self.block };
        self.disk.read(self.block.start(), &mut self.buf).map_err(not_the_medium)
    }
}
