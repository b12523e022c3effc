//! Reading from a failing disk: large requests where it is healthy, one block at a time where it is not.
//!
//! Invariants:
//! - a block that is suspected is not part of a request with others, unless many before it have read at once, and is
//!   read no more often than it has attempts;
//! - a block that no request for it alone could read is lost; every other block is in the buffer;
//! - a record is made of each block that failed when it was asked for by itself.

use super::witness::Witness;
use super::{EngineError, believe};
use crate::block::{Disk, DiskError, FaultClass};
use crate::units::{Range, SECTOR_SIZE, Sectors, coalesce};
use nix::errno::Errno;

/// So many suspected blocks in a row that read at once clear the rest of their run of suspicion: a list that names far
/// more than is bad must not make every block a request.
pub(super) const CLEARED_AFTER: u32 = 16;

/// What became of a block that did not read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOutcome {
    /// It was read by this attempt: 2 for the first one after a failure.
    Recovered {
        /// How many requests for the block alone it took.
        attempt: u32,
    },
    /// It could not be read.
    Lost {
        /// How many requests for the block alone there were.
        attempts: u32,
        /// What the last of them said.
        errno: Errno,
    },
}

/// A run of blocks that did not read at once, all with the same outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRecord {
    /// Sectors of the setup, whole logical blocks.
    pub range: Range,
    /// What became of each block in it.
    pub outcome: BlockOutcome,
}

impl BlockRecord {
    /// Whether the blocks could not be read.
    pub fn is_lost(&self) -> bool {
        matches!(self.outcome, BlockOutcome::Lost { .. })
    }
}

/// Sorts records (of different blocks), and joins neighbours with the same outcome.
pub fn join_records(mut records: Vec<BlockRecord>) -> Vec<BlockRecord> {
    records.sort_unstable_by_key(|record| record.range);
    let mut out: Vec<BlockRecord> = Vec::with_capacity(records.len());
    for record in records {
        match out.last_mut() {
            Some(last) if last.outcome == record.outcome && last.range.end() == record.range.start() => {
                last.range = Range::between(last.range.start(), record.range.end()).unwrap_or(last.range);
            }
            _ => out.push(record),
        }
    }
    out
}

/// Reads blocks with retries, and takes note of those that make trouble.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    disk: &'a dyn Disk,
    /// Sectors read at least, and lost at once.
    block: Sectors,
    retries: u32,
    /// Runs of blocks, in sectors of the disk.
    records: Vec<BlockRecord>,
    /// The first EIO that made a block lost.
    doubtful: Option<DiskError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(disk: &'a dyn Disk, block: Sectors, retries: u32) -> Reader<'a> {
        let block = disk.logical_block().max(block);
        Reader { disk, block, retries, records: Vec::new(), doubtful: None }
    }

    /// Fills `buf` from `start`, but for what is lost; the records are of sectors of the disk. `suspects` are sectors of
    /// the disk too, sorted and disjoint. So are those that are `cleared`: each run of them is a request of its own.
    ///
    /// # Errors
    /// When the trouble is not about single sectors.
    pub(super) fn read(
        mut self,
        start: Sectors,
        buf: &mut [u8],
        suspects: &[Range],
        cleared: &[Range],
    ) -> Result<Vec<BlockRecord>, EngineError> {
        let len = Sectors(u64::try_from(buf.len() / SECTOR_SIZE).unwrap_or(0));
        let Some(whole) = Range::new(start, len) else { return Ok(Vec::new()) };
        let suspects = self.blocks_of(suspects, whole);
        let cleared: Vec<Range> =
            self.blocks_of(cleared, whole).iter().flat_map(|run| run.without(&suspects)).collect();
        let others = whole.without(&coalesce(suspects.iter().chain(&cleared).copied().collect()));
        let mut parts: Vec<(Range, bool)> = others.into_iter().chain(cleared).map(|range| (range, false)).collect();
        parts.extend(suspects.into_iter().map(|range| (range, true)));
        parts.sort_unstable_by_key(|(range, _)| *range);
        for (part, suspected) in parts {
            let skipped = part.start().saturating_sub(start).to_usize_bytes().unwrap_or(0);
            let bytes = part.len().to_usize_bytes().unwrap_or(0);
            let data = buf.get_mut(skipped..skipped.saturating_add(bytes)).unwrap_or_default();
            if suspected { self.suspected(part, data)? } else { self.healthy(part, data)? }
        }
        if let Some(error) = self.doubtful.take() {
            self.ask_again(whole, buf, &error)?;
        }
        Ok(join_records(self.records))
    }

    /// Reads the blocks that are lost by an EIO once more, beside a witness: `whole` is what `buf` is for.
    fn ask_again(&mut self, whole: Range, buf: &mut [u8], error: &DiskError) -> Result<(), EngineError> {
        let mut witness = Witness::find(self.disk, whole, error)?;
        for BlockRecord { range, outcome } in &mut self.records {
            let BlockOutcome::Lost { attempts, errno } = outcome else { continue };
            if FaultClass::of(*errno) != FaultClass::Ambiguous {
                continue;
            }
            let skipped = range.start().saturating_sub(whole.start()).to_usize_bytes().unwrap_or(0);
            let bytes = range.len().to_usize_bytes().unwrap_or(0);
            let data = buf.get_mut(skipped..skipped.saturating_add(bytes)).unwrap_or_default();
            let attempt = attempts.saturating_add(1);
            *outcome = match witness.beside(error, || self.disk.read(range.start(), data))? {
                Ok(()) => BlockOutcome::Recovered { attempt },
                Err(error) => {
                    believe(&error)?;
                    BlockOutcome::Lost { attempts: attempt, errno: error.errno }
                }
            };
        }
        Ok(())
    }

    /// Those of `ranges` (sorted, disjoint) inside `whole`, as whole blocks.
    fn blocks_of(&self, ranges: &[Range], whole: Range) -> Vec<Range> {
        let (start, last) = (whole.start(), whole.end());
        let near = ranges.iter().skip(ranges.partition_point(|range| range.end() <= start));
        let near = near.take_while(|range| range.start() < last);
        // Blocks are counted from the start: that is one of the setup, and of the slot.
        let widened = near.filter_map(|range| {
            let from = Sectors(range.start().saturating_sub(start).align_down(self.block).0.saturating_add(start.0));
            let end = range.end().saturating_sub(start).align_up(self.block)?.checked_add(start)?.min(last);
            Range::between(from, end)
        });
        coalesce(widened.collect())
    }

    /// In one request, and block by block only if that fails.
    fn healthy(&mut self, part: Range, data: &mut [u8]) -> Result<(), EngineError> {
        match self.disk.read(part.start(), data) {
            Ok(()) => return Ok(()),
            Err(error) => believe(&error)?,
        }
        for (block, data) in part.chunks(self.block).zip(data.chunks_mut(self.block_bytes())) {
            self.block(block, data)?;
        }
        Ok(())
    }

    /// Block by block, until the suspicion has turned out to be wrong.
    fn suspected(&mut self, part: Range, mut data: &mut [u8]) -> Result<(), EngineError> {
        let (mut at, mut good) = (part.start(), 0u32);
        while let Some(rest) = Range::between(at, part.end()) {
            if good >= CLEARED_AFTER {
                return self.healthy(rest, data);
            }
            let Some(block) = rest.chunks(self.block).next() else { break };
            let bytes = block.len().to_usize_bytes().unwrap_or(0).min(data.len());
            let (first, others) = data.split_at_mut(bytes);
            good = if self.block(block, first)? { good.saturating_add(1) } else { 0 };
            (at, data) = (block.end(), others);
        }
        Ok(())
    }

    /// One block, with retries; whether it read at once.
    fn block(&mut self, block: Range, data: &mut [u8]) -> Result<bool, EngineError> {
        let mut attempt = 1u32;
        let outcome = loop {
            match self.disk.read(block.start(), data) {
                Ok(()) if attempt == 1 => return Ok(true),
                Ok(()) => break BlockOutcome::Recovered { attempt },
                Err(error) => {
                    believe(&error)?;
                    if attempt > self.retries {
                        let errno = error.errno;
                        if error.class() == FaultClass::Ambiguous {
                            self.doubtful.get_or_insert(error);
                        }
                        break BlockOutcome::Lost { attempts: attempt, errno };
                    }
                    attempt = attempt.saturating_add(1);
                }
            }
        };
        self.records.push(BlockRecord { range: block, outcome });
        Ok(false)
    }

    fn block_bytes(&self) -> usize {
        self.block.to_usize_bytes().unwrap_or(SECTOR_SIZE).max(SECTOR_SIZE)
    }
}
