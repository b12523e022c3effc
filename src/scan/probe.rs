//! A survey of a few suspected sectors, at once and as fast as can be.
//!
//! Invariant: as of [`run`]: what is said to be bad was read by itself, and trouble with the device says nothing.

use super::pace::{Alone, Manners, Pacer};
use super::run::{Flow, Monitor, RunFault, Standing, run};
use super::survey::{Found, Shape, Survey};
use crate::block::Disk;
use crate::units::{RangeSet, Sectors};

/// Sectors of a large request: small, for what is probed is suspected, and most of a failed request is read again block
/// by block.
const SMALL_CHUNK: Sectors = Sectors(64);

/// Requests in flight: there is little to read, and a thread costs time, too.
const FEW: u32 = 2;

/// Nobody watches.
struct Unwatched;

impl Monitor for Unwatched {
    fn tick(&mut self, _: Standing) -> Flow {
        Flow::Go
    }
    fn wants_to_save(&mut self, _: Standing) -> bool {
        false
    }
    fn save(&mut self, _: Survey) {}
}

/// Surveys `area` of a disk.
///
/// # Errors
/// [`RunFault`], as [`run`].
pub fn probe(disk: &dyn Disk, area: RangeSet, shape: Shape) -> Result<Found, RunFault> {
    let chunk = SMALL_CHUNK.max(shape.step);
    let mut survey = Survey::new(area, Shape { chunk, ..shape });
    let mut alone = Alone;
    let mut pacer = Pacer::new(None, Manners::None, &mut alone, chunk, FEW);
    run(disk, None, &mut survey, &mut pacer, &mut Unwatched)?;
    Ok(survey.into_found())
}
