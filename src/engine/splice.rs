//! Moving extents: the order that makes a splice safe (docs/DESIGN.md, "The life of one splice").
//!
//! Invariants:
//! - until the window begins, the map and the live table are untouched, whatever fails;
//! - one swap for one plan, however many extents it has;
//! - what the map says is durable is on its device, read back and flushed.

use super::dirty::DirtyWatch;
use super::salvage::{Copied, Copy, CopyFault, Filling, Salvager};
use super::window::{Gap, Recopy, UndoCause, WindowEnd, WindowJob, WindowRunner};
use super::{EngineError, Observer, Session, held, now};
use crate::block::Disk;
use crate::block::buffer::AlignedBuffer;
use crate::dm::TableSlot;
use crate::format::copy::encode;
use crate::format::metadata::{Metadata, UnreadablePolicy};
use crate::map::{Fate, Loss, Map, SpareIndex};
use crate::plan::moves::apply;
use crate::plan::{Home, Move, MoveKind, MovePlan, Refusal};
use crate::pool::Pool;
use crate::segments::{setup_table, unsettled_table};
use crate::store::{Commit, CommitReport};
use crate::units::{Range, Sectors, coalesce};
use std::sync::Arc;

/// How often a plan is tried anew when sectors change under it, and how often a bad slot is replaced.
const ATTEMPTS: u32 = 4;

/// How often what was written meanwhile is copied again before the device is suspended.
const LIVE_PASSES: u32 = 4;

/// Bytes copied at once in the window.
const WINDOW_CHUNK: usize = 262_144;

/// How to run a plan.
#[derive(Debug)]
pub struct SpliceOptions<'a> {
    /// Times that a block which cannot be read is read again.
    pub retries: u32,
    /// Runs the window.
    pub runner: &'a dyn WindowRunner,
    /// Is told how it goes.
    pub observer: &'a dyn Observer,
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
    /// Slots that were found bad on the way, by spare.
    pub bad_slots: Vec<(SpareIndex, Range)>,
    /// Held sectors that were found to have been written since, and are ordinary now.
    pub rewritten: Vec<Range>,
    /// Spares that did not take the commit, while others did.
    pub failed_spares: Vec<SpareIndex>,
}

/// What one attempt knows.
struct Attempt {
    moves: Vec<Move>,
    copies: Vec<(Copy, Copied)>,
    /// Losses to record, held ranges that read again included.
    losses: Vec<(Range, Option<Fate>)>,
    /// Parts of a restore whose slots hold tombstones: they are not copied, only watched.
    tombstones: Vec<Copy>,
}

/// Runs a plan to its end.
///
/// # Errors
/// [`EngineError`]; the variants say what is in force afterwards.
pub fn splice(
    session: &mut Session<'_>,
    plan: &MovePlan,
    options: &SpliceOptions<'_>,
) -> Result<SpliceOutcome, EngineError> {
    session.check_live()?;
    session.clear_leftovers()?;
    let mut outcome = SpliceOutcome { rewritten: settle_held(session, options.observer)?, ..Default::default() };
    let mut moves = plan.moves.clone();
    for _ in 0..ATTEMPTS {
        if moves.is_empty() && outcome.lost.is_empty() {
            return Ok(outcome);
        }
        match attempt(session, plan, &mut moves, options, &mut outcome)? {
            Some(()) => return Ok(outcome),
            None => options.observer.note("sectors changed while they were copied; trying again"),
        }
        // It may have been a held sector that was written.
        outcome.rewritten.extend(settle_held(session, options.observer)?);
    }
    Err(EngineError::Unsteady(session.name.clone()))
}

/// Makes held sectors that were written since ordinary: commits it, then brings the devices up to date.
///
/// # Errors
/// When the commit fails.
pub fn settle_held(session: &mut Session<'_>, observer: &dyn Observer) -> Result<Vec<Range>, EngineError> {
    let rewritten = held::rewritten(session)?;
    if rewritten.is_empty() {
        return Ok(rewritten);
    }
    let before = session.metadata.map.clone();
    let mut map = before.clone();
    for range in &rewritten {
        map.record_loss(*range, Fate::Rewritten)?;
    }
    session.commit(|next| next.map = map)?;
    held::sync_all(session, Some(&before), &[&session.metadata.map], observer)?;
    Ok(rewritten)
}

/// One attempt: `None` when sectors changed under it and it has to be tried again.
fn attempt(
    session: &mut Session<'_>,
    plan: &MovePlan,
    moves: &mut Vec<Move>,
    options: &SpliceOptions<'_>,
    outcome: &mut SpliceOutcome,
) -> Result<Option<()>, EngineError> {
    outcome.lost.clear();
    outcome.recovered = Sectors::ZERO;
    let watch = start_watch(session, moves);
    let filling = match plan.unreadable {
        UnreadablePolicy::Zero => Filling::Zeros,
        _ => Filling::Tombstones(session.setup()),
    };
    let mut salvager = Salvager::new(options.retries, filling);
    options.observer.step("copying");
    let mut work = copy_all(session, plan, moves, &mut salvager, options, outcome)?;
    let watch = follow_writes(watch, &mut work, &mut salvager, options)?;
    let next_map = next_map(session, plan, &mut work, outcome)?;
    *moves = work.moves.clone();
    if work.moves.is_empty() {
        session.commit(|next| next.map = next_map)?;
        return Ok(Some(()));
    }
    options.observer.step("swapping");
    run_window(session, plan, work, watch, next_map, options, outcome)
}

fn start_watch<'a>(session: &Session<'a>, moves: &[Move]) -> Option<DirtyWatch<'a>> {
    let start = moves.iter().map(|m| m.range.start()).min()?;
    let end = moves.iter().map(|m| m.range.end()).max()?;
    let span = Range::between(start, end)?;
    // Without the kernel's statistics everything is copied again in the window: slower, and as safe.
    DirtyWatch::start(session.dm, &session.name, span, session.metadata.map.unit()).ok()
}

/// The device and first sector that a home stands for.
fn locate(session: &Session<'_>, home: Home, range: Range) -> Result<(Arc<dyn Disk>, Sectors), EngineError> {
    match home {
        Home::Main => Ok((session.main.disk.clone(), range.start())),
        Home::Slot(slot) => match session.spare(slot.spare) {
            Some(member) => Ok((member.disk.clone(), slot.start)),
            None => Err(EngineError::Device(format!("spare {} is missing", slot.spare))),
        },
    }
}

fn copy_of(session: &Session<'_>, step: &Move) -> Result<Copy, EngineError> {
    let (source, from) = locate(session, step.from, step.range)?;
    let (destination, to) = locate(session, step.to, step.range)?;
    Ok(Copy { range: step.range, source, from, destination, to })
}

/// Copies all moves, replacing bad slots and leaving out what cannot be moved.
fn copy_all(
    session: &mut Session<'_>,
    plan: &MovePlan,
    moves: &[Move],
    salvager: &mut Salvager,
    options: &SpliceOptions<'_>,
    outcome: &mut SpliceOutcome,
) -> Result<Attempt, EngineError> {
    let mut work = Attempt { moves: Vec::new(), copies: Vec::new(), losses: Vec::new(), tombstones: Vec::new() };
    let total = moves.iter().map(|m| m.range.len().0).fold(0, u64::saturating_add);
    let mut done = 0u64;
    let mut queue: Vec<(Move, u32)> = moves.iter().rev().map(|m| (*m, 0)).collect();
    while let Some((step, tries)) = queue.pop() {
        let mut progress = |sectors: Sectors| {
            done = done.saturating_add(sectors.0).min(total);
            options.observer.progress(done, total);
        };
        let copied = match plan.kind {
            MoveKind::Remap => copy_to_spare(session, &step, salvager, options, &mut progress),
            MoveKind::Restore => copy_to_main(session, plan, &step, salvager, options, &mut progress, &mut work),
        };
        match copied {
            Ok(copies) => {
                work.moves.push(step);
                work.copies.extend(copies);
            }
            Err(CopyFault::Stop(error)) => return Err(error),
            Err(CopyFault::Destination { bad, why }) => match step.to {
                Home::Main => outcome.dropped.push((step.range, format!("main is still bad there: {why}"))),
                Home::Slot(slot) if tries < ATTEMPTS => {
                    options.observer.note(&format!("spare {} is bad itself: {why}", slot.spare));
                    outcome.bad_slots.extend(bad.iter().map(|r| (slot.spare, *r)));
                    let again = replace_slot(session, &work, &queue, &step, slot.spare, bad)?;
                    queue.extend(again.into_iter().map(|m| (m, tries + 1)));
                }
                Home::Slot(slot) => {
                    return Err(EngineError::Device(format!(
                        "spare {} fails wherever it is written: {why}. Nothing was changed",
                        slot.spare
                    )));
                }
            },
        }
    }
    Ok(work)
}

fn copy_to_spare(
    session: &Session<'_>,
    step: &Move,
    salvager: &mut Salvager,
    options: &SpliceOptions<'_>,
    progress: &mut dyn FnMut(Sectors),
) -> Result<Vec<(Copy, Copied)>, CopyFault> {
    let copy = copy_of(session, step)?;
    let copied = salvager.copy(&copy, options.observer, progress)?;
    Ok(vec![(copy, copied)])
}

/// Copies all but what is held: of that main must be able to say something itself, or the move is left out.
fn copy_to_main(
    session: &Session<'_>,
    plan: &MovePlan,
    step: &Move,
    salvager: &mut Salvager,
    options: &SpliceOptions<'_>,
    progress: &mut dyn FnMut(Sectors),
    work: &mut Attempt,
) -> Result<Vec<(Copy, Copied)>, CopyFault> {
    let map = &session.metadata.map;
    let held: Vec<Range> =
        map.losses().within(step.range).filter(|loss| loss.fate == Fate::Held).map(|loss| loss.range).collect();
    let mut losses = Vec::new();
    for range in &held {
        let readable = main_reads(session, *range)?;
        if !readable && plan.unreadable != UnreadablePolicy::Leave {
            return Err(EngineError::from(Refusal::HeldUnreadable(*range)).into());
        }
        losses.push((*range, (!readable).then_some(Fate::Left)));
    }
    let mut copies = Vec::new();
    let mut at = step.range.start();
    let ends = held.iter().map(|r| (r.start(), r.end())).chain([(step.range.end(), step.range.end())]);
    for (until, next) in ends {
        if let Some(part) = Range::between(at, until).and_then(|solid| step.clip(solid)) {
            let copy = copy_of(session, &part)?;
            let copied = salvager.copy(&copy, options.observer, &mut *progress)?;
            if let Some(lost) = copied.lost.first() {
                return Err(EngineError::Device(format!(
                    "sectors {lost} cannot be read from {}: they stay on the spare, and nothing was changed",
                    copy.source.name()
                ))
                .into());
            }
            copies.push((copy, copied));
        }
        at = next;
    }
    work.losses.extend(losses);
    for part in held.iter().filter_map(|range| step.clip(*range)) {
        work.tombstones.push(copy_of(session, &part)?);
    }
    Ok(copies)
}

fn main_reads(session: &Session<'_>, range: Range) -> Result<bool, EngineError> {
    let mut buf = AlignedBuffer::new(range.len().to_usize_bytes().unwrap_or(0));
    match session.main.disk.read(range.start(), &mut buf) {
        Ok(()) => Ok(true),
        Err(error) => match error.class() {
            crate::block::FaultClass::Medium | crate::block::FaultClass::Ambiguous => Ok(false),
            _ => Err(EngineError::Transport(error)),
        },
    }
}

/// Finds another slot for a move whose slot is bad; the bad sectors are recorded and never used again.
fn replace_slot(
    session: &mut Session<'_>,
    work: &Attempt,
    queue: &[(Move, u32)],
    step: &Move,
    spare: SpareIndex,
    bad: Vec<Range>,
) -> Result<Vec<Move>, EngineError> {
    let runs = session.metadata.bad_blocks.entry(spare).or_default();
    runs.extend(bad);
    *runs = coalesce(std::mem::take(runs));
    let pending: Vec<Move> = work.moves.iter().chain(queue.iter().map(|(m, _)| m)).copied().collect();
    let reserved = apply(&session.metadata.map, &pending, &[])?;
    let view = Metadata { map: reserved, ..session.metadata.clone() };
    let mut pool = Pool::new(&view, |index| session.spare(index).is_some());
    let parts =
        pool.allocate(step.range).map_err(|full| Refusal::NoFreeSlot { needed: step.range.len(), free: full.free })?;
    Ok(parts.into_iter().map(|part| Move { range: part.range, from: step.from, to: Home::Slot(part.slot) }).collect())
}

/// Copies again what was written while it was copied, until little is left for the window.
fn follow_writes<'a>(
    mut watch: Option<DirtyWatch<'a>>,
    work: &mut Attempt,
    salvager: &mut Salvager,
    options: &SpliceOptions<'_>,
) -> Result<Option<DirtyWatch<'a>>, EngineError> {
    let Some(counter) = &mut watch else { return Ok(watch) };
    let mut changed = vec![false; counter.areas()];
    for _ in 0..LIVE_PASSES {
        changed.fill(false);
        if counter.refresh(&mut changed).is_err() {
            return Ok(None);
        }
        let mut again = 0;
        for (copy, copied) in &mut work.copies {
            let areas = counter.areas_of(copy.range);
            if changed.get(areas).unwrap_or_default().contains(&true) {
                *copied = salvager.copy(copy, options.observer, |_| {}).map_err(|fault| match fault {
                    CopyFault::Stop(error) => error,
                    CopyFault::Destination { why, .. } => EngineError::Device(why),
                })?;
                again += 1;
            }
        }
        if again == 0 {
            break;
        }
    }
    Ok(watch)
}

/// The map after this attempt; also flushes what was copied, and fills in what was lost.
fn next_map(
    session: &Session<'_>,
    plan: &MovePlan,
    work: &mut Attempt,
    outcome: &mut SpliceOutcome,
) -> Result<Map, EngineError> {
    let lost = coalesce(work.copies.iter().flat_map(|(_, copied)| copied.lost.clone()).collect());
    let recovered = work.copies.iter().map(|(_, c)| c.recovered.0).fold(0, u64::saturating_add);
    outcome.recovered = Sectors(recovered);
    let fate = match plan.unreadable {
        UnreadablePolicy::Hold => Fate::Held,
        UnreadablePolicy::Zero => Fate::Zeroed,
        UnreadablePolicy::Leave => Fate::Left,
    };
    if plan.kind == MoveKind::Remap {
        if fate == Fate::Left {
            leave_units(&session.metadata.map, work, &lost);
        }
        work.losses.extend(lost.iter().map(|range| (*range, Some(fate))));
        outcome.lost = lost.into_iter().map(|range| Loss { range, fate }).collect();
    } else {
        let left = work.losses.iter().filter_map(|(range, fate)| Some(Loss { range: *range, fate: (*fate)? }));
        outcome.lost = left.collect();
    }
    for disk in destinations(work) {
        disk.flush()?;
    }
    let mut map = apply(&session.metadata.map, &work.moves, &[])?;
    for (range, fate) in &work.losses {
        match fate {
            Some(fate) => map.record_loss(*range, *fate)?,
            None => map.clear_loss(*range),
        }
    }
    Ok(map)
}

/// Takes the units that hold lost sectors out of the moves: they stay on main.
fn leave_units(map: &Map, work: &mut Attempt, lost: &[Range]) {
    let units: Vec<Range> = lost.iter().filter_map(|r| r.widen_to(map.unit(), map.main_len())).collect();
    let units = coalesce(units);
    let keep = |range: Range| -> Vec<Range> {
        let mut parts = Vec::new();
        let mut at = range.start();
        for unit in units.iter().filter(|u| u.overlaps(range)) {
            parts.extend(Range::between(at, unit.start()));
            at = unit.end();
        }
        parts.extend(Range::between(at, range.end()));
        parts
    };
    let moves = std::mem::take(&mut work.moves);
    work.moves = moves.iter().flat_map(|m| keep(m.range).into_iter().filter_map(|p| m.clip(p))).collect();
    let copies = std::mem::take(&mut work.copies);
    for (copy, _) in copies {
        for part in keep(copy.range) {
            let skipped = part.start().saturating_sub(copy.range.start());
            let shift = |at: Sectors| Sectors(at.0.saturating_add(skipped.0));
            let copy = Copy { range: part, from: shift(copy.from), to: shift(copy.to), ..copy.clone() };
            work.copies.push((copy, Copied::default()));
        }
    }
}

fn destinations(work: &Attempt) -> Vec<Arc<dyn Disk>> {
    let mut out: Vec<Arc<dyn Disk>> = Vec::new();
    for (copy, _) in &work.copies {
        if !out.iter().any(|d| Arc::ptr_eq(d, &copy.destination)) {
            out.push(copy.destination.clone());
        }
    }
    out
}

/// Loads the new table, runs the window, and takes note of how it ended.
fn run_window(
    session: &mut Session<'_>,
    plan: &MovePlan,
    work: Attempt,
    watch: Option<DirtyWatch<'_>>,
    next_map: Map,
    options: &SpliceOptions<'_>,
    outcome: &mut SpliceOutcome,
) -> Result<Option<()>, EngineError> {
    let dm = session.dm;
    let name = session.name.clone();
    let old_map = session.metadata.map.clone();
    let new = next_metadata(session, plan, &work, next_map, outcome);
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
    let table = setup_table(&new.map, &devices, session.layout)?;
    let ranges: Vec<Range> = work.moves.iter().map(|m| m.range).collect();
    let emergency = unsettled_table(&old_map, &devices, &ranges, session.layout)?;
    let window = dm.window(&name, Some(&emergency))?;
    dm.load(&name, &table, false)?;
    // A table that stays loaded would be swapped in by anybody's next resume, without its map.
    match dm.table(&name, TableSlot::Inactive) {
        Ok(taken) if taken == table => {}
        other => {
            dm.clear(&name).or_else(|_| dm.clear(&name))?;
            return Err(other.map_or_else(EngineError::from, |_| EngineError::TableNotTaken(name)));
        }
    }
    let targets = session.commit_targets();
    let areas = watch.as_ref().map_or(0, DirtyWatch::areas);
    let moves = work.moves.clone();
    let mut job = WindowJob {
        window: &*window,
        commit: Commit::new(targets.clone(), new_encoded),
        revert: Commit::new(targets, old_encoded),
        destinations: destinations(&work),
        copies: recopies(work, watch.as_ref()),
        watch,
        changed: vec![false; areas],
        setup: session.setup(),
        data: AlignedBuffer::new(WINDOW_CHUNK),
        check: AlignedBuffer::new(WINDOW_CHUNK),
    };
    let end = options.runner.run(&mut job);
    drop(job);
    drop(window);
    let end = match end {
        Ok(end) => end,
        Err(error) => {
            dm.clear(&name)?;
            return Err(EngineError::system("cannot begin the swap", error));
        }
    };
    match end {
        WindowEnd::Swapped(report) => {
            session.adopt(new, new_digest);
            outcome.moved = moves;
            let name = session.name.clone();
            after_swap(session, &old_map, &report, options, outcome)
                .map_err(|error| EngineError::AfterSwap { name, source: Box::new(error) })?;
            Ok(Some(()))
        }
        WindowEnd::Undone(UndoCause::Unsteady(_)) => Ok(None),
        other => Err(not_swapped(session, other, old, old_digest)),
    }
}

fn next_metadata(
    session: &Session<'_>,
    plan: &MovePlan,
    work: &Attempt,
    map: Map,
    outcome: &SpliceOutcome,
) -> Metadata {
    let mut new = session.metadata.next(now(), session.digest);
    let moved = work.moves.iter().map(|m| m.range.len().0).fold(0, u64::saturating_add);
    let health = &mut new.health;
    health.splices = health.splices.saturating_add(1);
    match plan.kind {
        MoveKind::Remap => health.sectors_moved = health.sectors_moved.saturating_add(moved),
        MoveKind::Restore => health.sectors_restored = health.sectors_restored.saturating_add(moved),
    }
    let lost = outcome.lost.iter().map(|l| l.range.len().0).fold(0, u64::saturating_add);
    health.sectors_lost = health.sectors_lost.saturating_add(lost);
    health.sectors_recovered = health.sectors_recovered.saturating_add(outcome.recovered.0);
    new.map = map;
    new
}

/// What the window may have to copy again; what is held on the source is checked to be so still.
fn recopies(work: Attempt, watch: Option<&DirtyWatch<'_>>) -> Vec<Recopy> {
    let areas_of = |range| watch.map_or(0..0, |w| w.areas_of(range));
    let copied = work.copies.into_iter().map(|(copy, copied)| Recopy {
        areas: areas_of(copy.range),
        gaps: copied.lost.iter().map(|r| (*r, Gap::Unreadable)).collect(),
        copy,
    });
    let held = work.tombstones.into_iter().map(|copy| Recopy {
        areas: areas_of(copy.range),
        gaps: vec![(copy.range, Gap::Tombstone)],
        copy,
    });
    copied.chain(held).collect()
}

/// What follows a swap: checks, the private devices, spares that did not take the commit.
fn after_swap(
    session: &mut Session<'_>,
    old_map: &Map,
    report: &CommitReport,
    options: &SpliceOptions<'_>,
    outcome: &mut SpliceOutcome,
) -> Result<(), EngineError> {
    // Each of these must be done whatever becomes of the others.
    let live = session.check_live();
    let held = held::sync_all(session, Some(old_map), &[&session.metadata.map], options.observer);
    outcome.failed_spares = session.mark_failed_spares(report)?;
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
