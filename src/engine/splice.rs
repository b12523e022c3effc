//! Moving extents: the order that makes a splice safe (docs/DESIGN.md, "The life of one splice").
//!
//! Invariants:
//! - until the window begins, the map and the live table are untouched, whatever fails;
//! - one swap for all of a plan, as far as it has no more moves than are made at once: those of one part of a plan move
//!   together, or not at all;
//! - what the map says is durable is on its device, read back and flushed.

use super::copying::{Ready, Work, copy_all, follow_writes, make_ready};
use super::salvage::{BlockRecord, Salvager};
use super::window::{UndoCause, WindowEnd, WindowJob, WindowRunner};
use super::{EngineError, Observer, PartObserver, Session, held, now, tables};
use crate::block::buffer::AlignedBuffer;
use crate::format::copy::encode;
use crate::format::metadata::Metadata;
use crate::format::samples::Sample;
use crate::map::{Loss, Map, SpareIndex};
use crate::plan::moves::{OnSpares, add_bad, bad_blocks_with, on_setup, sectors_of};
use crate::plan::{Move, MoveKind, MovePlan};
use crate::store::{Commit, CommitReport, CommitTarget};
use crate::units::{Range, Sectors};
use std::num::NonZeroUsize;

/// How often a plan is tried anew when sectors change under it, and how often a bad slot is replaced.
pub(super) const ATTEMPTS: u32 = 8;

/// Bytes copied at once in the window.
const WINDOW_CHUNK: usize = 262_144;

/// The most moves in one swap, as a rule: what is kept in memory for each until the swap is made is close to a kilobyte.
pub const MOVES_AT_ONCE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(10_239);

/// How to run a plan.
#[derive(Debug)]
pub struct SpliceOptions<'a> {
    /// Times that a block which cannot be read is read again.
    pub retries: u32,
    /// Runs the window.
    pub runner: &'a dyn WindowRunner,
    /// Is told how it goes.
    pub observer: &'a dyn Observer,
    /// Sectors of the setup that are known to be bad where they live now: they are read block by block, and the sectors
    /// around them in large requests. In any order. (An evacuation knows its bad slots itself.)
    pub suspects: &'a [Range],
    /// How many moves are made in one swap, usually [`MOVES_AT_ONCE`].
    pub at_once: NonZeroUsize,
}

impl std::fmt::Debug for dyn Observer + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// What a splice did.
#[derive(Clone, Debug, Default)]
pub struct SpliceOutcome {
    /// Moves that were made.
    pub moved: Vec<Move>,
    /// What could not be read in them, and what became of it.
    pub lost: Vec<Loss>,
    /// Moves that were left out, and why.
    pub dropped: Vec<(Range, String)>,
    /// Sectors that read only after a retry.
    pub recovered: Sectors,
    /// Blocks that did not read at once, in order, neighbours with the same outcome joined. A block that was suspected
    /// and read by the first request for it has no record.
    pub blocks: Vec<BlockRecord>,
    /// Slots that were found bad on the way, by spare.
    pub bad_slots: Vec<(SpareIndex, Range)>,
    /// Held sectors that were found to have been written since, and are ordinary now.
    pub rewritten: Vec<Range>,
}

impl SpliceOutcome {
    /// Adds what the next part of the same plan did.
    fn add(&mut self, part: SpliceOutcome) {
        self.moved.extend(part.moved);
        self.lost.extend(part.lost);
        self.dropped.extend(part.dropped);
        self.recovered = Sectors(self.recovered.0.saturating_add(part.recovered.0));
        self.blocks.extend(part.blocks);
        self.bad_slots.extend(part.bad_slots);
        self.rewritten.extend(part.rewritten);
    }

    /// The error for a part that failed after this was done: the part's own when nothing was.
    fn stopped_by(self, error: EngineError, of: usize) -> EngineError {
        if self.moved.is_empty() && self.lost.is_empty() && self.bad_slots.is_empty() {
            return error;
        }
        EngineError::Partway { moved: self.moved.len(), of, done: Box::new(self), source: Box::new(error) }
    }
}

/// Runs a plan to its end, in as many swaps as it takes with [`SpliceOptions::at_once`] moves in each. (It takes the plan,
/// because what is left of a large one and what was made of it are not to be in memory twice.)
///
/// # Errors
/// [`EngineError`]; the variants say what is in force afterwards. [`EngineError::Partway`] when moves were made before.
pub fn splice(
    session: &mut Session<'_>,
    plan: MovePlan,
    options: &SpliceOptions<'_>,
) -> Result<SpliceOutcome, EngineError> {
    session.check_live()?;
    session.clear_leftovers()?;
    let mut outcome = SpliceOutcome::default();
    let (mut before, total, of) = (Sectors::ZERO, plan.sectors(), plan.moves.len());
    // In one piece that fills up: it is never in memory twice, as when it grows.
    outcome.moved.reserve_exact(of);
    let mut part = MovePlan { already: Vec::new(), ..plan };
    // The next ones last.
    let mut later = std::mem::take(&mut part.moves);
    later.reverse();
    loop {
        part.moves = later.split_off(later.len().saturating_sub(options.at_once.get()));
        part.moves.reverse();
        later.shrink_to_fit();
        let observer = PartObserver { whole: options.observer, before, total };
        before = Sectors(before.0.saturating_add(part.sectors().0));
        let mut done = SpliceOutcome::default();
        let result = splice_part(session, &part, &later, &SpliceOptions { observer: &observer, ..*options }, &mut done);
        let swapped = !done.moved.is_empty();
        match result {
            Ok(()) => outcome.add(done),
            Err(error) => {
                if matches!(error, EngineError::AfterSwap { .. }) && !later.is_empty() {
                    outcome.add(done);
                }
                return Err(outcome.stopped_by(error, of));
            }
        }
        if later.is_empty() {
            return Ok(outcome);
        }
        // What was swapped in was checked already.
        if !swapped && let Err(error) = session.check_live() {
            return Err(outcome.stopped_by(error, of));
        }
    }
}

/// Runs a part of a plan, with one swap. The slots of the moves that come `later` are not to be used for this one.
fn splice_part(
    session: &mut Session<'_>,
    plan: &MovePlan,
    later: &[Move],
    options: &SpliceOptions<'_>,
    outcome: &mut SpliceOutcome,
) -> Result<(), EngineError> {
    held::list_again(session)?;
    outcome.rewritten = settle_held(session, options.observer)?;
    if plan.moves.is_empty() {
        record_bad_slots(session, &plan.bad_slots)?;
        return Ok(());
    }
    if plan.kind == MoveKind::Restore {
        forget_samples(session, plan)?;
    }
    let suspects =
        on_setup(&session.metadata.map, &plan.bad_slots).into_iter().chain(suspects_in(plan, options.suspects));
    let mut salvager = Salvager::new(options.retries, session.block(), suspects.collect());
    let mut kept: Option<Work<'_>> = None;
    for _ in 0..ATTEMPTS {
        let mut work = match kept.take() {
            Some(work) if work.may_stay(session, plan) => work,
            _ => {
                options.observer.step("copying");
                outcome.dropped.clear();
                let work = copy_all(session, plan, later, &mut salvager, options, outcome)?;
                if work.avoids_spares() {
                    // Who does not take a commit is not waited for in the window, nor tried by the next part.
                    session.commit(|_| {})?;
                }
                work
            }
        };
        follow_writes(session, &mut work, &mut salvager, options)?;
        let ready = make_ready(session, plan, &work, outcome)?;
        if ready.moves.is_empty() {
            if !outcome.lost.is_empty() || !plan.bad_slots.is_empty() || !outcome.bad_slots.is_empty() {
                session.commit(|next| {
                    next.map = ready.map;
                    add_found_bad(&mut next.bad_blocks, plan, outcome);
                })?;
            }
            return Ok(());
        }
        options.observer.step("swapping");
        if run_window(session, plan, &mut work, ready, options, outcome)? == Swap::Done {
            return Ok(());
        }
        options.observer.note("sectors changed while they were copied; trying again");
        // The window may have copied some of them and not come to its flush.
        work.flushed = false;
        // It may have been a held sector that was written: then it has data now, and has to be copied too. From a slot
        // it is copied again as anything that was written; what is restored was never copied.
        let rewritten = settle_held(session, options.observer)?;
        if rewritten.is_empty() || plan.kind != MoveKind::Restore {
            kept = Some(work);
        }
        outcome.rewritten.extend(rewritten);
    }
    Err(EngineError::Unsteady(session.name.clone()))
}

/// Those of the suspects that lie between the first of the moves and the last.
fn suspects_in<'s>(plan: &MovePlan, suspects: &'s [Range]) -> impl Iterator<Item = Range> + 's {
    let start = plan.moves.iter().map(|step| step.range.start()).min();
    let end = plan.moves.iter().map(|step| step.range.end()).max();
    let span = start.zip(end).and_then(|(start, end)| Range::between(start, end));
    suspects.iter().copied().filter(move |range| span.is_some_and(|span| span.overlaps(*range)))
}

/// Forgets samples of main in the places that are about to be written there: else an interrupted restore would look like
/// somebody writing behind the setup's back.
fn forget_samples(session: &mut Session<'_>, plan: &MovePlan) -> Result<(), EngineError> {
    let unit = session.metadata.map.unit();
    let written = |sample: &Sample| {
        Range::new(sample.at, unit).is_some_and(|range| plan.moves.iter().any(|step| step.range.overlaps(range)))
    };
    let hit = session.metadata.config.samples.iter().any(|samples| samples.units.iter().any(written));
    if hit {
        session.commit(|next| {
            if let Some(samples) = &mut next.config.samples {
                samples.units.retain(|sample| !written(sample));
            }
        })?;
    }
    Ok(())
}

/// Makes held sectors that were written since ordinary: commits it, then brings the devices up to date.
///
/// # Errors
/// When the commit fails.
pub fn settle_held(session: &mut Session<'_>, observer: &dyn Observer) -> Result<Vec<Range>, EngineError> {
    let rewritten = held::rewritten(session);
    let before = session.metadata.map.clone();
    let map = held::map_with(&session.metadata, &rewritten)?;
    if map == before {
        return Ok(Vec::new());
    }
    session.commit(|next| next.map = map)?;
    held::sync_all(session, Some(&before), &[&session.metadata.map], observer)?;
    Ok(rewritten)
}

/// Records bad sectors of spares, in one commit, so that no extent is put there any more; for those in free space. (Those
/// in slots that are in use are recorded by the commit that moves the extents away.) No commit is made when all of
/// them are recorded already. Returns whether there was one.
///
/// # Errors
/// [`crate::plan::Refusal::NotOnSpare`], or when the commit fails.
pub fn record_bad_slots(session: &mut Session<'_>, bad: &OnSpares) -> Result<bool, EngineError> {
    let bad_blocks = bad_blocks_with(&session.metadata, bad)?;
    if bad_blocks == session.metadata.bad_blocks {
        return Ok(false);
    }
    session.commit(|next| next.bad_blocks = bad_blocks)?;
    Ok(true)
}

/// Adds the bad sectors of spares that the plan knows of, and those that were found on the way.
pub(super) fn add_found_bad(all: &mut OnSpares, plan: &MovePlan, outcome: &SpliceOutcome) {
    for (spare, runs) in &plan.bad_slots {
        add_bad(all, *spare, runs.iter().copied());
    }
    for (spare, range) in &outcome.bad_slots {
        add_bad(all, *spare, [*range]);
    }
}

/// Whether the swap was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Swap {
    /// It was.
    Done,
    /// Sectors changed; it has to be tried again.
    Again,
}

/// Loads the new table, runs the window, and takes note of how it ended.
fn run_window<'a>(
    session: &mut Session<'a>,
    plan: &MovePlan,
    work: &mut Work<'a>,
    ready: Ready,
    options: &SpliceOptions<'_>,
    outcome: &mut SpliceOutcome,
) -> Result<Swap, EngineError> {
    let dm = session.dm;
    let name = session.name.clone();
    let old_map = session.metadata.map.clone();
    let Ready { moves, copies, destinations, map } = ready;
    let new = next_metadata(session, plan, &moves, map, outcome);
    let new_encoded = encode(&new)?;
    let old = Metadata {
        map: old_map.clone(),
        health: session.metadata.health.clone(),
        ..new.next(now(), new_encoded.digest())
    };
    let old_encoded = encode(&old)?;
    let (new_digest, old_digest) = (new_encoded.digest(), old_encoded.digest());

    held::sync_all(session, Some(&old_map), &[&old_map, &new.map], options.observer)?;
    let devices = session.devices()?;
    let ranges: Vec<Range> = moves.iter().map(|m| m.range).collect();
    let live = tables::shape(session)?;
    // A large table is much memory, and the next one is just as large.
    let window = dm.window(&name, Some(&tables::unsettled(&live, &old_map, &devices, &ranges)?))?;
    let table = tables::build(session, &live, &new.map, &devices)?;
    if let Err(error) = tables::load(session, &table) {
        tables::drop_unused(session);
        return Err(error);
    }
    let targets = session.commit_targets();
    // Another version may write the same content in other words: then the copies could not be put back as they are.
    let now = encode(&session.metadata)?;
    let commit = Commit::new(targets.clone(), new_encoded);
    let undo = (now.digest() == session.digest).then(|| {
        let mut undo = commit.beside(now);
        undo.write_first_group_only();
        undo
    });
    let mut job = WindowJob {
        window,
        revert: commit.beside(old_encoded),
        commit,
        undo,
        destinations,
        copies,
        watch: work.watch.take(),
        changed: std::mem::take(&mut work.changed),
        setup: session.setup(),
        block: session.block(),
        data: AlignedBuffer::new(WINDOW_CHUNK),
        check: AlignedBuffer::new(WINDOW_CHUNK),
    };
    let end = options.runner.run(&mut job);
    // What was found written and not copied again is for the next attempt.
    (work.watch, work.changed) = (job.watch.take(), std::mem::take(&mut job.changed));
    drop(job);
    let end = match end {
        Ok(end) => end,
        Err(error) => {
            dm.clear(&name)?;
            tables::drop_unused(session);
            return Err(EngineError::system("cannot begin the swap", error));
        }
    };
    match end {
        WindowEnd::Swapped(report) => {
            session.adopt(new, new_digest);
            outcome.moved = moves;
            let name = session.name.clone();
            after_swap(session, &old_map, &targets, &report, options)
                .map_err(|error| EngineError::AfterSwap { name, source: Box::new(error) })?;
            Ok(Swap::Done)
        }
        WindowEnd::Undone(UndoCause::Unsteady(_)) => {
            tables::drop_unused(session);
            Ok(Swap::Again)
        }
        // What lies in the inactive slot of a device that is suspended may be what it has to go on with.
        WindowEnd::StillSuspended(_) => Err(not_swapped(session, end, old, old_digest)),
        other => {
            tables::drop_unused(session);
            Err(not_swapped(session, other, old, old_digest))
        }
    }
}

fn next_metadata(
    session: &Session<'_>,
    plan: &MovePlan,
    moves: &[Move],
    map: Map,
    outcome: &SpliceOutcome,
) -> Metadata {
    let mut new = session.next_metadata();
    let moved = sectors_of(moves).0;
    let health = &mut new.health;
    health.splices = health.splices.saturating_add(1);
    match plan.kind {
        MoveKind::Remap | MoveKind::Evacuate | MoveKind::GiveUp => {
            health.sectors_moved = health.sectors_moved.saturating_add(moved)
        }
        // Nothing that a count of bad sectors could be read from.
        MoveKind::Compact => {}
        MoveKind::Restore => health.sectors_restored = health.sectors_restored.saturating_add(moved),
    }
    let lost = outcome.lost.iter().map(|l| l.range.len().0).fold(0, u64::saturating_add);
    health.sectors_lost = health.sectors_lost.saturating_add(lost);
    health.sectors_recovered = health.sectors_recovered.saturating_add(outcome.recovered.0);
    add_found_bad(&mut new.bad_blocks, plan, outcome);
    new.map = map;
    new.note_used(&session.metadata);
    new.forget_open_samples();
    new
}

/// What follows a swap: checks, the private devices, spares that did not take the commit.
fn after_swap(
    session: &mut Session<'_>,
    old_map: &Map,
    targets: &[CommitTarget],
    report: &CommitReport,
    options: &SpliceOptions<'_>,
) -> Result<(), EngineError> {
    // Each of these must be done whatever becomes of the others.
    let live = session.check_live();
    tables::drop_unused(session);
    let held = held::sync_all(session, Some(old_map), &[&session.metadata.map], options.observer);
    session.mark_failed_spares(targets, report)?;
    live.and(held)
}

/// The error for a window that did not swap; takes over the generation that the window may have committed.
fn not_swapped(session: &mut Session<'_>, end: WindowEnd, old: Metadata, old_digest: [u8; 32]) -> EngineError {
    let name = session.name.clone();
    match end {
        WindowEnd::NotSuspended(errno) => EngineError::NotSuspended { name, errno },
        WindowEnd::Undone(UndoCause::Disk(error)) => EngineError::Undone { name, why: error.to_string() },
        WindowEnd::Undone(UndoCause::Differs(range) | UndoCause::Unsteady(range)) => {
            EngineError::Undone { name, why: format!("sectors {range} did not read back as written") }
        }
        WindowEnd::Refused(errno) => {
            session.adopt(old, old_digest);
            let why = format!("the kernel refused the new table: {}", errno.desc());
            EngineError::Undone { name, why }
        }
        WindowEnd::CommitFailed(report) => {
            session.adopt(old, old_digest);
            session.commit_failed(&report)
        }
        WindowEnd::Unsettled => EngineError::Unsettled { name },
        WindowEnd::StillSuspended(errno) => EngineError::StillSuspended { name, errno },
        WindowEnd::Swapped(_) => EngineError::TableNotTaken(name),
    }
}
