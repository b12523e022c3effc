//! The copying of a splice: what is salvaged, what is copied again because it was written meanwhile, and what the map
//! will say.
//!
//! Invariants:
//! - what was salvaged once is not read again from a failing disk, unless it was written since, or the spare that it was
//!   copied to is in trouble as a whole;
//! - a block that was salvaged is never replaced by a tombstone, unless it was written since and cannot be read now.

mod queue;

pub(super) use queue::copy_all;

use super::dirty::DirtyWatch;
use super::give_up::give_up;
use super::salvage::{Copied, Copy, CopyFault, Filling, Salvager, join_records};
use super::splice::{SpliceOptions, SpliceOutcome};
use super::window::{Gap, Recopy};
use super::{EngineError, Member, Session};
use crate::block::buffer::AlignedBuffer;
use crate::block::{Disk, FaultClass};
use crate::format::metadata::{SpareState, UnreadablePolicy};
use crate::map::{Fate, Loss, Map, Slot, SpareIndex};
use crate::plan::moves::apply;
use crate::plan::{Home, Move, MoveKind, MovePlan, Refusal};
use crate::units::{DevNo, Range, SECTOR_SIZE, Sectors, coalesce};
use std::sync::Arc;

/// How often what was written meanwhile is copied again before the device is suspended.
const LIVE_PASSES: u32 = 16;

/// The most sectors that may be left to copy in the window (16 MiB): more would stall the applications too long.
const WINDOW_BUDGET: Sectors = Sectors(32_768);

/// What was copied so far. It lasts over several attempts at the window.
#[derive(Debug)]
pub(super) struct Work<'a> {
    moves: Vec<Move>,
    copies: Vec<(Copy, Copied)>,
    /// What becomes of held ranges in a restore: no fate when main has their data again.
    losses: Vec<(Range, Option<Fate>)>,
    /// Parts of a restore whose slots hold tombstones: they are not copied, only watched.
    tombstones: Vec<Copy>,
    /// Spares that are in trouble as a whole: no more is put there by this plan.
    avoided: Vec<SpareIndex>,
    /// Whether all that was copied was flushed since.
    pub(super) flushed: bool,
    /// Counts writes; without it everything is copied again in the window.
    pub(super) watch: Option<DirtyWatch<'a>>,
    /// Areas of the watch that were written and not copied again yet.
    pub(super) changed: Vec<bool>,
}

/// What is ready to be swapped in.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) moves: Vec<Move>,
    pub(super) copies: Vec<Recopy>,
    pub(super) destinations: Vec<Arc<dyn Disk>>,
    pub(super) map: Map,
}

impl<'a> Work<'a> {
    /// Nothing copied yet; counts the writes to the moves from now on.
    fn watching(session: &Session<'a>, moves: &[Move]) -> Work<'a> {
        let ranges = moves.iter().map(|m| m.range).collect();
        // Without the kernel's statistics everything is copied again in the window: slower, and as safe.
        let watch = DirtyWatch::start(session.dm, &session.name, ranges, session.metadata.map.unit()).ok();
        let changed = vec![false; watch.as_ref().map_or(0, DirtyWatch::areas)];
        Work {
            moves: Vec::new(),
            copies: Vec::new(),
            losses: Vec::new(),
            tombstones: Vec::new(),
            avoided: Vec::new(),
            flushed: false,
            watch,
            changed,
        }
    }

    /// Whether all that was copied may still live where it was copied to.
    pub(super) fn may_stay(&self, session: &Session<'_>, plan: &MovePlan) -> bool {
        self.moves.iter().all(|step| match step.to {
            Home::Main => true,
            Home::Slot(slot) => may_go_to(session, plan, slot.spare),
        })
    }

    /// Whether a spare was found in trouble as a whole.
    pub(super) fn avoids_spares(&self) -> bool {
        !self.avoided.is_empty()
    }

    fn sectors(&self) -> Sectors {
        Sectors(self.copies.iter().map(|(copy, _)| copy.range.len().0).fold(0, u64::saturating_add))
    }
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

fn copy_of(session: &Session<'_>, step: &Move, filling: Filling) -> Result<Copy, EngineError> {
    let (source, from) = locate(session, step.from, step.range)?;
    let (destination, to) = locate(session, step.to, step.range)?;
    Ok(Copy { range: step.range, source, from, destination, to, filling })
}

/// The copy of a move from a spare that is missing and given up: nothing of it can be read.
fn copy_from_nowhere(session: &Session<'_>, step: &Move, slot: Slot, filling: Filling) -> Result<Copy, EngineError> {
    let missing = Member::gone(&format!("spare {}", slot.spare), DevNo { major: 0, minor: 0 });
    let (destination, to) = locate(session, step.to, step.range)?;
    Ok(Copy { range: step.range, source: give_up(&missing).disk, from: slot.start, destination, to, filling })
}

/// What takes the place of blocks that are lost by this plan.
fn filling_of(session: &Session<'_>, plan: &MovePlan) -> Filling {
    match plan.unreadable {
        UnreadablePolicy::Zero => Filling::Zeros,
        _ => Filling::Tombstones(session.setup()),
    }
}

/// The held sectors inside `range`, in order.
fn held_in(map: &Map, range: Range) -> Vec<Range> {
    map.losses().within(range).filter(|loss| loss.fate.is_held()).map(|loss| loss.range).collect()
}

/// Whether extents may move to a spare by this plan: it is there and takes new ones, and the plan does not keep to others.
fn may_go_to(session: &Session<'_>, plan: &MovePlan, index: SpareIndex) -> bool {
    session.is_there(index)
        && session.metadata.spare(index).is_some_and(|record| record.state == SpareState::Present)
        && plan.only_to.as_ref().is_none_or(|only| only.contains(&index))
}

/// How copying several moves together went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joined {
    /// They are copied.
    Copied,
    /// The spare did not keep something of them: each has to be copied alone, to see which.
    Refused,
}

fn copy_run(
    session: &Session<'_>,
    plan: &MovePlan,
    run: &[Move],
    salvager: &mut Salvager,
    options: &SpliceOptions<'_>,
    work: &mut Work<'_>,
) -> Result<Joined, EngineError> {
    let filling = filling_of(session, plan);
    let copies: Vec<Copy> = run.iter().map(|step| copy_of(session, step, filling)).collect::<Result<_, _>>()?;
    match salvager.copy_joined(&copies, options.observer) {
        Ok(copied) => {
            work.moves.extend(run);
            work.copies.extend(copies.into_iter().zip(copied));
            Ok(Joined::Copied)
        }
        Err(CopyFault::Destination { .. } | CopyFault::Device(_)) => Ok(Joined::Refused),
        Err(CopyFault::Stop(error)) => Err(error),
    }
}

/// Copies a move into its slot. A slot that is left may hold tombstones: they are copied like data, for they tell their
/// sector of the setup; where one cannot be read it is made anew, because what was held is never zeroed.
fn copy_to_spare(
    session: &Session<'_>,
    plan: &MovePlan,
    step: &Move,
    salvager: &mut Salvager,
    options: &SpliceOptions<'_>,
    progress: &mut dyn FnMut(Sectors),
) -> Result<Vec<(Copy, Copied)>, CopyFault> {
    let filling = filling_of(session, plan);
    let held = held_in(&session.metadata.map, step.range);
    let solid = step.range.without(&held).into_iter().map(|range| (range, filling));
    let tombstones = held.iter().map(|range| (*range, Filling::Tombstones(session.setup())));
    let parts: Vec<(Range, Filling)> = match filling {
        Filling::Zeros => solid.chain(tombstones).collect(),
        Filling::Tombstones(_) => vec![(step.range, filling)],
    };
    let mut copies = Vec::new();
    for (range, filling) in parts {
        let Some(part) = step.clip(range) else { continue };
        let copy = match (plan.kind, part.from) {
            (MoveKind::GiveUp, Home::Slot(slot)) if session.spare(slot.spare).is_none() => {
                copy_from_nowhere(session, &part, slot, filling)?
            }
            _ => copy_of(session, &part, filling)?,
        };
        let copied = salvager.copy(&copy, options.observer, &mut *progress)?;
        copies.push((copy, copied));
    }
    Ok(copies)
}

/// Copies all but what is held: of that main must be able to say something itself, or the move is left out.
fn copy_to_main(
    session: &Session<'_>,
    plan: &MovePlan,
    step: &Move,
    salvager: &mut Salvager,
    options: &SpliceOptions<'_>,
    progress: &mut dyn FnMut(Sectors),
    work: &mut Work<'_>,
) -> Result<Vec<(Copy, Copied)>, CopyFault> {
    let map = &session.metadata.map;
    if let Some(stale) = map.losses().within(step.range).find(|loss| loss.fate == Fate::HeldStale) {
        return Err(EngineError::from(Refusal::HeldStale(stale.range)).into());
    }
    let held = held_in(map, step.range);
    let filling = filling_of(session, plan);
    let mut losses = Vec::new();
    for range in &held {
        let unreadable = unreadable_on_main(session, *range)?;
        if let Some(first) = unreadable.first()
            && plan.unreadable != UnreadablePolicy::Leave
        {
            return Err(EngineError::from(Refusal::HeldUnreadable(*first)).into());
        }
        losses.push((*range, None));
        losses.extend(unreadable.into_iter().map(|range| (range, Some(Fate::Left))));
    }
    let mut copies = Vec::new();
    let mut at = step.range.start();
    let ends = held.iter().map(|r| (r.start(), r.end())).chain([(step.range.end(), step.range.end())]);
    for (until, next) in ends {
        if let Some(part) = Range::between(at, until).and_then(|solid| step.clip(solid)) {
            let copy = copy_of(session, &part, filling)?;
            let copied = salvager.copy(&copy, options.observer, &mut *progress)?;
            if let Some(lost) = copied.lost().first() {
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
        work.tombstones.push(copy_of(session, &part, filling)?);
    }
    Ok(copies)
}

/// The held sectors that main cannot read.
fn unreadable_on_main(session: &Session<'_>, range: Range) -> Result<Vec<Range>, EngineError> {
    let disk = &session.main.disk;
    let reads = |part: Range, buf: &mut [u8]| match disk.read(part.start(), buf) {
        Ok(()) => Ok(true),
        Err(error) => match error.class() {
            FaultClass::Medium | FaultClass::Ambiguous => Ok(false),
            _ => Err(EngineError::Transport(error)),
        },
    };
    let block = session.block();
    let mut buf = AlignedBuffer::new(128 * SECTOR_SIZE);
    let mut found = Vec::new();
    for part in range.chunks(Sectors(128).align_down(block).max(block)) {
        let bytes = part.len().to_usize_bytes().unwrap_or(0);
        if reads(part, buf.get_mut(..bytes).unwrap_or_default())? {
            continue;
        }
        for part in part.chunks(block) {
            let bytes = part.len().to_usize_bytes().unwrap_or(0);
            if !reads(part, buf.get_mut(..bytes).unwrap_or_default())? {
                found.push(part);
            }
        }
    }
    Ok(coalesce(found))
}

/// Copies again what was written while it was copied, until little is left for the window.
///
/// # Errors
/// [`EngineError::Unsteady`] when it is written faster than it can be copied.
pub(super) fn follow_writes(
    session: &Session<'_>,
    work: &mut Work<'_>,
    salvager: &mut Salvager,
    options: &SpliceOptions<'_>,
) -> Result<(), EngineError> {
    let mut left = Sectors::ZERO;
    for _ in 0..LIVE_PASSES {
        let Some(watch) = &mut work.watch else { break };
        if watch.refresh(&mut work.changed).is_err() {
            work.watch = None;
            break;
        }
        left = Sectors::ZERO;
        for (copy, copied) in &mut work.copies {
            for area in watch.areas_of(copy.range).filter(|area| work.changed.get(*area) == Some(&true)) {
                let part = watch.area_range(area).and_then(|range| copy.clip(range));
                let Some(part) = part else { continue };
                left = Sectors(left.0.saturating_add(part.range.len().0));
                work.flushed = false;
                copied.replace(part.range, copy_again(salvager, &part, options)?);
            }
        }
        work.changed.fill(false);
        if left == Sectors::ZERO {
            break;
        }
    }
    if work.watch.is_none() {
        left = work.sectors();
    }
    if left > WINDOW_BUDGET {
        return Err(if work.watch.is_none() {
            EngineError::Device(format!(
                "this kernel does not count writes (dm-stats), so at most {WINDOW_BUDGET} sectors can be moved at a time; {left} were asked for. Nothing was changed"
            ))
        } else {
            EngineError::Unsteady(session.name.clone())
        });
    }
    Ok(())
}

fn copy_again(salvager: &mut Salvager, part: &Copy, options: &SpliceOptions<'_>) -> Result<Copied, EngineError> {
    salvager.copy_again(part, options.observer).map_err(|fault| match fault {
        CopyFault::Stop(error) | CopyFault::Device(error) => error,
        CopyFault::Destination { why, .. } => EngineError::Device(format!("{why}. Nothing was changed")),
    })
}

/// What the window needs, and the map after it; flushes what was copied since the last time.
pub(super) fn make_ready(
    session: &Session<'_>,
    plan: &MovePlan,
    work: &Work<'_>,
    outcome: &mut SpliceOutcome,
) -> Result<Ready, EngineError> {
    let lost = coalesce(work.copies.iter().flat_map(|(_, copied)| copied.lost()).collect());
    let recovered = work.copies.iter().map(|(_, copied)| copied.recovered().0).fold(0, u64::saturating_add);
    outcome.recovered = Sectors(recovered);
    outcome.blocks = join_records(work.copies.iter().flat_map(|(_, copied)| copied.blocks.clone()).collect());
    let fate = match plan.unreadable {
        UnreadablePolicy::Hold => Fate::Held,
        UnreadablePolicy::Zero => Fate::Zeroed,
        UnreadablePolicy::Leave => Fate::Left,
    };
    let map = &session.metadata.map;
    let mut losses = work.losses.clone();
    let mut stays = Vec::new();
    match plan.kind {
        MoveKind::Restore => {}
        MoveKind::Remap => {
            if fate == Fate::Left {
                stays = units_of(map, &lost);
            }
            losses.extend(lost.into_iter().map(|range| (range, Some(fate))));
        }
        MoveKind::Compact => {
            // What was held moves along. Nothing is lost by this: an extent that does not read stays where it is.
            let held: Vec<Range> = lost.iter().flat_map(|range| held_in(map, *range)).collect();
            losses.extend(held.iter().map(|range| (*range, Some(Fate::HeldStale))));
            let fresh: Vec<Range> = lost.iter().flat_map(|range| range.without(&held)).collect();
            let hit = work.moves.iter().map(|m| m.range).filter(|r| fresh.iter().any(|lost| lost.overlaps(*r)));
            stays = hit.collect();
            outcome.dropped.retain(|(range, _)| !stays.contains(range));
            let why = "it cannot be read from its slot, and stays there: 'dm-remap scan' moves it".to_string();
            outcome.dropped.extend(stays.iter().map(|range| (*range, why.clone())));
            losses.retain(|(range, _)| !stays.iter().any(|extent| extent.overlaps(*range)));
        }
        MoveKind::Evacuate | MoveKind::GiveUp => {
            // What was held before stays so, whatever the policy. Nobody knows whether it was written since: its slot does
            // not read.
            let held: Vec<Range> = lost.iter().flat_map(|range| held_in(map, *range)).collect();
            let fresh: Vec<Range> = lost.iter().flat_map(|range| range.without(&held)).collect();
            losses.extend(held.into_iter().map(|range| (range, Some(Fate::HeldStale))));
            let fate = if fate == Fate::Held { Fate::HeldStale } else { fate };
            if fate == Fate::Left {
                stays = units_of(map, &fresh);
                let why = "it cannot be read from its slot, and stays there".to_string();
                outcome.dropped = stays.iter().map(|range| (*range, why.clone())).collect();
                losses.retain(|(range, _)| !stays.iter().any(|unit| unit.overlaps(*range)));
            } else {
                losses.extend(fresh.into_iter().map(|range| (range, Some(fate))));
            }
        }
    }
    outcome.lost = losses.iter().filter_map(|(range, fate)| Some(Loss { range: *range, fate: (*fate)? })).collect();
    let moves: Vec<Move> =
        work.moves.iter().flat_map(|m| m.range.without(&stays).into_iter().filter_map(|part| m.clip(part))).collect();
    let destinations = destinations(work);
    for disk in destinations.iter().filter(|_| !work.flushed) {
        disk.flush()?;
    }
    let mut map = apply(&session.metadata.map, &moves, &[])?;
    for (range, fate) in losses {
        match fate {
            Some(fate) => map.record_loss(range, fate)?,
            None => map.clear_loss(range),
        }
    }
    Ok(Ready { moves, copies: recopies(session, work, &stays), destinations, map })
}

/// Whole units that cover the ranges.
fn units_of(map: &Map, ranges: &[Range]) -> Vec<Range> {
    coalesce(ranges.iter().filter_map(|r| r.widen_to(map.unit(), map.main_len())).collect())
}

fn destinations(work: &Work<'_>) -> Vec<Arc<dyn Disk>> {
    let mut out: Vec<Arc<dyn Disk>> = Vec::new();
    for (copy, _) in &work.copies {
        if !out.iter().any(|d| Arc::ptr_eq(d, &copy.destination)) {
            out.push(copy.destination.clone());
        }
    }
    out
}

/// What the window may have to copy again; what is held on the source is checked to be so still.
fn recopies(session: &Session<'_>, work: &Work<'_>, stays: &[Range]) -> Vec<Recopy> {
    let areas_of = |range| work.watch.as_ref().map_or(0..0, |w| w.areas_of(range));
    let copied = work.copies.iter().flat_map(|(copy, copied)| {
        let parts = copy.range.without(stays).into_iter().filter_map(|part| copy.clip(part));
        let lost = copied.lost();
        parts.map(move |part| {
            let held = held_in(&session.metadata.map, part.range);
            let tombstones = held.iter().flat_map(|r| r.without(&lost)).map(|r| (r, Gap::Tombstone));
            let unreadable = lost.iter().filter_map(|r| Some((r.intersect(part.range)?, Gap::Unreadable)));
            let mut gaps: Vec<(Range, Gap)> = tombstones.chain(unreadable).collect();
            gaps.sort_unstable_by_key(|(range, _)| *range);
            Recopy { areas: areas_of(part.range), gaps, copy: part }
        })
    });
    let held = work.tombstones.iter().map(|copy| Recopy {
        areas: areas_of(copy.range),
        gaps: vec![(copy.range, Gap::Tombstone)],
        copy: copy.clone(),
    });
    copied.chain(held).collect()
}
