//! Probing suspected sectors of a running setup with the scan's judgement, and moving what is bad.

use super::Context;
use super::ahead::with_health;
use crate::cli::choices::ScanChoices;
use crate::engine::guardian::Guarded;
use crate::engine::lock::Lock;
use crate::engine::splice::{SpliceOptions, SpliceOutcome};
use crate::engine::{EngineError, Observer, Session};
use crate::format::metadata::UnreadablePolicy;
use crate::plan::Refusal;
use crate::scan::act::{Acted, Policy, leave_slots, move_found};
use crate::scan::pass::{Order, Place, limits};
use crate::scan::probe::probe;
use crate::scan::run::CHUNK;
use crate::scan::survey::{Found, Shape};
use crate::units::{DevNo, Range, RangeSet, Sectors};
use anyhow::Result;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// How long a scan waits for another command that works on the setup.
const PATIENCE: Duration = Duration::from_secs(60);

/// How to act on what is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct ActOptions<'a> {
    /// What to do about it.
    pub(super) policy: Policy,
    /// How often to read a bad block again.
    pub(super) retries: u32,
    /// Is told how it goes.
    pub(super) observer: &'a dyn Observer,
}

/// How a scan of a setup acts on what it finds.
pub(super) fn scan_options<'a>(context: &'a Context, name: &str, choices: &ScanChoices) -> ActOptions<'a> {
    let policy = Policy { move_weak: choices.move_weak, margin: choices.margin, unreadable: choices.unreadable };
    ActOptions { policy: with_health(context, name, policy), retries: choices.retries, observer: &context.progress }
}

/// What was found and done.
#[derive(Debug, Default)]
pub(super) struct Probed {
    /// What was found.
    pub(super) found: Found,
    /// What was done about it.
    pub(super) acted: Acted,
    /// Why the disk could not be judged, when its trouble is not with sectors. Nothing was moved then.
    pub(super) transport: Option<String>,
}

/// Reads `suspects` of a device of a setup, as far as they are of interest, and moves what is bad in one swap under the
/// setup's lock. Does not wait when another command has that.
pub(super) fn probe_and_act(
    context: &Context,
    name: &str,
    place: Place,
    suspects: &[Range],
    options: &ActOptions<'_>,
) -> Result<Probed> {
    let session = context.reading_session(name)?;
    let Some((disk, devno)) = device_of(&session, place) else { return Ok(Probed::default()) };
    let order = Order { ranges: None, full: false, report_only: false, slow_ms: 0, retries: 0 };
    let of_interest = limits(&session.metadata, &order, place);
    let block = disk.logical_block();
    let area: RangeSet = suspects
        .iter()
        .filter_map(|range| range.widen_to(block, disk.size()))
        .flat_map(|range| of_interest.within(range).collect::<Vec<_>>())
        .collect();
    let shape = shape(context, devno, block, session.metadata.map.unit(), &order);
    drop(session);
    let mut probed = match probe(&*disk, area, shape) {
        Ok(found) => Probed { found, ..Probed::default() },
        Err(error) if error.began_with().is_some() => {
            return Ok(Probed { transport: Some(error.to_string()), ..Probed::default() });
        }
        Err(error) => return Err(error.into()),
    };
    if probed.found.is_clean() {
        return Ok(probed);
    }
    match act(context, name, place, &probed.found, options, Duration::ZERO) {
        Ok(acted) => probed.acted = acted,
        Err(error) => match error.downcast_ref().map(EngineError::cause) {
            Some(EngineError::Transport(_) | EngineError::NotTheMedium { .. }) => {
                probed.transport = Some(format!("{error:#}"));
            }
            _ => return Err(error),
        },
    }
    Ok(probed)
}

fn device_of(session: &Session<'_>, place: Place) -> Option<(std::sync::Arc<dyn crate::block::Disk>, DevNo)> {
    let member = match place {
        Place::Main => &session.main,
        Place::Spare(index) => session.spare(index)?,
    };
    Some((member.disk.clone(), member.devno))
}

/// How to ask a device for its sectors.
pub(super) fn shape(context: &Context, devno: DevNo, block: Sectors, unit: Sectors, order: &Order) -> Shape {
    let device = context.host.device_by_number(devno);
    let step = device.map_or(block, |device| device.physical_block.max(block));
    Shape { chunk: CHUNK, step, block, unit: unit.max(step), slow_ms: order.slow_ms, retries: order.retries }
}

/// Moves what was found away from where it is bad, under the setup's lock.
pub(super) fn act(
    context: &Context,
    name: &str,
    place: Place,
    found: &Found,
    options: &ActOptions<'_>,
    patience: Duration,
) -> Result<Acted> {
    let (_lock, mut session) = patient_session(context, name, patience)?;
    let splicing = SpliceOptions {
        retries: options.retries,
        runner: &Guarded,
        observer: options.observer,
        suspects: &[],
        // What was found in a zone moves together, or is told as not moved.
        at_once: NonZeroUsize::MAX,
    };
    let generation = session.metadata.generation;
    let result = match place {
        Place::Main => move_found(&mut session, found, &options.policy, &splicing),
        Place::Spare(spare) => leave_slots(&mut session, spare, found, &options.policy, &splicing),
    };
    if session.metadata.generation != generation {
        context.keep_backup(&session.metadata);
    }
    super::moves::tell_failed(context, &session);
    Ok(result?)
}

/// The same, waiting for a while when another command works on the setup.
pub(super) fn act_patiently(
    context: &Context,
    name: &str,
    place: Place,
    found: &Found,
    options: &ActOptions<'_>,
) -> Result<Acted> {
    act(context, name, place, found, options, PATIENCE)
}

/// Opens an active setup for a changing command, waiting for a while when another command works on it.
pub(super) fn patient_session<'a>(context: &'a Context, name: &str, patience: Duration) -> Result<(Lock, Session<'a>)> {
    let begun = Instant::now();
    loop {
        match context.locked_session(name) {
            Err(error) if is_busy(&error) && begun.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

/// Whether an error says that another command is at work.
pub(super) fn is_busy(error: &anyhow::Error) -> bool {
    let busy = |refusal: &Refusal| matches!(refusal, Refusal::Busy { .. });
    matches!(error.downcast_ref(), Some(EngineError::Refused(refusal)) if busy(refusal))
        || error.downcast_ref().is_some_and(busy)
}

/// What becomes of blocks that cannot be read, and nothing else out of the ordinary.
pub(super) fn plain_policy(unreadable: Option<UnreadablePolicy>) -> Policy {
    Policy { unreadable, ..Policy::default() }
}

impl Probed {
    /// What the splice did.
    pub(super) fn outcome(&self) -> &SpliceOutcome {
        &self.acted.outcome
    }
}
