//! Copying sectors from where they live to where they will live, and judging what cannot be read.
//!
//! Invariants:
//! - what was written is read back and compared before anything relies on it;
//! - only a medium error, or an EIO that repeats while known-good sectors read, makes a block lost;
//! - a transport error stops everything.

use super::{EngineError, Observer};
use crate::block::buffer::AlignedBuffer;
use crate::block::judge::{PROBES, known_good_fails, spread_probes};
use crate::block::{Disk, DiskError, FaultClass};
use crate::format::tombstone;
use crate::units::{Range, SECTOR_SIZE, Sectors, coalesce};
use std::sync::Arc;
use uuid::Uuid;

/// Sectors copied at once.
const CHUNK: Sectors = Sectors(1024);

/// A copy to make: the same sectors of the setup, from one device to another.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The sectors of the setup.
    pub range: Range,
    /// Device that has them.
    pub source: Arc<dyn Disk>,
    /// First sector there.
    pub from: Sectors,
    /// Device that will have them.
    pub destination: Arc<dyn Disk>,
    /// First sector there.
    pub to: Sectors,
    /// What takes the place of blocks that cannot be read.
    pub filling: Filling,
}

impl Copy {
    /// The part of this copy that lies inside `window` (sectors of the setup).
    pub fn clip(&self, window: Range) -> Option<Copy> {
        let range = self.range.intersect(window)?;
        let skipped = range.start().checked_sub(self.range.start())?;
        let (from, to) = (self.from.checked_add(skipped)?, self.to.checked_add(skipped)?);
        Some(Copy { range, from, to, ..self.clone() })
    }
}

/// What fills a block that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    /// Tombstones of this setup.
    Tombstones(Uuid),
    /// Zeros.
    Zeros,
}

/// How a copy went.
#[derive(Clone, Debug, Default)]
pub struct Copied {
    /// Sectors of the setup that could not be read.
    pub lost: Vec<Range>,
    /// Sectors that read only after a retry.
    pub recovered: Sectors,
}

impl Copied {
    /// Takes over how the copy of a part went that was made again.
    pub fn replace(&mut self, part: Range, again: Copied) {
        let kept = self.lost.iter().flat_map(|lost| {
            [
                Range::between(lost.start(), part.start().min(lost.end())),
                Range::between(lost.start().max(part.end()), lost.end()),
            ]
        });
        self.lost = coalesce(kept.flatten().chain(again.lost).collect());
        self.recovered = Sectors(self.recovered.0.saturating_add(again.recovered.0));
    }
}

/// Why a copy could not be made.
#[derive(Debug)]
pub enum CopyFault {
    /// Everything must stop.
    Stop(EngineError),
    /// The destination does not keep what is written to it: its bad sectors.
    Destination {
        /// Bad sectors of the destination.
        bad: Vec<Range>,
        /// What happened first.
        why: String,
    },
}

impl From<EngineError> for CopyFault {
    fn from(error: EngineError) -> Self {
        CopyFault::Stop(error)
    }
}

/// Makes copies, with buffers of its own.
#[derive(Debug)]
pub struct Salvager {
    retries: u32,
    block: Sectors,
    data: AlignedBuffer,
    check: AlignedBuffer,
}

impl Salvager {
    /// A salvager that reads a bad block `retries` times more. `block` is the least that is lost at once: a logical
    /// block of the setup, which may be larger than one of the source.
    pub fn new(retries: u32, block: Sectors) -> Salvager {
        let len = CHUNK.to_usize_bytes().unwrap_or(0);
        Salvager { retries, block, data: AlignedBuffer::new(len), check: AlignedBuffer::new(len) }
    }

    /// Copies, reads back and compares. Does not flush. Calls `done` with the sectors of each finished chunk.
    ///
    /// # Errors
    /// [`CopyFault`]; the destination may then hold a part.
    pub fn copy(
        &mut self,
        copy: &Copy,
        observer: &dyn Observer,
        mut done: impl FnMut(Sectors),
    ) -> Result<Copied, CopyFault> {
        let mut result = Copied::default();
        let mut offset = Sectors::ZERO;
        while offset < copy.range.len() {
            let len = copy.range.len().saturating_sub(offset).min(CHUNK);
            let part = Range::new(Sectors(copy.range.start().0.saturating_add(offset.0)), len);
            let Some(part) = part.and_then(|range| copy.clip(range)) else { break };
            self.copy_chunk(&part, &mut result)?;
            offset = Sectors(offset.0.saturating_add(len.0));
            done(len);
        }
        result.lost = coalesce(result.lost);
        for range in &result.lost {
            observer.note(&format!("sectors {range} cannot be read from {}", copy.source.name()));
        }
        Ok(result)
    }

    fn copy_chunk(&mut self, part: &Copy, result: &mut Copied) -> Result<(), CopyFault> {
        let bytes = part.range.len().to_usize_bytes().unwrap_or(0);
        let data = self.data.get_mut(..bytes).unwrap_or_default();
        let reading = read_salvaging(&*part.source, self.block, part.from, data, self.retries)?;
        result.recovered = Sectors(result.recovered.0.saturating_add(reading.recovered.0));
        for lost in reading.lost {
            let skipped = lost.start().saturating_sub(part.from);
            let at = Sectors(part.range.start().0.saturating_add(skipped.0));
            let first = skipped.to_usize_bytes().unwrap_or(0);
            let len = lost.len().to_usize_bytes().unwrap_or(0);
            let hole = data.get_mut(first..first.saturating_add(len)).unwrap_or_default();
            match part.filling {
                Filling::Zeros => hole.fill(0),
                Filling::Tombstones(setup) => tombstone::fill(hole, setup, at),
            }
            result.lost.extend(Range::new(at, lost.len()));
        }
        let check = self.check.get_mut(..bytes).unwrap_or_default();
        write_checked(&*part.destination, part.to, data, check)
    }
}

/// What a salvaging read has found.
#[derive(Debug, Default)]
struct Reading {
    /// Sectors of the device that could not be read.
    lost: Vec<Range>,
    recovered: Sectors,
}

/// Reads in one request, and where that fails block by block with retries.
fn read_salvaging(
    disk: &dyn Disk,
    block: Sectors,
    start: Sectors,
    buf: &mut [u8],
    retries: u32,
) -> Result<Reading, EngineError> {
    let mut reading = Reading::default();
    match disk.read(start, buf) {
        Ok(()) => return Ok(reading),
        Err(error) => believe(&error)?,
    }
    let block = disk.logical_block().max(block);
    let block_bytes = block.to_usize_bytes().unwrap_or(SECTOR_SIZE).max(SECTOR_SIZE);
    let mut at = start;
    let mut doubtful = None;
    for chunk in buf.chunks_mut(block_bytes) {
        let mut attempt = 0;
        loop {
            match disk.read(at, chunk) {
                Ok(()) => {
                    if attempt > 0 {
                        reading.recovered = Sectors(reading.recovered.0.saturating_add(block.0));
                    }
                    break;
                }
                Err(error) => {
                    believe(&error)?;
                    if attempt >= retries {
                        if error.class() == FaultClass::Ambiguous {
                            doubtful.get_or_insert(error);
                        }
                        reading.lost.extend(Range::new(at, block));
                        break;
                    }
                    attempt += 1;
                }
            }
        }
        at = Sectors(at.0.saturating_add(block.0));
    }
    reading.lost = coalesce(reading.lost);
    if let Some(error) = doubtful {
        let around = Range::between(start, at).unwrap_or(Range::MAX);
        confirm_medium(disk, around, error)?;
    }
    Ok(reading)
}

/// Passes errors that may be about a sector, and stops on all others.
fn believe(error: &DiskError) -> Result<(), EngineError> {
    match error.class() {
        FaultClass::Medium | FaultClass::Ambiguous => Ok(()),
        FaultClass::Transport => Err(EngineError::Transport(error.clone())),
        FaultClass::Request => Err(EngineError::Disk(error.clone())),
    }
}

/// Believes an EIO only if most of the blocks spread over the device, away from `suspect`, can be read.
fn confirm_medium(disk: &dyn Disk, suspect: Range, error: DiskError) -> Result<(), EngineError> {
    let probes = spread_probes(disk, &[suspect], PROBES);
    match known_good_fails(disk, &probes) {
        Some(_) if probes.is_empty() => Err(EngineError::NotTheMedium { error, probe: suspect }),
        Some((probe, _)) => Err(EngineError::NotTheMedium { error, probe }),
        None => Ok(()),
    }
}

/// Writes, reads back, compares. Where that fails, finds out which blocks are to blame.
fn write_checked(disk: &dyn Disk, start: Sectors, data: &[u8], check: &mut [u8]) -> Result<(), CopyFault> {
    let Err(first) = write_and_compare(disk, start, data, check) else { return Ok(()) };
    first.may_be_medium()?;
    let block = disk.logical_block();
    let block_bytes = block.to_usize_bytes().unwrap_or(SECTOR_SIZE).max(SECTOR_SIZE);
    let mut bad = Vec::new();
    let mut at = start;
    for (data, check) in data.chunks(block_bytes).zip(check.chunks_mut(block_bytes)) {
        if let Err(fault) = write_and_compare(disk, at, data, check) {
            fault.may_be_medium()?;
            bad.extend(Range::new(at, block));
        }
        at = Sectors(at.0.saturating_add(block.0));
    }
    if bad.is_empty() {
        // It failed as a whole and holds in parts: a second whole attempt must settle it.
        return write_and_compare(disk, start, data, check)
            .map_err(|fault| CopyFault::Destination { bad: all_of(start, data), why: fault.to_string() });
    }
    Err(CopyFault::Destination { bad: coalesce(bad), why: first.to_string() })
}

fn all_of(start: Sectors, data: &[u8]) -> Vec<Range> {
    let len = u64::try_from(data.len() / SECTOR_SIZE).unwrap_or(0);
    Range::new(start, Sectors(len)).into_iter().collect()
}

#[derive(Debug, thiserror::Error)]
enum WriteFault {
    #[error(transparent)]
    Disk(DiskError),
    #[error("{device} gave back other data than was written at sector {at}")]
    Differs { device: Arc<str>, at: Sectors },
}

impl WriteFault {
    fn may_be_medium(&self) -> Result<(), CopyFault> {
        match self {
            WriteFault::Differs { .. } => Ok(()),
            WriteFault::Disk(error) => Ok(believe(error)?),
        }
    }
}

fn write_and_compare(disk: &dyn Disk, start: Sectors, data: &[u8], check: &mut [u8]) -> Result<(), WriteFault> {
    disk.write(start, data).map_err(WriteFault::Disk)?;
    disk.read(start, check).map_err(WriteFault::Disk)?;
    if data == check { Ok(()) } else { Err(WriteFault::Differs { device: disk.name().clone(), at: start }) }
}
