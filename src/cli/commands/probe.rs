//! Probing suspected sectors of a running setup and moving what is bad: the plain form that `watch` uses until the
//! scan's judgement takes its place.

use super::Context;
use crate::block::buffer::AlignedBuffer;
use crate::block::{Disk, DiskError, FaultClass};
use crate::engine::guardian::Guarded;
use crate::engine::splice::{SpliceOptions, SpliceOutcome, splice};
use crate::engine::{EngineError, Observer};
use crate::format::metadata::UnreadablePolicy;
use crate::map::Fate;
use crate::plan::moves::{AlreadyMapped, plan_remap};
use crate::units::{Range, Sectors, coalesce};
use anyhow::Result;

/// How to act on what is found.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct ActOptions<'a> {
    /// What to do with blocks that cannot be read, when not as the setup says.
    pub(in crate::cli) unreadable: Option<UnreadablePolicy>,
    /// How often to read a bad block again.
    pub(in crate::cli) retries: u32,
    /// Is told how it goes.
    pub(in crate::cli) observer: &'a dyn Observer,
}

/// What was found and done.
#[derive(Debug, Default)]
pub(in crate::cli) struct Acted {
    /// Bad sectors of main.
    pub(in crate::cli) bad: Vec<Range>,
    /// What the splice did.
    pub(in crate::cli) outcome: SpliceOutcome,
    /// Why the disk could not be judged, when its trouble is not with sectors. Nothing was moved then.
    pub(in crate::cli) transport: Option<String>,
}

/// Sectors read at once where all is well.
const CHUNK: Sectors = Sectors(1024);

/// Reads `suspects` of main, and moves what is bad in one swap under the setup's lock.
pub(in crate::cli) fn probe_and_remap(
    context: &Context,
    name: &str,
    suspects: &[Range],
    options: &ActOptions<'_>,
) -> Result<Acted> {
    let session = context.reading_session(name)?;
    let map = &session.metadata.map;
    // Main is not read where it does not serve, nor where it is known to be bad.
    let left = map.losses().iter().filter(|loss| loss.fate == Fate::Left).map(|loss| loss.range);
    let known = coalesce(map.extents().map(|extent| extent.range).chain(left).collect());
    let block = session.main.disk.logical_block();
    let mut acted = Acted::default();
    let mut buf = AlignedBuffer::new(CHUNK.to_usize_bytes().unwrap_or(0));
    for range in suspects.iter().flat_map(|range| range.without(&known)) {
        let Some(range) = range.widen_to(block, map.main_len()) else { continue };
        for part in range.chunks(CHUNK) {
            if let Err(error) = probe(&*session.main.disk, part, block, options.retries, &mut buf, &mut acted.bad) {
                acted.transport = Some(error.to_string());
                return Ok(acted);
            }
        }
    }
    acted.bad = coalesce(acted.bad);
    drop(session);
    if acted.bad.is_empty() {
        return Ok(acted);
    }
    let (_lock, mut session) = context.locked_session(name)?;
    session.check_live()?;
    let unreadable = options.unreadable.unwrap_or(session.metadata.config.policy.unreadable);
    let plan = plan_remap(&session.metadata, &acted.bad, AlreadyMapped::Skip, unreadable, |spare| {
        session.spare(spare).is_some()
    })?;
    let splicing = SpliceOptions { retries: options.retries, runner: &Guarded, observer: options.observer };
    let generation = session.metadata.generation;
    let result = splice(&mut session, &plan, &splicing);
    if session.metadata.generation != generation {
        context.keep_backup(&session.metadata);
    }
    super::moves::tell_failed(context, &session);
    match result {
        Ok(outcome) => acted.outcome = outcome,
        Err(error @ (EngineError::Transport(_) | EngineError::NotTheMedium { .. })) => {
            acted.transport = Some(error.to_string());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(acted)
}

/// Parts that what cannot be read is taken apart into, again and again: few failing reads, which are slow and loud.
const PARTS: u64 = 8;

/// Takes apart what cannot be read, down to single blocks. A medium error is believed; what may be anything has to repeat.
/// Either is read again when it is salvaged.
fn probe(
    disk: &dyn Disk,
    range: Range,
    block: Sectors,
    retries: u32,
    buf: &mut AlignedBuffer,
    bad: &mut Vec<Range>,
) -> Result<(), DiskError> {
    let mut open = vec![range];
    while let Some(part) = open.pop() {
        let data = buf.get_mut(..part.len().to_usize_bytes().unwrap_or(0)).unwrap_or_default();
        let mut tries = if part.len() <= block { retries } else { 0 };
        let failed = loop {
            match disk.read(part.start(), data) {
                Ok(()) => break false,
                Err(error) if error.class() == FaultClass::Medium => break true,
                Err(error) if error.class() == FaultClass::Ambiguous && tries == 0 => break true,
                Err(error) if error.class() == FaultClass::Ambiguous => tries -= 1,
                Err(error) => return Err(error),
            }
        };
        if failed && part.len() <= block {
            bad.push(part);
        } else if failed {
            let step = Sectors(part.len().0.div_ceil(PARTS)).align_up(block).unwrap_or(block);
            let mut parts: Vec<Range> = part.chunks(step).collect();
            parts.reverse();
            open.extend(parts);
        }
    }
    Ok(())
}
