//! Copying sectors from where they live to where they will live, and judging what cannot be read.
//!
//! Invariants:
//! - what was written is read back and compared before anything relies on it;
//! - only a medium error, or an EIO that repeats while known-good sectors read, makes a block lost;
//! - a transport error stops everything.

mod reading;
mod witness;

pub use reading::{BlockOutcome, BlockRecord, join_records};

use super::{EngineError, Observer};
use crate::block::buffer::AlignedBuffer;
use crate::block::{Disk, DiskError, FaultClass};
use crate::format::tombstone;
use crate::units::{Range, SECTOR_SIZE, Sectors, coalesce};
use reading::{CLEARED_AFTER, Reader};
use std::sync::Arc;
use uuid::Uuid;
use witness::Witness;

/// Sectors copied at once.
pub(super) const CHUNK: Sectors = Sectors(1024);

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
    /// Blocks that did not read at once, in order, neighbours with the same outcome joined.
    pub blocks: Vec<BlockRecord>,
}

impl Copied {
    /// Sectors of the setup that could not be read, in order.
    pub fn lost(&self) -> Vec<Range> {
        coalesce(self.blocks.iter().filter(|record| record.is_lost()).map(|record| record.range).collect())
    }

    /// Sectors that read only after a retry.
    pub fn recovered(&self) -> Sectors {
        let recovered = self.blocks.iter().filter(|record| !record.is_lost()).map(|record| record.range.len().0);
        Sectors(recovered.fold(0, u64::saturating_add))
    }

    /// Takes over how the copy of a part went that was made again.
    pub fn replace(&mut self, part: Range, again: Copied) {
        let outside = self.blocks.iter().flat_map(|record| {
            let outcome = record.outcome;
            record.range.without(&[part]).into_iter().map(move |range| BlockRecord { range, outcome })
        });
        self.blocks = join_records(outside.chain(again.blocks).collect());
    }
}

/// Why a copy could not be made.
#[derive(Debug)]
pub enum CopyFault {
    /// Everything must stop.
    Stop(EngineError),
    /// The destination is in trouble as a whole.
    Device(EngineError),
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
    /// Sectors of the setup that are read block by block; sorted and disjoint.
    suspects: Vec<Range>,
    /// The same for those that were found to make trouble.
    trouble: Vec<Range>,
    /// Suspected blocks in a row, over all copies, that read at once.
    good: u64,
    data: AlignedBuffer,
    check: AlignedBuffer,
}

impl Salvager {
    /// A salvager that reads a bad block `retries` times more. `block` is the least that is lost at once: a logical
    /// block of the setup, which may be larger than one of the source. `suspects` are sectors of the setup that are known
    /// to be bad: they are not read as part of a large request, because each read of a bad sector may take long;
    /// but once many in a row have read at once, each run of them is one request, until one fails. Blocks that make trouble
    /// are suspected from then on.
    pub fn new(retries: u32, block: Sectors, suspects: Vec<Range>) -> Salvager {
        let len = CHUNK.to_usize_bytes().unwrap_or(0);
        Salvager {
            retries,
            block,
            suspects: coalesce(suspects),
            trouble: Vec::new(),
            good: 0,
            data: AlignedBuffer::new(len),
            check: AlignedBuffer::new(len),
        }
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
            let bytes = self.read_part(&part, 0, &mut result)?;
            self.write_read(&part, bytes)?;
            offset = Sectors(offset.0.saturating_add(len.0));
            done(len);
        }
        self.finish(copy, &mut result, observer);
        Ok(result)
    }

    /// Copies several that follow each other on one destination, [`CHUNK`] at most in all: it is written, read back and
    /// compared in one request.
    ///
    /// # Errors
    /// As [`Salvager::copy`]; of a destination that does not keep something, each copy may be made alone.
    pub(super) fn copy_joined(&mut self, copies: &[Copy], observer: &dyn Observer) -> Result<Vec<Copied>, CopyFault> {
        let mut all = Vec::with_capacity(copies.len());
        let mut end = 0;
        for copy in copies {
            let mut result = Copied::default();
            end = self.read_part(copy, end, &mut result)?;
            self.finish(copy, &mut result, observer);
            all.push(result);
        }
        if let Some(first) = copies.first() {
            self.write_read(first, end)?;
        }
        Ok(all)
    }

    fn finish(&mut self, copy: &Copy, result: &mut Copied, observer: &dyn Observer) {
        for range in result.lost() {
            observer.note(&format!("sectors {range} cannot be read from {}", copy.source.name()));
        }
        result.blocks = join_records(std::mem::take(&mut result.blocks));
        self.suspect(&result.blocks);
    }

    /// As [`Salvager::copy`], for what was copied before and written since: only blocks that made trouble are suspected.
    ///
    /// # Errors
    /// As there.
    pub fn copy_again(&mut self, copy: &Copy, observer: &dyn Observer) -> Result<Copied, CopyFault> {
        let suspects = std::mem::take(&mut self.suspects);
        let copied = self.copy(copy, observer, |_| {});
        self.suspects = suspects;
        copied
    }

    /// Takes note of blocks that made trouble. (Sorted only when there are new ones: there may be very many moves.)
    fn suspect(&mut self, blocks: &[BlockRecord]) {
        let known = |range: Range| inside(&self.trouble, range).first().is_some_and(|known| known.encloses(range));
        let new: Vec<Range> = blocks.iter().map(|record| record.range).filter(|range| !known(*range)).collect();
        if !new.is_empty() {
            let all = std::mem::take(&mut self.trouble).into_iter().chain(new);
            self.trouble = coalesce(all.collect());
        }
    }

    /// Reads a part into the buffer, from byte `from` on; gives the first byte after it.
    fn read_part(&mut self, part: &Copy, from: usize, result: &mut Copied) -> Result<usize, EngineError> {
        let bytes = part.range.len().to_usize_bytes().unwrap_or(0);
        let end = from.saturating_add(bytes);
        let data = self.data.get_mut(from..end).unwrap_or_default();
        let on_source = |ranges: &[Range]| {
            let parts = ranges.iter().filter_map(|range| part.clip(*range));
            coalesce(parts.filter_map(|one| Range::new(one.from, one.range.len())).collect())
        };
        let named = on_source(inside(&self.suspects, part.range));
        let mut doubted = on_source(inside(&self.trouble, part.range));
        let blocks = named.iter().map(|range| range.len().0.div_ceil(self.block.0.max(1))).fold(0, u64::saturating_add);
        let cleared = self.good >= u64::from(CLEARED_AFTER);
        if !cleared {
            doubted = coalesce(doubted.into_iter().chain(named.iter().copied()).collect());
        }
        let reader = Reader::new(&*part.source, self.block, self.retries);
        let records = reader.read(part.from, data, &doubted, if cleared { &named } else { &[] })?;
        self.good = if records.is_empty() { self.good.saturating_add(blocks) } else { 0 };
        for BlockRecord { range, outcome } in records {
            let skipped = range.start().saturating_sub(part.from);
            let at = Sectors(part.range.start().0.saturating_add(skipped.0));
            let Some(range) = Range::new(at, range.len()) else { continue };
            let record = BlockRecord { range, outcome };
            result.blocks.push(record);
            if !record.is_lost() {
                continue;
            }
            let first = skipped.to_usize_bytes().unwrap_or(0);
            let len = range.len().to_usize_bytes().unwrap_or(0);
            let hole = data.get_mut(first..first.saturating_add(len)).unwrap_or_default();
            match part.filling {
                Filling::Zeros => hole.fill(0),
                Filling::Tombstones(setup) => tombstone::fill(hole, setup, at),
            }
        }
        Ok(end)
    }

    /// Writes what was read to where `first` goes.
    fn write_read(&mut self, first: &Copy, bytes: usize) -> Result<(), CopyFault> {
        let data = self.data.get(..bytes).unwrap_or_default();
        let check = self.check.get_mut(..bytes).unwrap_or_default();
        write_checked(&*first.destination, first.to, data, check).map_err(|fault| match fault {
            CopyFault::Stop(error @ (EngineError::Transport(_) | EngineError::NotTheMedium { .. })) => {
                CopyFault::Device(error)
            }
            other => other,
        })
    }
}

/// Those of `ranges` (sorted, disjoint) that touch `window`.
fn inside(ranges: &[Range], window: Range) -> &[Range] {
    let first = ranges.partition_point(|range| range.end() <= window.start());
    let end = ranges.partition_point(|range| range.start() < window.end());
    ranges.get(first..end).unwrap_or_default()
}

/// Passes errors that may be about a sector, and stops on all others.
fn believe(error: &DiskError) -> Result<(), EngineError> {
    match error.class() {
        FaultClass::Medium | FaultClass::Ambiguous => Ok(()),
        FaultClass::Transport => Err(EngineError::Transport(error.clone())),
        FaultClass::Request => Err(EngineError::Disk(error.clone())),
    }
}

/// Writes, reads back, compares. Where that fails, finds out which blocks are to blame.
fn write_checked(disk: &dyn Disk, start: Sectors, data: &[u8], check: &mut [u8]) -> Result<(), CopyFault> {
    let Err(first) = write_and_compare(disk, start, data, check) else { return Ok(()) };
    first.may_be_medium()?;
    let mut target = Target { disk, witness: None, suspect: all_of(start, data) };
    let block = disk.logical_block();
    let block_bytes = block.to_usize_bytes().unwrap_or(SECTOR_SIZE).max(SECTOR_SIZE);
    let mut bad = Vec::new();
    let mut at = start;
    for (data, check) in data.chunks(block_bytes).zip(check.chunks_mut(block_bytes)) {
        if target.fails(at, data, check)?.is_some() {
            bad.extend(Range::new(at, block));
        }
        at = Sectors(at.0.saturating_add(block.0));
    }
    if bad.is_empty() {
        // It failed as a whole and holds in parts: a second whole attempt must settle it.
        return match target.fails(start, data, check)? {
            Some(fault) => Err(CopyFault::Destination { bad: vec![target.suspect], why: fault.to_string() }),
            None => Ok(()),
        };
    }
    Err(CopyFault::Destination { bad: coalesce(bad), why: first.to_string() })
}

fn all_of(start: Sectors, data: &[u8]) -> Range {
    let len = u64::try_from(data.len() / SECTOR_SIZE).unwrap_or(0);
    Range::new(start, Sectors(len)).unwrap_or(Range::MAX)
}

/// A place that is written to, and did not take it.
struct Target<'a> {
    disk: &'a dyn Disk,
    /// Found when it is needed.
    witness: Option<Witness<'a>>,
    suspect: Range,
}

impl Target<'_> {
    /// Writes and compares; what is wrong with the place. An EIO is believed if it repeats beside a witness.
    fn fails(&mut self, at: Sectors, data: &[u8], check: &mut [u8]) -> Result<Option<WriteFault>, CopyFault> {
        let Err(fault) = write_and_compare(self.disk, at, data, check) else { return Ok(None) };
        fault.may_be_medium()?;
        let error = match &fault {
            WriteFault::Disk(error) if error.class() == FaultClass::Ambiguous => error,
            _ => return Ok(Some(fault)),
        };
        let witness = match &mut self.witness {
            Some(witness) => witness,
            None => self.witness.insert(Witness::find(self.disk, self.suspect, error)?),
        };
        let Err(again) = witness.beside(error, || write_and_compare(self.disk, at, data, check))? else {
            return Ok(None);
        };
        again.may_be_medium()?;
        Ok(Some(again))
    }
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

#[cfg(test)]
#[path = "salvage_tests.rs"]
mod tests;
